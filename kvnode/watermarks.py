"""How far this node's region has come with each other region's writes.

Each node of another region tells up to when its writes are here (``kvnode.outbox``, rule 6). The
watermark of a region is the least of what its nodes told: *every write that it coordinated before
is on a majority of the owners here*. A node that says nothing holds it up, and so does one that
has said nothing yet since this node started: it is not kept on disk, for it is told again soon.
"""

from cluster.ids import NodeId
from cluster.layout import Rings


class Watermarks:
    """As one node knows them."""

    def __init__(self, rings: Rings, node: NodeId) -> None:
        self.regions = rings.other_regions(node)
        self._rings = rings
        self._told_ms = {
            region: dict.fromkeys(rings.nodes_of(region), 0) for region in self.regions
        }
        self._region_of = rings.region_of

    def review(self) -> None:
        """Regions have other nodes.

        A new one has coordinated nothing before this was known here (``kvnode.services.layouts``,
        rule 5); one that has left, nothing that is not here.
        """
        for region, told_ms in self._told_ms.items():
            since_ms = self.of(region)
            nodes = self._rings.nodes_of(region)
            self._told_ms[region] = {node: told_ms.get(node, since_ms) for node in nodes}

    def take(self, node: NodeId, watermark_ms: int) -> None:
        """A node of another region has told how far its writes are here."""
        told_ms = self._told_ms.get(self._region_of.get(node, ""))
        if told_ms is None:
            raise ValueError(f"{node} is in no other region")
        if node in told_ms:  # else it is no member (yet)
            told_ms[node] = max(told_ms[node], watermark_ms)

    def of(self, region: str) -> int:
        """Unix time in milliseconds; 0: not known."""
        return min(self._told_ms[region].values())

    def told_ms(self, node: NodeId) -> int:
        """What a node of another region has told; 0: nothing yet."""
        return self._told_ms[self._region_of[node]].get(node, 0)

    def slowest(self, region: str) -> NodeId:
        """The node that holds a region's watermark up."""
        told_ms = self._told_ms[region]
        return min(told_ms, key=told_ms.__getitem__)
