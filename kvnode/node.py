"""One node, put together. The simulation builds the same thing from other ports.

``start`` reads as the start-up order: check whose disk it is, count the boot, count the hints,
listen, dial, then run the services.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Protocol

from cluster.claim import Candidate, claim
from cluster.ids import NodeId
from cluster.membership import Membership
from cluster.ring import Ring
from cluster.settings import ClusterSettings, NodeSettings
from kvnode.boots import BOOT_ID_BYTES
from kvnode.coordinator import Coordinator
from kvnode.handlers import Handlers
from kvnode.hints import HintBook
from kvnode.latency import Latencies
from kvnode.lifecycle import Lifecycle
from kvnode.log import Log
from kvnode.placement import Placement
from kvnode.ports import Clock, Engine, Entropy
from kvnode.replica import Replica
from kvnode.rpc.connection import Connection
from kvnode.rpc.frames import Message
from kvnode.rpc.transport import Transport
from kvnode.services.antientropy import AntiEntropy
from kvnode.services.asking import Asker
from kvnode.services.budget import Budget
from kvnode.services.checkin import CheckIn
from kvnode.services.gossip import Gossip
from kvnode.services.handoff import Handoff
from kvnode.services.indexing import Indexing
from kvnode.services.inquiry import Inquiry
from kvnode.services.loop import Service, Work, run_until_stopped
from kvnode.services.purge import Purge
from kvnode.services.sweep import Sweep
from kvnode.services.verify import Verify
from kvnode.storage.identity import Identity, boot, raise_boot_count

HANDOFF_INTERVAL_S: Final = 0.5
#: How long a node that stops delivers what it holds for others.
HAND_ON_S: Final = 2.0
DISK_INTERVAL_S: Final = 1.0
#: How often the order of reads follows what was measured.
PLACEMENT_INTERVAL_S: Final = 5.0
_FIRST_EPOCH: Final = 1


class Disk(Protocol):
    """What a node asks of its file system; see ``kvnode.storage.disk``."""

    free_bytes: int
    low: bool

    def check(self) -> None:
        """Measure free space; keep or release the ballast."""


class _Periodic:
    """A service made of one call."""

    def __init__(self, name: str, interval_s: float, call: Callable[[], None]) -> None:
        self.name = name
        self.interval_s = interval_s
        self._call = call

    async def run_once(self) -> Work:
        self._call()
        return Work.IDLE


def ring_of(settings: ClusterSettings, region: str) -> Ring:
    """The ring that every node of a region computes from the cluster file."""
    candidates = [
        Candidate(node.node_id, node.zone, node.host, node.weight)
        for node in settings.region_nodes(region)
    ]
    replication = settings.replication
    owners = claim(candidates, replication.partitions, replication.copies)
    return Ring(_FIRST_EPOCH, replication.partitions, replication.copies, owners)


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
        self._secret = secret
        self._engine = engine
        self._disk = disk
        self._stop = asyncio.Event()
        self._services: asyncio.Task[None] | None = None

    @property
    def peers(self) -> list[NodeId]:
        """The other nodes of the region, in the cluster file's order."""
        nodes = self.settings.region_nodes(self.region)
        return [node.node_id for node in nodes if node is not self.own]

    @property
    def disk_free_bytes(self) -> int:
        """As of the last check."""
        return self._disk.free_bytes

    async def start(self) -> None:
        """Everything up to answering requests; returns when peers can reach this node."""
        identity = await self._boot()
        self._disk.check()
        self._assemble(identity)
        if not self.replica.restore():
            self.log.warning("trees.rebuilt", reason="they don't add up to their stored total")
            await self.replica.rebuild_trees()
        await self.transport.listen(self.own.host, self.own.rpc_port)
        self.transport.dial_all()
        services: list[Service] = [
            self.gossip,
            self.checkin,
            self.handoff,
            self.antientropy,
            self.sweep,
            self.purge,
            self.verify,
            self.inquiry,
            Indexing(self.replica.records),
            _Periodic("disk", DISK_INTERVAL_S, self._check_disk),
            _Periodic("placement", PLACEMENT_INTERVAL_S, self.placement.refresh),
        ]
        self._check_disk()
        self._services = asyncio.get_running_loop().create_task(
            run_until_stopped(
                services, self._stop, self.budget, clock=self.clock, entropy=self.entropy
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
            await self.handoff.hand_on(HAND_ON_S)
            await self.handlers.close()
            await self.transport.close()
        await self._engine.close()
        self.log.info("node.stopped")

    def unready_reasons(self) -> list[str]:
        """Why requests would mostly fail now; empty when ready."""
        reasons = []
        copies = self.settings.replication.copies
        share = self.placement.quorum_share(copies // 2 + 1)
        if share <= 0.5:
            reasons.append(f"only {share:.0%} of the partitions have a quorum of nodes up")
        if self.checkin.joining_count:
            reasons.append(f"{self.checkin.joining_count} partitions wait for a peer to confirm")
        if fenced := self.antientropy.fenced_partitions():
            reasons.append(f"{len(fenced)} partitions are fenced and being rebuilt")
        return reasons

    def status(self) -> dict[str, Any]:
        """What ``/admin/status`` shows."""
        hints = self.replica.hints
        membership = self.gossip.membership
        zones = {node.node_id: node.zone for node in self.settings.region_nodes(self.region)}
        reasons = self.unready_reasons()
        return {
            "node": self.own.id,
            "region": self.region,
            "zone": self.own.zone,
            "incarnation": membership.own().incarnation,
            "ready": not reasons,
            "reasons": reasons,
            "ring": {
                "epoch": self.placement.ring.epoch,
                "partitions": self.placement.ring.partitions,
                "owned": len(self.placement.owned),
            },
            "members": [
                {
                    "id": member.node,
                    "zone": zones[member.node],
                    "state": member.status.name.lower(),
                    "connected": member.node == self.own.id
                    or self.transport.connected(member.node),
                    "incarnation": member.incarnation,
                }
                for member in membership.members()
            ],
            "hints": {
                target: {
                    "count": held.count,
                    "bytes": held.size_bytes,
                    "oldest_at_ms": held.oldest_ms,
                    "left_alone_s": round(self.handoff.left_alone_s(target), 3),
                }
                for target, held in hints.targets()
            },
            "hints_lost": dict(hints.dropped),
            "comparisons_owed": len(hints.owed()),
            "background_pace": round(self.budget.pace, 3),
            "documents_estimate": self.replica.records.count,
            "storage": {"disk_free_bytes": self._disk.free_bytes, "disk_low": self._disk.low},
        }

    async def _boot(self) -> Identity:
        durable = asyncio.get_running_loop().create_future()
        expected = Identity(
            self.settings.cluster_id, self.own.id, self.settings.replication.partitions
        )
        identity = boot(self._engine, expected, partial(durable.set_result, None))
        await durable
        return identity

    def _assemble(self, identity: Identity) -> None:
        settings = self.settings
        nodes = settings.region_nodes(self.region)
        ring = ring_of(settings, self.region)
        zones = {node.node_id: node.zone for node in nodes}
        latencies = Latencies()
        self.gossip = Gossip(
            Membership(
                self.own.node_id,
                identity.boot_counter,
                [node.node_id for node in nodes],
                interval_s=settings.gossip.interval_s,
                now_s=self.clock.monotonic_s(),
                ring_epoch=ring.epoch,
            ),
            interval_s=settings.gossip.interval_s,
            ring_epoch=ring.epoch,
            clock=self.clock,
            entropy=self.entropy,
            log=self.log,
            on_change=self._on_membership_change,
        )
        self.transport = Transport(
            name=self.own.id,
            cluster_id=settings.cluster_id,
            secret=self._secret,
            ring=(ring.epoch, ring.digest()),
            addresses={node.node_id: (node.host, node.rpc_port) for node in nodes},
            clock=self.clock,
            entropy=self.entropy,
            on_request=self._on_request,
            on_peer_change=self._on_peer_change,
        )
        self.placement = Placement(ring, self.own.node_id, zones, self.is_up, latencies.estimate_s)
        self.replica = Replica(
            self._engine,
            self.clock,
            HintBook(settings.hints),
            self.placement.owns,
            ring.partitions,
            Lifecycle(self.clock, settings.lifecycle, ring.partitions),
        )
        self.coordinator = Coordinator(
            node=self.own.node_id,
            placement=self.placement,
            replica=self.replica,
            transport=self.transport,
            latencies=latencies,
            clock=self.clock,
            entropy=self.entropy,
            copies=min(ring.copies, len(nodes)),
        )
        self.budget = Budget(
            {
                Handoff.name: settings.hints.rate_bytes_per_s,
                AntiEntropy.name: settings.antientropy.rate_bytes_per_s,
            }
        )
        asker = Asker(self.transport, self.clock)
        self.antientropy = AntiEntropy(
            self.replica,
            ring,
            self.own.node_id,
            asker=asker,
            merges=self.coordinator.merges,
            round_interval_s=settings.antientropy.interval_s,
            budget=self.budget,
            is_up=self.is_up,
            clock=self.clock,
            entropy=self.entropy,
            log=self.log,
        )
        lifecycle_interval_s = settings.lifecycle.sweep_interval_s
        self.sweep = Sweep(
            self.replica,
            ring.partitions,
            interval_s=lifecycle_interval_s,
            log=self.log,
        )
        self.purge = Purge(
            self.replica,
            ring,
            self.own.node_id,
            [node.node_id for node in nodes],
            interval_s=lifecycle_interval_s,
            asker=asker,
            is_up=self.is_up,
            is_absent=self._is_absent,
            clock=self.clock,
            log=self.log,
        )
        self.verify = Verify(
            self.replica,
            self.sweep,
            ring,
            self.own.node_id,
            interval_s=lifecycle_interval_s,
            asker=asker,
            log=self.log,
        )
        self.inquiry = Inquiry(
            self.replica,
            ring,
            self.own.node_id,
            interval_s=lifecycle_interval_s,
            asker=asker,
            log=self.log,
        )
        self.handoff = Handoff(
            self.replica,
            self.coordinator.merges,
            interval_s=HANDOFF_INTERVAL_S,
            budget=self.budget,
            is_up=self.is_up,
            clock=self.clock,
            log=self.log,
        )
        self.checkin = CheckIn(
            self.replica,
            ring,
            self.own.node_id,
            boot_count=identity.boot_counter,
            boot_id=self.entropy.random_bytes(BOOT_ID_BYTES),
            raise_boot_count=partial(raise_boot_count, self._engine, identity),
            transport=self.transport,
            clock=self.clock,
            log=self.log,
        )
        self.gossip.attach(self.transport)
        self.handlers = Handlers(self.replica, self.coordinator, self.gossip)

    def is_up(self, node: NodeId) -> bool:
        """Whether requests to a node have a chance now."""
        if node == self.own.node_id:
            return True
        return self.transport.connected(node) and node in self.gossip.membership.up

    def _is_absent(self, node: NodeId) -> bool:
        """Whether a node was silent for longer than tombstones are kept."""
        lifecycle = self.settings.lifecycle
        kept_s = lifecycle.tombstone_retention_s + 2 * lifecycle.clock_skew_max_s
        return self.gossip.membership.silent_s(node, self.clock.monotonic_s()) > kept_s

    # The transport and gossip exist before what these reach: that needs them.

    def _on_request(self, connection: Connection, peer: str, message: Message) -> None:
        self.handlers(connection, peer, message)

    def _on_membership_change(self) -> None:
        self.placement.refresh()

    def _on_peer_change(self, peer: NodeId, connected: bool, reason: str) -> None:
        if connected:
            self.log.info("peer.connected", peer=peer)
            self.checkin.peer_connected(peer)
            self.handoff.peer_returned(peer)
        elif not self._stop.is_set():
            self.log.warning("peer.disconnected", peer=peer, reason=reason)
        self.placement.refresh()

    def _check_disk(self) -> None:
        self._disk.check()
        if self._disk.low != self.coordinator.disk_low:
            event = "disk.low_reached" if self._disk.low else "disk.low_cleared"
            self.log.warning(event, free_bytes=self._disk.free_bytes)
        self.coordinator.disk_low = self.replica.disk_low = self._disk.low
