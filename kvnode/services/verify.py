"""Proving that what was removed is gone: ids that were swept are sampled and their owners asked.

Rules
-----
1. An id is verified when every owner says that it has nothing. Until all have, it is asked again.
2. A copy without a tombstone contradicts a purge's proof, and so does one that outlives its time to
   live. It is counted and logged as an error; nothing is removed: it is evidence.
3. A key may make a new document once the old one is gone: what was created after the removal is no
   copy of what was removed.
"""

from typing import Final

from cluster.ids import format_document_id
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
        """Ask about some of the ids that were removed last."""
        # The sweep goes on meanwhile, and forgets the oldest when it has too many.
        taken = [
            (family, document_id, before_ms)
            for family, sampled in self._sweep.sampled.items()
            for document_id, before_ms in list(sampled.items())[:_UNIT]
        ]
        for family, document_id, _ in taken:
            del self._sweep.sampled[family][document_id]
        asked = [self._owners.fetch(document_id) for _, document_id, _ in taken]
        for (family, document_id, before_ms), outcomes in zip(taken, asked, strict=True):
            answers = {node: await answer for node, answer in outcomes.items()}
            answers[self._owners.node] = list(self._replica.fetch(document_id, None))
            live = [node for node, answer in answers.items() if self._is_live(answer, before_ms)]
            if live:
                self.contradicted_count += 1
                document = format_document_id(document_id)
                self._log.error("purge.contradicted", document=document, holders=live)
            elif all(map(is_absent, answers.values())):
                self.verified_count += 1
            else:
                self._sweep.remember(family, document_id, before_ms)
        return Work.IDLE

    def _is_live(self, answer: Outcome, before_ms: int) -> bool:
        """Whether an owner serves what was removed here."""
        if isinstance(answer, Lost) or answer[0] != FetchResult.FOUND:
            return False
        ending = ending_of(answer[1])
        if ending.family is Family.DELETED or ending.created_at_ms > before_ms:
            return False
        past_ms = self._replica.lifecycle.surely_past_ms()
        return ending.family is Family.LASTING or ending.ends_at_ms > past_ms
