"""All background work of a node, put together: one place to see what runs beside requests.

Gossip, the disk's guard and placement are not here: requests depend on them.
"""

from collections.abc import Callable
from typing import Final

import msgspec

from cluster.ids import NodeId
from cluster.layout import Rings
from cluster.settings import ClusterSettings
from kvnode.jobs import Jobs
from kvnode.log import Log
from kvnode.merging import Merges
from kvnode.ports import Clock, Entropy
from kvnode.replica import Replica
from kvnode.rpc.transport import Transport
from kvnode.services.antientropy import AntiEntropy
from kvnode.services.asking import Asker, CoOwners
from kvnode.services.budget import Budget
from kvnode.services.draining import Draining
from kvnode.services.handoff import Handoff
from kvnode.services.indexing import Indexing
from kvnode.services.inquiry import Inquiry
from kvnode.services.levelling import Levelling
from kvnode.services.loop import Service
from kvnode.services.moving import Moving
from kvnode.services.overdue import Overdue
from kvnode.services.purge import Purge
from kvnode.services.rebuild import Rebuild
from kvnode.services.reclaim import Reclaim
from kvnode.services.scrub import Scrub
from kvnode.services.settling import TELLING_INTERVALS, Settling
from kvnode.services.shipping import Shipping
from kvnode.services.sweep import Sweep
from kvnode.services.verify import Verify
from kvnode.tracing import Tracer

HANDOFF_INTERVAL_S: Final = 0.5


class Surroundings(msgspec.Struct):
    """What background work has to do with."""

    settings: ClusterSettings
    node: NodeId
    rings: Rings
    replica: Replica
    transport: Transport
    merges: Merges
    tracer: Tracer
    #: Whether requests to a node have a chance now.
    is_up: Callable[[NodeId], bool]
    #: Whether this node is sure of its disk, as far as a peer knows.
    has_confirmed: Callable[[NodeId], bool]
    #: Whether no request of another layout is under way (``kvnode.services.layouts``).
    all_settled: Callable[[], bool]
    #: Whether a node was silent for longer than tombstones are kept.
    is_absent: Callable[[NodeId], bool]
    #: Whether a node knows the same words about regions (``kvnode.partings``).
    agrees: Callable[[NodeId], bool]
    #: Takes what a peer's clock shows, and when it was asked (``kvnode.services.gossip``).
    hear_clock: Callable[[NodeId, int, int], None]
    jobs: Jobs
    clock: Clock
    entropy: Entropy
    log: Log


