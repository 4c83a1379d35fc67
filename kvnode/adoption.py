"""What follows in a node from a newer layout: everything that was derived from the last one.

Rules
-----
1. It happens in one stretch of code, and what it puts is in one batch with the layout itself.
2. What a node is to own from now on is fenced: whatever it has of it is not what its owners have.
3. What is taken from a node that did not believe it is fenced too: it must vouch for none of it
   (``kvnode.services.moving``, rule 5).
"""

from typing import TYPE_CHECKING, Final

from cluster.ids import NodeId
from cluster.ringchange import Layout
from kvnode.services.layouts import Layouts

if TYPE_CHECKING:
    from kvnode.node import Node

#: Deadline of the writes that nodes make on their own, for hints, repairs and other regions.
_BACKGROUND_TIMEOUT_S: Final = 5.0


def layouts_of(node: "Node") -> Layouts:
    """The service that keeps a node's layouts, with what follows from them."""

    def allow_writes(allowed: bool) -> None:
        node.coordinator.takes_part = allowed

    def adopted(before: Layout, layout: Layout) -> None:
        _adopt(node, before, layout)

    return Layouts(
        node.replica,
        node.rings,
        node.own.node_id,
        settle_s=max(node.settings.http.request_timeout_ms / 1000, _BACKGROUND_TIMEOUT_S),
        adopted=adopted,
        is_done=node.background.moving.is_done,
        allow=allow_writes,
        transport=node.transport,
        clock=node.clock,
        log=node.log,
    )


def addresses(node: "Node") -> dict[NodeId, tuple[str, int]]:
    """(host, RPC port) of every node that is known. The cluster file knows best where one is."""
    layouts = node.rings.layouts.values()
    nodes = [*(member for layout in layouts for member in layout.members), *node.settings.node]
    return {one.node_id: (one.host, one.rpc_port) for one in nodes}


def _adopt(node: "Node", before: Layout, layout: Layout) -> None:
    """The node's rings have just taken ``layout`` in the place of ``before``."""
    node.transport.meet(addresses(node))
    if layout.region == node.region:
        _adopt_own(node, before, layout)
    node.watermarks.review()
    node.background.review()


def _adopt_own(node: "Node", before: Layout, layout: Layout) -> None:
    replica, own = node.replica, node.own.node_id
    had = before.ring().partitions_of(own)
    has = layout.ring().partitions_of(own)
    taken = [one for one in had if one not in has]
    unbelieved = [one for one in taken if not replica.believes(one)]
    node.gossip.membership.review(layout.ids, node.clock.monotonic_s())
    node.placement.adopt(node.rings.by_region[node.region], layout.zones)
    for partition in unbelieved:
        replica.set_fenced(partition, True)
    node.checkin.review()
    node.background.rebuild.raise_for(one for one in has if one not in had)
