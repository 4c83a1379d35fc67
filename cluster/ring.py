"""Who owns which partition: an immutable value that every node of a region agrees on.

A ring does not say who is up; ``cluster.preference`` combines it with what membership believes.

Rules
-----
1. A ring never changes. A change of owners is another ring with a higher epoch.
2. Rings are totally ordered (epoch, then digest), so nodes that exchange rings end with the
   same one, whichever way they travelled.
3. Fallbacks are no part of a ring: they follow from the partition, its primaries and the zones,
   on every node alike.

Source: DeCandia et al., "Dynamo", SOSP 2007, sections 4.2 and 6.2 (strategy 3: fixed, equal
partitions). The order of fallbacks is rendezvous hashing: Thaler and Ravishankar, "Using
Name-Based Mappings to Increase Hit Rates", IEEE/ACM Transactions on Networking 6(1), 1998.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from cluster.ids import NodeId, PartitionId

#: By partition: its primaries in preference order.
Owners = tuple[tuple[NodeId, ...], ...]

_DIGEST_BYTES: Final = 8


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
    owners: Owners

    def __post_init__(self) -> None:
        if self.partitions < 1 or self.partitions & (self.partitions - 1):
            raise ValueError(f"partitions = {self.partitions} is not a power of two")
        if len(self.owners) != self.partitions:
            raise ValueError(f"{len(self.owners)} partitions have owners, not {self.partitions}")
        for partition, primaries in enumerate(self.owners):
            if not 1 <= len(primaries) <= self.copies:
                raise ValueError(
                    f"partition {partition} has {len(primaries)} owners, not 1..{self.copies}"
                )
            if len(frozenset(primaries)) != len(primaries):
                raise ValueError(f"partition {partition} names an owner twice: {primaries}")

    def primaries(self, partition: PartitionId) -> tuple[NodeId, ...]:
        """At most ``copies`` distinct nodes, in preference order."""
        return self.owners[partition]

    def partitions_of(self, node: NodeId) -> tuple[PartitionId, ...]:
        """Every partition that ``node`` is a primary of, ascending. Reads the whole ring."""
        return tuple(
            PartitionId(partition)
            for partition, primaries in enumerate(self.owners)
            if node in primaries
        )

    def quorum_share(self, required: int, is_up: Callable[[NodeId], bool]) -> float:
        """The share of partitions of which at least ``required`` primaries are up."""
        served = sum(
            sum(map(is_up, primaries)) >= min(required, len(primaries)) for primaries in self.owners
        )
        return served / self.partitions

    def under_replicated(self, is_up: Callable[[NodeId], bool]) -> int:
        """Partitions of which some primary is not up."""
        return sum(not all(map(is_up, primaries)) for primaries in self.owners)

    def digest(self) -> bytes:
        """8 bytes that differ when any field does, the same on every node. Reads the whole ring."""
        return hashlib.blake2b(msgspec.msgpack.encode(self), digest_size=_DIGEST_BYTES).digest()


def newer(a: Ring, b: Ring) -> Ring:
    """The ring that both of two nodes keep after meeting: the higher epoch.

    Two rings of one epoch come from a mistake (two operators at once); the digest decides then,
    for nodes that disagreed on owners for ever would lose documents.
    """
    return a if (a.epoch, a.digest()) >= (b.epoch, b.digest()) else b


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