class Background:
    """The services, by name."""

    def __init__(self, around: Surroundings) -> None:
        self.budget = _budget_of(around.settings)
        asker = Asker(around.transport, around.clock)
        owners = CoOwners(asker, around.rings, around.node, around.replica.standing)
        self._assemble_copies(around, asker, owners)
        self._assemble_endings(around, asker, owners)
        self._assemble_regions(around, asker)
        self._indexing = Indexing(around.replica.records)
        self.draining = Draining(
            around.replica,
            around.rings,
            quiet_s=around.settings.edge.drain_s,
            is_up=around.is_up,
            jobs=around.jobs,
            clock=around.clock,
            log=around.log,
        )

    def _assemble_copies(self, around: Surroundings, asker: Asker, owners: CoOwners) -> None:
        """What keeps each owner's copy whole and like the others'."""
        replica, rings, node, is_up = around.replica, around.rings, around.node, around.is_up
        interval_s = around.settings.antientropy.interval_s
        clock, log = around.clock, around.log
        self.handoff = Handoff(
            replica,
            around.merges,
            Overdue(replica, rings, node, around.merges, is_up=is_up, log=log),
            interval_s=HANDOFF_INTERVAL_S,
            budget=self.budget,
            is_up=is_up,
            clock=clock,
            log=log,
        )
        self.rebuild = Rebuild(replica, rings, node, is_up, log)
        self.levelling = Levelling(replica, rings)
        self.moving = Moving(
            replica,
            rings,
            node,
            merges=around.merges,
            all_settled=around.all_settled,
            clock=clock,
            log=log,
        )
        self.antientropy = AntiEntropy(
            replica,
            rings,
            node,
            rebuild=self.rebuild,
            levelling=self.levelling,
            moving=self.moving,
            asker=asker,
            merges=around.merges,
            round_interval_s=interval_s,
            region_interval_s=around.settings.regions.compare_interval_s,
            budget=self.budget,
            is_up=is_up,
            jobs=around.jobs,
            clock=clock,
            entropy=around.entropy,
            log=log,
        )
        self.scrub = Scrub(
            replica,
            owners,
            interval_s=interval_s,
            budget=self.budget,
            clock=clock,
            log=log,
        )

    def _assemble_endings(self, around: Surroundings, asker: Asker, owners: CoOwners) -> None:
        """What becomes of documents that have ended."""
        replica, rings, clock, log = around.replica, around.rings, around.clock, around.log
        interval_s = around.settings.lifecycle.sweep_interval_s
        self.sweep = Sweep(replica, rings.partitions, interval_s=interval_s, log=log)
        self.purge = Purge(
            replica,
            rings,
            around.node,
            interval_s=interval_s,
            asker=asker,
            is_up=around.is_up,
            is_absent=around.is_absent,
            agrees=around.agrees,
            clock=clock,
            log=log,
        )
        self.reclaim = Reclaim(
            replica,
            self.sweep,
            lambda: len(rings.partitions_of(around.node)),
            interval_s=interval_s,
            budget=self.budget,
            clock=clock,
            log=log,
        )
        self.verify = Verify(replica, self.sweep, owners, interval_s=interval_s, log=log)
        self.inquiry = Inquiry(replica, owners, interval_s=interval_s, log=log)

    def _assemble_regions(self, around: Surroundings, asker: Asker) -> None:
        """What brings writes to the other regions."""
        rings, settings = around.rings, around.settings.regions
        self._rings, self._node = rings, around.node
        self.shipping = {
            region: Shipping(
                around.replica,
                region,
                self._receivers(region),
                batch_bytes_max=settings.batch_bytes_max,
                interval_s=settings.ship_interval_s,
                asker=asker,
                transport=around.transport,
                partitions=rings.partitions,
                tracer=around.tracer,
                clock=around.clock,
                log=around.log,
            )
            for region in rings.other_regions(around.node)
        }
        self.settling = Settling(
            around.replica,
            rings,
            around.node,
            interval_s=TELLING_INTERVALS * settings.ship_interval_s,
            levelling=self.levelling,
            has_confirmed=around.has_confirmed,
            hear_clock=around.hear_clock,
            asker=asker,
            merges=around.merges,
            transport=around.transport,
            clock=around.clock,
            log=around.log,
        )

    def _receivers(self, region: str) -> list[NodeId]:
        """A region's nodes, another one in front for each node here: they share the work."""
        here = self._rings.nodes_of(self._rings.region_of[self._node])
        nodes = self._rings.nodes_of(region)
        place = here.index(self._node) % len(nodes) if self._node in here else 0
        return nodes[place:] + nodes[:place]

    def review(self) -> None:
        """Owners or members have changed."""
        self.handoff.review()
        self.moving.review()
        self.antientropy.review()
        self.levelling.review()
        for region, shipping in self.shipping.items():
            shipping.review(self._receivers(region))

    def services(self) -> list[Service]:
        """Everything that runs."""
        return [
            self.handoff,
            self.antientropy,
            self.moving,
            self.sweep,
            self.reclaim,
            self.purge,
            self.verify,
            self.inquiry,
            self.scrub,
            self._indexing,
            self.draining,
            *self._between_regions(),
        ]

    def _between_regions(self) -> list[Service]:
        return [*self.shipping.values(), self.settling] if self.shipping else []


def _budget_of(settings: ClusterSettings) -> Budget:
    return Budget(
        {
            Handoff.name: settings.hints.rate_bytes_per_s,
            AntiEntropy.name: settings.antientropy.rate_bytes_per_s,
            Scrub.name: settings.antientropy.rate_bytes_per_s,
            Reclaim.name: settings.antientropy.rate_bytes_per_s,
        }
    )
