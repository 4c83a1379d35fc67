"""Comparing partitions with a region when somebody owes it; for ``kvnode.services.settling``.

An owner counts its comparisons as they begin. Whoever is owed one asks with the count that was told
it first: a comparison that began later, with each owner in the region, is what it waits for.
"""

from collections.abc import Sequence

from cluster.ids import NodeId
from cluster.layout import Rings
from kvnode.replica import Replica
from kvnode.rpc.operations import Fields


class Levelling:
    """What one owner has compared, and what it is asked to compare before its turn."""

    def __init__(self, replica: Replica, rings: Rings) -> None:
        self._replica = replica
        self._rings = rings
        self._count = 0
        #: By partition and peer, the number of the last complete comparison.
        self._complete: dict[tuple[int, NodeId], int] = {}
        #: By peer, what somebody waits for.
        self._wanted: dict[NodeId, dict[int, None]] = {}

    def answer(self, region: str, rows: Sequence[Sequence[object]]) -> Fields:
        """[count, [whether it is done]] for [partition, count told before or nil] rows.

        Raises ValueError for what is no such question.
        """
        if region not in self._rings.by_region:
            raise ValueError("no such region")
        done = []
        for partition, since in rows:
            if not (isinstance(partition, int) and 0 <= partition < self._rings.partitions):
                raise ValueError("no such partition")
            if not (since is None or isinstance(since, int)):
                raise TypeError("not a count")
            done.append(self._is_level(region, partition, self._count if since is None else since))
        return [self._count, done]

    def _is_level(self, region: str, partition: int, since: int) -> bool:
        missing = [
            peer
            for peer in self._rings.owners_in(region, partition)
            if self._complete.get((partition, peer), 0) <= since
        ]
        if self._replica.owns(partition):
            for peer in missing:
                self._wanted.setdefault(peer, {})[partition] = None
        return not missing

    def review(self) -> None:
        """Owners have changed: what they compared until now may not have been all there was."""
        self._complete.clear()

    # For anti-entropy ---------------------------------------------------------------------------

    def wanted(self, peer: NodeId, limit: int) -> list[int]:
        """Partitions to compare with a peer before their turn."""
        fenced = self._replica.fenced  # rebuilt first: what a fenced copy has, others don't lack
        return [one for one in self._wanted.get(peer, ()) if not fenced[one]][:limit]

    def begins(self) -> int:
        """The number of a comparison that begins now."""
        self._count += 1
        return self._count

    def ended(self, peer: NodeId, number: int, complete: Sequence[int]) -> None:
        """A comparison has ended; a fenced copy has nothing that others may lack."""
        for partition in complete:
            if not self._replica.fenced[partition]:
                self._complete[partition, peer] = number
                self._wanted.get(peer, {}).pop(partition, None)
