"""Proving that what was purged is gone: purged ids are sampled and their owners asked.

Rules
-----
1. An id is verified when every owner says that it has nothing. Until all have, it is asked again.
2. A copy without a tombstone contradicts the purge's proof. It is counted and logged as an error;
   nothing is removed: it is evidence.
"""

from typing import Final

from cluster.ids import NodeId, partition_of
from cluster.ring import Ring
from kvnode.ending import Family, ending_of
from kvnode.log import Log
from kvnode.replica import Replica
from kvnode.rpc.connection import Lost
from kvnode.rpc.operations import FetchResult, Op
from kvnode.services.asking import Asker
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
        ring: Ring,
        node: NodeId,
        interval_s: float,
        asker: Asker,
        log: Log,
    ) -> None:
        self.interval_s = interval_s
        self._replica = replica
        self._sweep = sweep
        self._ring = ring
        self._node = node
        self._asker = asker
        self._log = log
        self.verified_count = 0
        self.contradicted_count = 0

    async def run_once(self) -> Work:
        """Ask about some of the ids that were purged last."""
        for document_id in list(self._sweep.purged)[:_UNIT]:
            del self._sweep.purged[document_id]
            owners = self._ring.primaries(partition_of(document_id, self._ring.partitions))
            others = [owner for owner in owners if owner != self._node]
            answers = await self._asker.ask_all(others, Op.FETCH, [document_id, None])
            found = [(node, answer) for node, answer in answers if not isinstance(answer, Lost)]
            found.append((self._node, list(self._replica.fetch(document_id, None))))
            live = [
                node
                for node, answer in found
                if answer[0] == FetchResult.FOUND
                and ending_of(answer[1]).family is not Family.DELETED
            ]
            if live:
                self.contradicted_count += 1
                self._log.error("purge.contradicted", document=document_id.hex(), holders=live)
            elif len(found) == len(owners) and all(
                answer[0] == FetchResult.ABSENT for _, answer in found
            ):
                self.verified_count += 1
            else:
                self._sweep.purged[document_id] = None
        return Work.IDLE
