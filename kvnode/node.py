"""One node, put together. The simulation builds the same thing from other ports.

``start`` reads as the start-up order: check whose disk it is, count the boot, count the hints,
listen, dial, then run the services.
"""

import asyncio
from functools import partial
from math import inf
from typing import Final

from cluster.ids import NodeId
from cluster.layout import Rings, Version
from cluster.membership import Membership
from cluster.settings import ClusterSettings, NodeSettings
from kvnode.adoption import addresses, layouts_of
from kvnode.boots import BOOT_ID_BYTES, Boot
from kvnode.changing import changing_of
from kvnode.conflicts import Conflict, conflict_words
from kvnode.contacts import Contacts
from kvnode.coordinator import Coordinator
from kvnode.elsewhere import Elsewhere
from kvnode.handlers import Handlers
from kvnode.health import CONNECT_GRACE_S, Weight, check, troubles
from kvnode.hints import HintBook
from kvnode.jobs import Jobs
from kvnode.latency import Latencies
from kvnode.layoutstore import restore_layouts
from kvnode.leases import LEASE_SHARE
from kvnode.lifecycle import Lifecycle
from kvnode.log import Log
from kvnode.partings import Partings
from kvnode.placement import Placement
from kvnode.ports import Clock, Disk, Engine, Entropy
from kvnode.regionhandlers import Known
from kvnode.replica import Replica
from kvnode.rpc.connection import Connection
from kvnode.rpc.frames import Message
from kvnode.rpc.transport import Transport
from kvnode.sampling import Sampler
from kvnode.services.background import Background, Surroundings
from kvnode.services.checkin import CheckIn
from kvnode.services.gossip import Gossip
from kvnode.services.loop import Periodic, Service, Stop, run_until_stopped
from kvnode.storage.identity import Identity, boot, raise_boot_count, take_replaced
from kvnode.tracing import Tracer
from kvnode.watermarks import Watermarks

#: How long a node that stops delivers what it holds for others.
HAND_ON_S: Final = 2.0
DISK_INTERVAL_S: Final = 1.0
#: How often the order of reads follows what was measured.
PLACEMENT_INTERVAL_S: Final = 5.0


