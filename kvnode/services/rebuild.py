"""Fenced partitions: from whom they are still to be rebuilt, and when their fences fall.

Rules
-----
1. A fenced partition is rebuilt once it was compared with every co-owner that is up and not fenced
   itself, and with at least one. Two that are fenced can't wait for each other: the third may be
   sound, and then each takes what it has. Owners in other regions count like those in its own: a
   region whose disks are all lost is rebuilt from another.
2. What was compared before fences were raised anew does not count.
3. When all owners are fenced nobody has anything to rebuild from: an operator must choose one.

``kvnode.services.antientropy`` does the comparing.
"""

from collections.abc import Callable, Container, Iterable, Sequence
from typing import Final

import msgspec

from cluster.ids import NodeId, PartitionId
from cluster.layout import Rings
from kvnode.errors import Refused
from kvnode.jobs import Job, Jobs
from kvnode.log import Log
from kvnode.replica import Replica

#: Between two passes over the same fenced partitions.
_PAUSE_S: Final = 1.0


class _Pass(msgspec.Struct):
    """Going through the fenced partitions that are shared with one peer."""

    last: int = -1
    #: When the next pass may begin.
    due_s: float = 0.0


class Rebuild:
    """One node's fences.

    Args:
        is_up: Whether requests to a node have a chance now.
    """

    def __init__(
        self,
        replica: Replica,
        rings: Rings,
        node: NodeId,
        is_up: Callable[[NodeId], bool],
        log: Log,
    ) -> None:
        self._replica = replica
        self._rings = rings
        self._node = node
        self._is_up = is_up
        self._log = log
        #: How often all fences were raised.
        self.begun = 0
        #: Of each fenced partition, the co-owners that were asked since: whether the two were
        #: compared to the end. Not, if the other one is fenced too.
        self._asked: dict[int, dict[NodeId, bool]] = {}
        self._passes: dict[NodeId, _Pass] = {}

    def fenced(self) -> list[PartitionId]:
        """Own partitions that are to be rebuilt."""
        owned = self._rings.partitions_of(self._node)
        return [partition for partition in owned if self._replica.fenced[partition]]

    def next_from(
        self, peer: NodeId, shared: Container[int], limit: int, now_s: float
    ) -> list[PartitionId]:
        """Some partitions to compare with a peer now; none while a pass has just ended."""
        for partition in list(self._asked):  # who is missing may be known to be down by now
            self._conclude(partition)
        going = self._passes.setdefault(peer, _Pass())
        if now_s < going.due_s or not any(self._replica.fenced):
            return []
        missing = [
            partition
            for partition in self.fenced()
            if partition in shared and not self._asked.get(partition, {}).get(peer, False)
        ]
        unit = [partition for partition in missing if partition > going.last][:limit]
        if unit:
            going.last = unit[-1]
        elif missing:  # the peer is fenced there itself, or was lost, or it is being written to
            going.last, going.due_s = -1, now_s + _PAUSE_S
        return unit

    def put_back(self, peer: NodeId, partitions: Sequence[int]) -> None:
        """Some of what ``next_from`` gave was not done."""
        if partitions:
            going = self._passes[peer]
            going.last = min(going.last, min(partitions) - 1)

    def raise_all(self) -> None:
        """Nothing here is to be believed before it was rebuilt; see rule 2."""
        self.raise_for(self._rings.partitions_of(self._node))

    def raise_for(self, partitions: Iterable[PartitionId]) -> None:
        """The same of some partitions; see rule 2."""
        for partition in partitions:
            self._replica.set_fenced(partition, True)
            self._asked.pop(partition, None)
        self.begun += 1

    def asked(self, partition: int, peer: NodeId, *, compared: bool) -> None:
        """A co-owner was asked about a partition; see rule 1."""
        if not self._replica.fenced[partition]:
            return
        self._asked.setdefault(partition, {})[peer] = compared
        self._conclude(partition)

    def _conclude(self, partition: int) -> None:
        """Lower a fence, if that is what rule 1 says by now."""
        if not self._replica.owns(partition):  # it was taken from this node meanwhile
            del self._asked[partition]
            return
        sources = self._asked[partition]
        owners = self._rings.owners(partition)
        others = [owner for owner in owners if owner != self._node and self._is_up(owner)]
        if any(sources.values()) and all(owner in sources for owner in others):
            self._lower(partition)
            if not self.fenced():
                self._log.info("node.rebuilt")

    def trust(self, jobs: Jobs) -> Job:
        """An operator says that what is here counts; others rebuild from it. See rule 3.

        Raises Refused while the node's region is gone.
        """
        if self._replica.standing.is_own_gone:
            raise Refused(f"region {self._replica.standing.own} is gone; say first that it is back")
        fenced = self.fenced()
        job = jobs.begin("trust", len(fenced), lambda: None)
        for partition in fenced:
            self._lower(partition)
        job.done = len(fenced)
        jobs.end(job)
        self._log.warning("node.trusted", partitions=len(fenced))
        return job

    def _lower(self, partition: int) -> None:
        self._asked.pop(partition, None)
        self._replica.set_fenced(partition, False)
