"""Who owns what, as every node and every tool computes it from the cluster file."""

import hashlib
from collections.abc import Mapping
from typing import Final

import msgspec

from cluster.claim import Candidate, claim
from cluster.ids import NodeId, PartitionId
from cluster.ring import Ring
from cluster.settings import ClusterSettings

_FIRST_EPOCH: Final = 1
_DIGEST_BYTES: Final = 8


class Rings(msgspec.Struct, frozen=True):
    """The rings of all regions, over the same partitions.

    A request knows the ring of its own region only. What must be true everywhere before something
    is done for good (a purge, a verdict on a late copy) is asked of the owners in all regions.
    """

    #: In the cluster file's order.
    by_region: Mapping[str, Ring]
    #: Of every node.
    region_of: Mapping[NodeId, str]

    @property
    def partitions(self) -> int:
        """The same in every region."""
        return next(iter(self.by_region.values())).partitions

    @property
    def nodes(self) -> list[NodeId]:
        """Of all regions, in the file's order."""
        return list(self.region_of)

    def nodes_of(self, region: str) -> list[NodeId]:
        """Of one region, in the file's order."""
        return [node for node, its in self.region_of.items() if its == region]

    def owners(self, partition: int) -> list[NodeId]:
        """A partition's primaries in every region, one region's after the other's."""
        rings = self.by_region.values()
        return [owner for ring in rings for owner in ring.primaries(PartitionId(partition))]

    def owners_in(self, region: str, partition: int) -> tuple[NodeId, ...]:
        """Its primaries in one region."""
        return self.by_region[region].primaries(PartitionId(partition))

    def owners_first(self, region: str, partition: int) -> list[NodeId]:
        """All nodes of a region, those first that can answer for a partition by themselves."""
        return list(dict.fromkeys([*self.owners_in(region, partition), *self.nodes_of(region)]))

    def partitions_of(self, node: NodeId) -> tuple[PartitionId, ...]:
        """Every partition that a node is a primary of, ascending."""
        return self.by_region[self.region_of[node]].partitions_of(node)

    def other_regions(self, node: NodeId) -> list[str]:
        """All but a node's own."""
        return [region for region in self.by_region if region != self.region_of[node]]

    @property
    def version(self) -> tuple[int, bytes]:
        """Epoch and digest, by which two nodes know that they read the same cluster file."""
        if len(self.by_region) == 1:
            (ring,) = self.by_region.values()
            return ring.epoch, ring.digest()
        digests = [[name, ring.digest()] for name, ring in self.by_region.items()]
        digest = hashlib.blake2b(msgspec.msgpack.encode(digests), digest_size=_DIGEST_BYTES)
        return max(ring.epoch for ring in self.by_region.values()), digest.digest()


def ring_of(settings: ClusterSettings, region: str) -> Ring:
    """The ring of a region."""
    candidates = [
        Candidate(node.node_id, node.zone, node.host, node.weight)
        for node in settings.region_nodes(region)
    ]
    replication = settings.replication
    owners = claim(candidates, replication.partitions, replication.copies)
    return Ring(_FIRST_EPOCH, replication.partitions, replication.copies, owners)


def rings_of(settings: ClusterSettings) -> Rings:
    """The rings of all regions."""
    return Rings(
        {region: ring_of(settings, region) for region in settings.region_names},
        {node.node_id: node.region for node in settings.node},
    )