class Node:
    """A storage node over its ports.

    Raises (``start``):
        CannotStart: the database is another node's, or the disk can't be watched.
        OSError: the RPC port is taken.
    """

    def __init__(
        self,
        settings: ClusterSettings,
        own: NodeSettings,
        rings: Rings,
        secret: bytes,
        *,
        engine: Engine,
        disk: Disk,
        clock: Clock,
        entropy: Entropy,
        log: Log,
    ) -> None:
        self.settings = settings
        self.own = own
        self.region = own.region
        self.clock = clock
        self.entropy = entropy
        self.log = log
        self.jobs = Jobs(clock)
        self.tracer = Tracer(own.id, settings.trace, clock, entropy)
        self.rings = rings.copy()
        self._secret = secret
        self._engine = engine
        self._disk = disk
        self._stop = Stop()
        # One that loses a body is worth a line, whatever is said of those that lose nothing.
        self._conflicts_told = Sampler(max(1, settings.log.documents_per_s))
        #: Every peer was connected once; from then on one that is not is down, and not late.
        self.met_peers = False
        self._services: asyncio.Task[None] | None = None
        self._started_s = -inf

    @property
    def peers(self) -> list[NodeId]:
        """The other members of the region."""
        return [node for node in self.rings.nodes_of(self.region) if node != self.own.node_id]

    def all_peers(self) -> list[NodeId]:
        """The other members of all regions."""
        return [node for node in self.rings.nodes if node != self.own.node_id]

    @property
    def disk_free_bytes(self) -> int:
        """As of the last check."""
        return self._disk.free_bytes

    @property
    def up_s(self) -> float:
        """Seconds since this node began to listen."""
        return self.clock.monotonic_s() - self._started_s

    async def start(self) -> None:
        """Everything up to answering requests; returns when peers can reach this node."""
        boot_id = self.entropy.random_bytes(BOOT_ID_BYTES)
        identity = await self._boot(boot_id)
        self._disk.check()
        restore_layouts(self._engine, self.rings)
        self._assemble(identity, boot_id)
        if not self.replica.restore():
            self.log.warning("trees.rebuilt", reason="they don't add up to their stored total")
            await self.replica.rebuild_trees()
        gone = self.replica.standing.gone
        self.replica.outbox.restore(is_new=identity.boot_counter == 1, gone=gone)
        await self._fence_replacement()
        self._started_s = self.clock.monotonic_s()
        await self.transport.listen(self.own.host, self.own.rpc_port)
        self.transport.dial_all()
        services: list[Service] = [
            self.gossip,
            self.checkin,
            self.layouts,
            self.changing,
            *self.background.services(),
            Periodic("disk", DISK_INTERVAL_S, self._check_disk),
            Periodic("placement", PLACEMENT_INTERVAL_S, self.placement.refresh),
        ]
        self._check_disk()
        self._services = asyncio.get_running_loop().create_task(
            run_until_stopped(
                services, self._stop, self.background.budget, clock=self.clock, entropy=self.entropy
            ),
            name="services",
        )
        self.log.info("node.started", incarnation=identity.boot_counter)

    async def run(self) -> None:
        """Return when ``stop`` is called; raise what a service raised."""
        assert self._services is not None, "start first"
        await self._services

    def request_stop(self) -> None:
        """Make ``run`` return, once each service has finished its unit of work."""
        self._stop.set()

    async def stop(self) -> None:
        """Finish units of work, hand on, say goodbye, make all durable, release the files."""
        self._stop.set()
        if self._services is not None:
            await asyncio.gather(self._services, return_exceptions=True)
            await self.background.handoff.hand_on(HAND_ON_S)
            await self.handlers.close()
            await self.transport.close()
        await self._engine.close()
        self.log.info("node.stopped")

    def unready_reasons(self) -> list[str]:
        """Why requests would mostly fail now, or soon; empty when ready."""
        return troubles(check(self), Weight.UNREADY)

    async def _boot(self, boot_id: bytes) -> Identity:
        durable = asyncio.get_running_loop().create_future()
        expected = Identity(
            self.settings.cluster_id, self.own.id, self.settings.replication.partitions
        )
        identity = boot(self._engine, expected, boot_id, partial(durable.set_result, None))
        await durable
        return identity

    async def _fence_replacement(self) -> None:
        """What an empty database in another's place lacks was neither deleted nor never there."""
        replaced = take_replaced(self._engine)
        if replaced is None:
            return
        self.background.rebuild.raise_all()
        self.replica.outbox.owe_all()
        await self.replica.durable()
        self.log.warning("node.fenced", reason=f"its database is new: {replaced.reason}")

    def _assemble(self, identity: Identity, boot_id: bytes) -> None:
        settings = self.settings
        ring = self.rings.by_region[self.region]
        zones = self.rings.layouts[self.region].zones
        latencies = Latencies()
        self.gossip = self._new_gossip(identity)
        self.transport = Transport(
            name=self.own.id,
            cluster_id=settings.cluster_id,
            secret=self._secret,
            layouts=lambda: self.layouts.versions,
            addresses=addresses(self),
            clock=self.clock,
            entropy=self.entropy,
            on_request=self._on_request,
            on_peer_change=self._on_peer_change,
            on_linked=self._on_linked,
            may_talk=self._may_talk,
        )
        self.placement = Placement(ring, self.own.node_id, zones, self.is_up, latencies.estimate_s)
        self.replica = Replica(
            self._engine,
            self.clock,
            HintBook(settings.hints, self.placement.owns),
            self.placement.owns,
            ring.partitions,
            Lifecycle(self.clock, settings.lifecycle, ring.partitions),
            region=self.region,
            regions=self.rings.other_regions(self.own.node_id),
            outbox_bytes_max=settings.regions.outbox_bytes_max,
            on_conflict=self._on_conflict,
        )
        self._assemble_regions()
        self.coordinator = Coordinator(
            node=self.own.node_id,
            rings=self.rings,
            placement=self.placement,
            replica=self.replica,
            transport=self.transport,
            latencies=latencies,
            clock=self.clock,
            entropy=self.entropy,
            copies=min(ring.copies, len(zones)),
            elsewhere=self.elsewhere if self.watermarks.regions else None,
        )
        self._assemble_background(identity, boot_id)
        self.layouts = layouts_of(self)
        self.changing = changing_of(self)
        self.gossip.attach(self.transport)
        self._assemble_handlers(boot_id)

    def _assemble_handlers(self, boot_id: bytes) -> None:
        self.handlers = Handlers(
            self.replica,
            self.coordinator,
            self.gossip,
            absent=self.background.purge.absent,
            known=Known(self.background.levelling, self.watermarks, self.partings, boot_id),
            layouts=self.layouts,
            tracer=self.tracer,
        )

    def _new_gossip(self, identity: Identity) -> Gossip:
        return Gossip(
            Membership(
                self.own.node_id,
                identity.boot_counter,
                self.rings.nodes_of(self.region),
                interval_s=self.settings.gossip.interval_s,
                now_s=self.clock.monotonic_s(),
            ),
            interval_s=self.settings.gossip.interval_s,
            ring_epoch=lambda: self.rings.by_region[self.region].epoch,
            skew_told_s=self.settings.lifecycle.clock_skew_told_s,
            clock=self.clock,
            entropy=self.entropy,
            log=self.log,
            on_change=self._on_membership_change,
        )

    def _assemble_regions(self) -> None:
        self.partings = Partings(
            self.replica,
            self.rings,
            self.own.node_id,
            fence=self._fence_all,
            transport=self.transport,
            clock=self.clock,
            log=self.log,
        )
        self.contacts = Contacts(self.rings, self.own.node_id, self.clock.wall_ms())
        self.watermarks = Watermarks(self.rings, self.own.node_id)
        slack_ms = round(self.settings.lifecycle.clock_skew_max_s * 1000)
        self.elsewhere = Elsewhere(
            self.rings,
            self.own.node_id,
            self.watermarks,
            self.replica.standing,
            self.transport,
            self.clock,
            slack_ms + self.settings.http.request_timeout_ms,
        )

    def _all_settled(self) -> bool:
        return self.layouts.all_settled()

    def _assemble_background(self, identity: Identity, boot_id: bytes) -> None:
        settings = self.settings
        around = Surroundings(
            settings=settings,
            node=self.own.node_id,
            rings=self.rings,
            replica=self.replica,
            transport=self.transport,
            merges=self.coordinator.merges,
            tracer=self.tracer,
            is_up=self.is_up,
            is_absent=self._is_absent,
            agrees=self.partings.agrees,
            hear_clock=self.gossip.hear_clock,
            has_confirmed=self._has_confirmed,
            all_settled=self._all_settled,
            jobs=self.jobs,
            clock=self.clock,
            entropy=self.entropy,
            log=self.log,
        )
        self.background = Background(around)
        self.checkin = CheckIn(
            self.replica,
            self.rings,
            self.own.node_id,
            boot=Boot(identity.boot_counter, boot_id),
            raise_boot_count=partial(raise_boot_count, self._engine, identity, boot_id),
            lease_s=LEASE_SHARE * settings.lifecycle.tombstone_retention_s,
            grace_s=CONNECT_GRACE_S,
            transport=self.transport,
            clock=self.clock,
            log=self.log,
        )

    def is_up(self, node: NodeId) -> bool:
        """Whether requests to a node have a chance now."""
        if node == self.own.node_id:
            return True
        if not self.transport.connected(node):
            return False
        return self.rings.region_of[node] != self.region or node in self.gossip.membership.up

    def _is_absent(self, node: NodeId) -> bool:
        """Whether a node is gone, and was silent for longer than tombstones are kept."""
        if self.transport.connected(node):
            return False
        lifecycle = self.settings.lifecycle
        kept_s = lifecycle.tombstone_retention_s + 2 * lifecycle.clock_skew_max_s
        return self.gossip.membership.silent_s(node, self.clock.monotonic_s()) > kept_s

    def _has_confirmed(self, peer: NodeId) -> bool:
        """Whether this node is sure of its disk, also as far as a peer knows."""
        return not self.checkin.joining and self.checkin.is_confirmed(peer)

    # The transport and gossip exist before what these reach: that needs them.

    def _on_request(self, connection: Connection, peer: str, message: Message) -> None:
        self.handlers(connection, peer, message)

    def _on_linked(self, peer: NodeId, versions: list[Version]) -> None:
        self.partings.linked(peer)
        self.layouts.linked(peer, versions)

    def _may_talk(self, peer: NodeId) -> bool:
        return self.partings.may_talk(peer) and self.layouts.may_talk(peer)

    def _fence_all(self) -> None:
        self.background.rebuild.raise_all()

    def _on_membership_change(self) -> None:
        self.placement.refresh()

    def _on_peer_change(self, peer: NodeId, connected: bool, reason: str) -> None:
        if connected:
            self.log.info("peer.connected", peer=peer)
            self.met_peers |= all(map(self.transport.connected, self.peers))
            self.gossip.peer_connected(peer)
            self.checkin.peer_connected(peer)
            self.layouts.peer_connected(peer)
            self.background.handoff.peer_returned(peer)
        elif not self._stop.is_set():
            self.log.warning("peer.disconnected", peer=peer, reason=reason)
        region = self.contacts.change(peer, connected, self.clock.wall_ms())
        if region is not None and connected:
            self.log.info("region.reached", region=region)
        elif region is not None and not self._stop.is_set():
            self.log.warning("region.cut_off", region=region)
        self.placement.refresh()

    def _on_conflict(self, conflict: Conflict) -> None:
        unlogged = self._conflicts_told.admit(self.clock.monotonic_s())
        if unlogged is not None:
            left_out = {"unlogged": unlogged} if unlogged else {}
            self.log.warning("document.key_conflict", **conflict_words(conflict), **left_out)

    def _check_disk(self) -> None:
        self._disk.check()
        if self._disk.low != self.replica.disk_low:
            event = "disk.low_reached" if self._disk.low else "disk.low_cleared"
            self.log.warning(event, free_bytes=self._disk.free_bytes)
        self.replica.disk_low = self._disk.low
