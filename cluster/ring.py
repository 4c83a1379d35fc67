"""Who owns which partition: an immutable value that every node of a region agrees on.

A ring does not say who is up; ``cluster.preference`` combines it with what membership believes.

Rules
-----
1. A ring never changes. A change of owners is another ring with a higher epoch
   (``cluster.ringchange``).
2. Fallbacks are no part of a ring: they follow from the partition, its primaries and the zones,
   on every node alike.

Source: DeCandia et al., "Dynamo", SOSP 2007, sections 4.2 and 6.2 (strategy 3: fixed, equal
partitions). The order of fallbacks is rendezvous hashing: Thaler and Ravishankar, "Using
Name-Based Mappings to Increase Hit Rates", IEEE/ACM Transactions on Networking 6(1), 1998.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping

import msgspec

from cluster.ids import NodeId, PartitionId

#: By partition: its primaries in preference order.
Owners = tuple[tuple[NodeId, ...], ...]


class Move(msgspec.Struct, frozen=True):
    """A partition with one owner too many: it is on its way from one of them to another."""

    #: Whom reads ask, in preference order: as many as there are copies.
    readers: tuple[NodeId, ...]
    #: Owners whose acknowledgements don't count yet.
    filling: tuple[NodeId, ...]


class Ring(msgspec.Struct, frozen=True):
    """The owners of every partition in one region.

    Raises:
        ValueError: when the fields contradict each other (decoding reports it as
            ``msgspec.ValidationError``).
    """

    #: Grows with each change of owners; 1 is the ring of a new cluster.
    epoch: int
    #: A power of two, the same in every ring of a cluster.
    partitions: int
    #: Primaries of each partition (N); there are fewer where the region has fewer nodes.
    copies: int
    #: Everybody who is to have a partition: also one that it is moved to, or away from.
    owners: Owners
    #: By partition, while it is moved; see ``cluster.ringchange``.
    moves: Mapping[int, Move] = {}

    def __post_init__(self) -> None:
        if self.partitions < 1 or self.partitions & (self.partitions - 1):
            raise ValueError(f"partitions = {self.partitions} is not a power of two")
        if len(self.owners) != self.partitions:
            raise ValueError(f"{len(self.owners)} partitions have owners, not {self.partitions}")
        for partition, primaries in enumerate(self.owners):
            if not 1 <= len(primaries) - (partition in self.moves) <= self.copies:
                raise ValueError(
                    f"partition {partition} has {len(primaries)} owners, not 1..{self.copies}"
                )
            if len(frozenset(primaries)) != len(primaries):
                raise ValueError(f"partition {partition} names an owner twice: {primaries}")

    def primaries(self, partition: PartitionId) -> tuple[NodeId, ...]:
        """Distinct nodes in preference order: ``copies``, and one more while it is moved."""
        return self.owners[partition]

    def readers(self, partition: PartitionId) -> tuple[NodeId, ...]:
        """The primaries that reads ask."""
        move = self.moves.get(partition)
        return self.owners[partition] if move is None else move.readers

    def filling(self, partition: PartitionId) -> tuple[NodeId, ...]:
        """The primaries that have a partition's writes, and don't count."""
        move = self.moves.get(partition)
        return () if move is None else move.filling

    def voters(self, partition: PartitionId) -> tuple[NodeId, ...]:
        """The primaries that count."""
        filling = self.filling(partition)
        return tuple(node for node in self.owners[partition] if node not in filling)

    def more_acks(self, partition: PartitionId) -> int:
        """How many more than W must have a write, so that W of the readers before and after do."""
        move = self.moves.get(partition)
        if move is None:
            return 0
        return len(self.owners[partition]) - len(move.filling) - len(move.readers)

    def partitions_of(self, node: NodeId) -> tuple[PartitionId, ...]:
        """Every partition that ``node`` is a primary of, ascending. Reads the whole ring."""
        return tuple(
            PartitionId(partition)
            for partition, primaries in enumerate(self.owners)
            if node in primaries
        )

    def quorum_share(self, required: int, is_up: Callable[[NodeId], bool]) -> float:
        """The share of partitions of which at least ``required`` primaries are up."""
        served = 0
        for partition, primaries in enumerate(self.owners):
            move = self.moves.get(partition)
            readers = primaries if move is None else move.readers
            served += sum(map(is_up, readers)) >= min(required, len(readers))
        return served / self.partitions

    def under_replicated(self, is_up: Callable[[NodeId], bool]) -> int:
        """Partitions of which some primary is not up."""
        return sum(not all(map(is_up, primaries)) for primaries in self.owners)


def fallbacks(
    ring: Ring, partition: PartitionId, zones: Mapping[NodeId, str]
) -> tuple[NodeId, ...]:
    """The members that are no primaries of a partition, in the order in which they stand in.

    The next one always comes from a zone that has the fewest primaries and fallbacks so far, so
    a stand-in adds a zone where it can. Within that the order is another one for each partition:
    what one node served is spread over all the others when it fails.

    Args:
        zones: The zone of every member of the region. Its order does not matter.

    Costs a hash per member: callers keep the answer with the ring.
    """
    primaries = ring.primaries(partition)
    taken = Counter(zones[node] for node in primaries)
    others = sorted(
        (node for node in zones if node not in primaries),
        key=lambda node: (scatter(partition, node), node),
    )
    places: dict[NodeId, int] = {}
    for node in others:
        places[node] = taken[zones[node]]
        taken[zones[node]] += 1
    return tuple(sorted(others, key=places.__getitem__))


def scatter(partition: int, key: str) -> int:
    """A 64-bit number that looks random over both arguments, and is the same everywhere."""
    digest = hashlib.blake2b(f"{partition}/{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")
