"""Where a partition's requests go right now: the ring joined with who can be reached.

Plans are cached by partition and dropped whenever a peer comes or goes, so a request looks up a
tuple and decides nothing.
"""

from collections.abc import Callable, Mapping

import msgspec

from cluster.ids import NodeId, PartitionId
from cluster.preference import Target, preference_list, read_order
from cluster.ring import Ring, fallbacks


class WritePlan(msgspec.Struct, frozen=True):
    """Whom to send a write to."""

    #: Up primaries and, for a sloppy quorum, stand-ins of the down ones.
    targets: tuple[Target, ...]
    #: Down primaries that nobody stands in for: the coordinator keeps their hints.
    uncovered: tuple[NodeId, ...]
    #: Up fallbacks that are no targets yet, to replace a target that fails.
    spares: tuple[NodeId, ...]
    #: How many more than W must have it, and primaries that don't count
    #: (``cluster.ringchange``, rule 2).
    more_acks: int = 0
    filling: tuple[NodeId, ...] = ()

    @property
    def countable(self) -> int:
        """How many acknowledgements there can be."""
        if not self.filling:
            return len(self.targets)
        return sum((one.hint_for or one.node) not in self.filling for one in self.targets)


class Placement:
    """Plans of one node (or of a client, whose ``self_node`` is None).

    Args:
        zones: Zone of every member of the region.
        is_up: Whether requests to a member have a chance now; always true for ``self_node``.
        latency_s: Recent answer times, for the order of reads; read when a plan is made.
    """

    def __init__(
        self,
        ring: Ring,
        self_node: NodeId | None,
        zones: Mapping[NodeId, str],
        is_up: Callable[[NodeId], bool],
        latency_s: Mapping[NodeId, float],
    ) -> None:
        self.self_node = self_node
        self._is_up = is_up
        self._latency_s = latency_s
        self._up: frozenset[NodeId] = frozenset()
        self._sloppy_writes: dict[int, WritePlan] = {}
        self._strict_writes: dict[int, WritePlan] = {}
        self._sloppy_reads: dict[int, tuple[Target, ...]] = {}
        self._strict_reads: dict[int, tuple[Target, ...]] = {}
        self.adopt(ring, zones)

    def adopt(self, ring: Ring, zones: Mapping[NodeId, str]) -> None:
        """Owners or members have changed."""
        self.ring = ring
        self._zones = zones
        owned = frozenset(ring.partitions_of(self.self_node) if self.self_node else ())
        self._owned = [partition in owned for partition in range(ring.partitions)]
        every = map(PartitionId, range(ring.partitions))
        #: Partitions that this node answers reads of.
        self.read_here = tuple(one for one in every if self.self_node in ring.readers(one))
        self._fallbacks: dict[int, tuple[NodeId, ...]] = {}
        self.refresh()

    def refresh(self) -> None:
        """A peer came or went, or latencies are to be looked at anew: forget all plans."""
        self._up = frozenset(node for node in self._zones if self._is_up(node))
        for plans in (self._sloppy_writes, self._strict_writes):
            plans.clear()
        for orders in (self._sloppy_reads, self._strict_reads):
            orders.clear()

    def owns(self, partition: int) -> bool:
        """Whether this node is a primary of the partition."""
        return self._owned[partition]

    def answers(self, partition: PartitionId) -> bool:
        """Whether this node is one of those that reads of the partition ask."""
        return self._owned[partition] and (
            partition not in self.ring.moves or self.self_node in self.ring.readers(partition)
        )

    def write_plan(self, partition: PartitionId, *, sloppy: bool) -> WritePlan:
        """Whom to send a write of this partition to."""
        plans = self._sloppy_writes if sloppy else self._strict_writes
        plan = plans.get(partition)
        if plan is None:
            plan = plans[partition] = self._plan_write(partition, sloppy=sloppy)
        return plan

    def read_plan(self, partition: PartitionId, *, sloppy: bool) -> tuple[Target, ...]:
        """Whom a read may ask, nearest first: every reader, the up ones in front.

        With ``sloppy``, stand-ins of down primaries follow the up ones: they may hold hints.
        """
        orders = self._sloppy_reads if sloppy else self._strict_reads
        order = orders.get(partition)
        if order is None:
            readers = self.ring.readers(partition)
            reachable = preference_list(
                readers, self._fallbacks_of(partition), self._up, sloppy=sloppy
            )
            near = read_order(reachable, self.self_node, self._zones, self._latency_s)
            far = tuple(Target(node) for node in readers if node not in self._up)
            order = orders[partition] = near + far
        return order

    def quorum_share(self, required: int) -> float:
        """The share of partitions of which at least ``required`` primaries are up."""
        return self.ring.quorum_share(required, self._up.__contains__)

    def under_replicated(self) -> int:
        """Partitions of which some primary is not up."""
        return self.ring.under_replicated(self._up.__contains__)

    def _fallbacks_of(self, partition: PartitionId) -> tuple[NodeId, ...]:
        found = self._fallbacks.get(partition)
        if found is None:
            found = self._fallbacks[partition] = fallbacks(self.ring, partition, self._zones)
        return found

    def _plan_write(self, partition: PartitionId, *, sloppy: bool) -> WritePlan:
        primaries = self.ring.primaries(partition)
        others = self._fallbacks_of(partition)
        targets = preference_list(primaries, others, self._up, sloppy=sloppy)
        used = [target.node for target in targets]
        served = [target.hint_for or target.node for target in targets]
        # This node comes first: its own copy costs no hop and answers a write of W=1.
        targets = tuple(sorted(targets, key=lambda target: target.node != self.self_node))
        return WritePlan(
            targets=targets,
            uncovered=tuple(node for node in primaries if node not in served),
            spares=tuple(node for node in others if node in self._up and node not in used)
            if sloppy
            else (),
            more_acks=self.ring.more_acks(partition),
            filling=self.ring.filling(partition),
        )
