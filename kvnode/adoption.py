"""What follows in a node from a newer layout: everything that was derived from the last one.

Rules
-----
1. It happens in one stretch of code, and what it puts is in one batch with the layout itself.
2. What a node is to own from now on is fenced: whatever it has of it is not what its owners have.
3. What is taken from a node that did not believe it is fenced too: it must give it to nobody
   (``kvnode.services.moving``, rule 3).
"""

from cluster.ids import NodeId
from cluster.layout import Rings
from cluster.ringchange import Layout
from kvnode.placement import Placement
from kvnode.ports import Clock
from kvnode.replica import Replica
from kvnode.rpc.transport import Transport
from kvnode.services.background import Background
from kvnode.services.checkin import CheckIn
from kvnode.services.gossip import Gossip
from kvnode.watermarks import Watermarks


class Adoption:
    """Of one node; see the module's rules."""

    def __init__(
        self,
        node: NodeId,
        rings: Rings,
        replica: Replica,
        *,
        transport: Transport,
        gossip: Gossip,
        placement: Placement,
        checkin: CheckIn,
        background: Background,
        watermarks: Watermarks,
        clock: Clock,
    ) -> None:
        self._node = node
        self._region = rings.region_of[node]
        self._rings = rings
        self._replica = replica
        self._transport = transport
        self._gossip = gossip
        self._placement = placement
        self._checkin = checkin
        self._background = background
        self._watermarks = watermarks
        self._clock = clock

    def __call__(self, before: Layout, layout: Layout) -> None:
        """``rings`` has just taken ``layout`` in the place of ``before``."""
        self._transport.meet(
            {member.node_id: (member.host, member.rpc_port) for member in layout.members}
        )
        if layout.region == self._region:
            self._review_own(before, layout)
        self._watermarks.review()
        self._background.review()

    def _review_own(self, before: Layout, layout: Layout) -> None:
        had = before.ring().partitions_of(self._node)
        has = layout.ring().partitions_of(self._node)
        taken = [one for one in had if one not in has]
        unbelieved = [one for one in taken if not self._replica.believes(one)]
        self._gossip.membership.review(layout.ids, self._clock.monotonic_s())
        self._placement.adopt(self._rings.by_region[self._region], layout.zones)
        for partition in unbelieved:
            self._replica.set_fenced(partition, True)
        self._checkin.review()
        self._background.rebuild.raise_for(one for one in has if one not in had)
