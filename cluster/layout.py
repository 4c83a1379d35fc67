"""Who owns what in all regions, as one node or tool knows it."""

from collections.abc import Iterable
from typing import Final

from cluster.ids import NodeId, PartitionId
from cluster.ring import Ring
from cluster.ringchange import Layout, first_layout
from cluster.settings import ClusterSettings

#: Of a region: its name, epoch and digest.
Version = tuple[str, int, bytes]


class Rings:
    """The newest layouts and rings of all regions, over the same partitions.

    A request knows the ring of its own region only. What must be true everywhere before something
    is done for good (a purge, a verdict on a late copy) is asked of the owners in all regions.

    Layouts change while a node runs (``cluster.ringchange``): what is kept of an answer must be
    asked for anew after ``adopt``.

    Args:
        layouts: One of each region, in the cluster file's order.
        region_of: Also of nodes that are no members (yet).
    """

    def __init__(self, layouts: Iterable[Layout], region_of: dict[NodeId, str]) -> None:
        self.layouts: Final = {layout.region: layout for layout in layouts}
        self.by_region: Final[dict[str, Ring]] = {}
        #: Of every node that was ever heard of: who has left may still be connected.
        self.region_of: Final = dict(region_of)
        self._versions: dict[str, Version] = {}
        for layout in list(self.layouts.values()):
            self.adopt(layout)

    def copy(self) -> "Rings":
        """For a node, whose own it is from then on."""
        return Rings(self.layouts.values(), self.region_of)

    def adopt(self, layout: Layout) -> None:
        """Take a region's newer layout."""
        self.layouts[layout.region] = layout
        self._versions[layout.region] = (layout.region, layout.epoch, layout.digest())
        self.by_region[layout.region] = layout.ring()
        self.region_of.update(dict.fromkeys(layout.ids, layout.region))

    @property
    def partitions(self) -> int:
        """The same in every region."""
        return next(iter(self.by_region.values())).partitions

    @property
    def nodes(self) -> list[NodeId]:
        """The members of all regions."""
        return [node for layout in self.layouts.values() for node in layout.ids]

    def nodes_of(self, region: str) -> list[NodeId]:
        """The members of one region."""
        return list(self.layouts[region].ids)

    def owners(self, partition: int) -> list[NodeId]:
        """A partition's primaries in every region, one region's after the other's."""
        rings = self.by_region.values()
        return [owner for ring in rings for owner in ring.primaries(PartitionId(partition))]

    def owners_in(self, region: str, partition: int) -> tuple[NodeId, ...]:
        """Its primaries in one region."""
        return self.by_region[region].primaries(PartitionId(partition))

    def owners_first(self, region: str, partition: int) -> list[NodeId]:
        """All nodes of a region, those first that can answer for a partition by themselves."""
        readers = self.by_region[region].readers(PartitionId(partition))
        return list(dict.fromkeys([*readers, *self.nodes_of(region)]))

    def partitions_of(self, node: NodeId) -> tuple[PartitionId, ...]:
        """Every partition that a node is a primary of, ascending."""
        return self.by_region[self.region_of[node]].partitions_of(node)

    def other_regions(self, node: NodeId) -> list[str]:
        """All but a node's own."""
        return [region for region in self.by_region if region != self.region_of[node]]

    @property
    def versions(self) -> list[Version]:
        """By which two nodes know whether they know the same."""
        return list(self._versions.values())


def rings_of(settings: ClusterSettings) -> Rings:
    """The rings of a new cluster, from its file."""
    replication = settings.replication
    layouts = [
        first_layout(
            region,
            [node for node in settings.region_nodes(region) if not node.joins],
            replication.partitions,
            replication.copies,
        )
        for region in settings.region_names
    ]
    return Rings(layouts, {node.node_id: node.region for node in settings.node})
