"""Proving that what was purged is gone: purged ids are sampled and their owners asked.

Rules
-----
1. An id is verified when every owner says that it has nothing. Until all have, it is asked again.
2. A copy without a tombstone contradicts the purge's proof. It is counted and logged as an error;
   nothing is removed: it is evidence.
"""

from typing import Final

from kvnode.ending import Family, ending_of
from kvnode.log import Log
from kvnode.replica import Replica
from kvnode.rpc.connection import Lost, Outcome
from kvnode.rpc.operations import FetchResult
from kvnode.services.asking import CoOwners, is_absent
from kvnode.services.loop import Work
from kvnode.services.sweep import Sweep

_UNIT: Final = 16


class Verify:
    """A service (``kvnode.services.loop``)."""

    name = "verify"

    def __init__(
        self,
        replica: Replica,
        sweep: Sweep,
        owners: CoOwners,
        *,
        interval_s: float,
        log: Log,
    ) -> None:
        self.interval_s = interval_s
        self._replica = replica
        self._sweep = sweep
        self._owners = owners
        self._log = log
        self.verified_count = 0
        self.contradicted_count = 0

    async def run_once(self) -> Work:
        """Ask about some of the ids that were purged last."""
        # The sweep goes on meanwhile, and forgets the oldest when it has too many.
        taken = list(self._sweep.purged)[:_UNIT]
        for document_id in taken:
            del self._sweep.purged[document_id]
        asked = {document_id: self._owners.fetch(document_id) for document_id in taken}
        for document_id in taken:
            answers = {node: await answer for node, answer in asked[document_id].items()}
            answers[self._owners.node] = list(self._replica.fetch(document_id, None))
            live = [node for node, answer in answers.items() if _is_live(answer)]
            if live:
                self.contradicted_count += 1
                self._log.error("purge.contradicted", document=document_id.hex(), holders=live)
            elif all(map(is_absent, answers.values())):
                self.verified_count += 1
            else:
                self._sweep.remember(document_id)
        return Work.IDLE


def _is_live(answer: Outcome) -> bool:
    if isinstance(answer, Lost) or answer[0] != FetchResult.FOUND:
        return False
    return ending_of(answer[1]).family is not Family.DELETED
