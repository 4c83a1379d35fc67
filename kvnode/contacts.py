"""Since when no node of another region can be reached, as one node knows it.

A region is cut off when the last connection to any of its nodes has ended, and from the start until
there is a first one. A connection that has been silent for too long is ended by ``kvnode.rpc``, so
a network that swallows everything cuts off as well, a little later.
"""

from cluster.ids import NodeId
from cluster.layout import Rings


class Contacts:
    """Which nodes of other regions are connected.

    Args:
        now_ms: The start.
    """

    def __init__(self, rings: Rings, node: NodeId, now_ms: int) -> None:
        self._region_of = rings.region_of
        self._connected: dict[str, dict[NodeId, None]] = {
            region: {} for region in rings.other_regions(node)
        }
        self._since_ms: dict[str, int] = dict.fromkeys(self._connected, now_ms)

    def change(self, peer: NodeId, connected: bool, now_ms: int) -> str | None:
        """A connection has begun or ended; the region that this cuts off or brings back."""
        region = self._region_of[peer]
        nodes = self._connected.get(region)
        if nodes is None:
            return None
        was_cut_off = not nodes
        if connected:
            nodes[peer] = None
        else:
            nodes.pop(peer, None)
        if was_cut_off == (not nodes):
            return None
        self._since_ms[region] = now_ms
        return region

    def cut_off_since_ms(self, region: str) -> int | None:
        """Unix time; None: some node there is connected."""
        return None if self._connected[region] else self._since_ms[region]
