"""A cluster of production nodes in one interpreter, and what a test does to it.

Rules
-----
1. A node's host is its name: machines of the simulated network have no other address.
2. Whatever a test is about, every commit is watched (``invariants``), and at its end the whole
   history is judged (``checks``); see ``run.simulate``.
3. Nothing is waited for by guessing: ``until`` looks at the cluster itself, and says what is
   missing when its patience ends.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from itertools import count, permutations
from typing import Final

import msgspec

from cluster.ids import DocumentId, NodeId, partition_of
from cluster.layout import rings_of
from cluster.ring import Ring, fallbacks
from cluster.settings import (
    AntiEntropySettings,
    ClusterSettings,
    GossipSettings,
    HintSettings,
    LifecycleSettings,
    NodeSettings,
    RegionSettings,
    ReplicationSettings,
)
from kvnode.rpc.connection import FRAME_S, HEARTBEAT_S
from tests.simulation.clients import CLUSTER_ID, Clients, id_of_key
from tests.simulation.disk import SimDisk
from tests.simulation.invariants import DiskWatch
from tests.simulation.loop import SimLoop
from tests.simulation.machine import Machine, NodeMachine, ServiceMachine
from tests.simulation.processes import ProcessState

REGION: Final = "a"
#: The name of the machine that runs a document service without a node.
DOCS: Final = "docs"
#: How often a condition is looked at.
POLL_S: Final = 0.02
#: Seconds (least, most) from one region to another.
REGION_LATENCY_S: Final = (0.015, 0.03)
_RPC_PORT: Final = 9000


def settings_of(
    nodes: int = 3,
    *,
    zones: int = 3,
    partitions: int = 16,
    hints: HintSettings | None = None,
    antientropy: AntiEntropySettings | None = None,
    lifecycle: LifecycleSettings | None = None,
    regions: str = REGION,
    between: RegionSettings | None = None,
    gossip: GossipSettings | None = None,
    spares: int = 0,
) -> ClusterSettings:
    """The cluster file of nodes a1, a2, ... in zones z1, z2, ..., taken in turn.

    Args:
        nodes: In each region.
        regions: Their names, of one letter each.
        between: How writes are brought from one to another.
        spares: Nodes of the first region that run, and own nothing before they are let in.
    """
    return ClusterSettings(
        cluster_id=CLUSTER_ID,
        replication=ReplicationSettings(partitions=partitions),
        hints=hints or HintSettings(),
        antientropy=antientropy or AntiEntropySettings(),
        lifecycle=lifecycle or LifecycleSettings(),
        regions=between or RegionSettings(),
        gossip=gossip or GossipSettings(),
        node=tuple(
            NodeSettings(
                id=f"{region}{number}",
                region=region,
                zone=f"z{(number - 1) % zones + 1}",
                host=f"{region}{number}",
                http_port=_RPC_PORT - 1000,
                rpc_port=_RPC_PORT,
                ops_port=_RPC_PORT + 1000,
                joins=number > nodes,
            )
            for region in regions
            for number in range(1, nodes + 1 + (spares if region == REGION else 0))
        ),
    )


class Fault(msgspec.Struct, frozen=True):
    """Something that a test did to the cluster, at a true time."""

    at_s: float
    what: str


class SimCluster(Clients):
    """The nodes of all regions, and a document service in the first one.

    Args:
        loop: The world.
        settings: The cluster file.
    """

    def __init__(self, loop: SimLoop, settings: ClusterSettings) -> None:
        self.settings = settings
        first = rings_of(settings)
        #: The newest layouts that any node knows.
        self.rings = first.copy()
        self.faults: list[Fault] = []
        #: Machines that stay down until their repair is through.
        self.in_repair: dict[str, None] = {}
        self.nodes: dict[str, NodeMachine] = {}
        disks: dict[str, SimDisk] = {}
        wall_ms: dict[str, Callable[[], int]] = {}
        self.watch = DiskWatch(
            self.rings,
            {DOCS: settings.node[0].region} | {one.id: one.region for one in settings.node},
            settings,
            disks,
            wall_ms,
            loop.time,
        )
        for own in settings.node:
            watch = self.watch
            machine = NodeMachine(
                loop, settings, first, own, watch.committed, watch.atlas.goes_away
            )
            self.nodes[own.id] = machine
            disks[own.id] = machine.disk
            wall_ms[own.id] = machine.clock.latest_ms
        self.docs = ServiceMachine(loop, settings, first, DOCS)
        for one, other in permutations(self.nodes.values(), 2):
            if one.region != other.region:
                loop.network.latency_s[one.name, other.name] = REGION_LATENCY_S
        machines: dict[str, Machine] = {**self.nodes, DOCS: self.docs}
        super().__init__(loop, machines, self.watch.acknowledged)

    @property
    def ring(self) -> Ring:
        """Of the first region."""
        return self.rings.by_region[REGION]

    # Processes and faults -----------------------------------------------------------------

    async def start(self) -> None:
        """Start every machine and wait until all of them see each other."""
        for machine in self.machines.values():
            machine.start()
        await self.ready()

    def kill(self, *names: str) -> None:
        """SIGKILL: the disk keeps what is durable, clients and peers get resets."""
        for name in names:
            self._strike(name, "is killed")
            self.loop.kill(name)
            self.machines[name].ended()

    def power_off(self, *names: str) -> None:
        """Cut the power of machines, all at once: nobody hears anything."""
        for name in names:
            self._strike(name, "loses power")
            self.loop.power_off(name)

    def replace_disk(self, name: str, values: Mapping[bytes, bytes]) -> None:
        """Put an empty disk, or an old copy of it, into a machine that is down."""
        assert self.machines[name].process.dead
        self.watch.forget(name, values)
        self.nodes[name].disk.replace(values)

    def pause(self, *names: str) -> None:
        """SIGSTOP."""
        for name in names:
            self._strike(name, "is paused")
            self.loop.pause(name)

    def resume(self, *names: str) -> None:
        """SIGCONT."""
        for name in names:
            self.note(f"{name} is resumed")
            self.loop.resume(name)

    def request_stop(self, name: str) -> None:
        """SIGTERM: the process ends by itself, once its node has finished what is under way."""
        machine = self.nodes[name]
        process = machine.process
        self._strike(name, "is asked to stop")

        def stopped(stopping: "asyncio.Task[None]") -> None:
            stopping.result()
            if not process.dead:
                machine.exit()

        self.loop.spawn(process, machine.serving.stop()).add_done_callback(stopped)

    async def restart(self, *names: str) -> None:
        """Start dead machines again and wait until all that run see each other."""
        for name in names:
            self.note(f"{name} starts")
            self.machines[name].start()
        await self.ready()

    async def calm(self) -> None:
        """Undo every fault: the network whole, every machine running."""
        self.note("every fault is over")
        self.loop.network.heal_all()
        for name, machine in self.machines.items():
            if machine.process.state is ProcessState.PAUSED:
                self.loop.resume(name)
            elif machine.process.dead:
                machine.start()
        # A frame whose length was changed swallows what follows until it is given up.
        given_up_s = self.loop.network.damaged_s + FRAME_S + 2 * HEARTBEAT_S
        await asyncio.sleep(max(0.0, given_up_s - self.loop.time()))
        await self.ready()

    def note(self, what: str) -> None:
        """Remember a fault, for timelines."""
        self.faults.append(Fault(self.loop.time(), what))

    def _strike(self, name: str, how: str) -> None:
        self.note(f"{name} {how}")
        self.disturb(name)

    # Waiting ------------------------------------------------------------------------------

    async def until(
        self,
        met: Callable[[], bool],
        within_s: float,
        missing: object,
        poll_s: float = POLL_S,
    ) -> None:
        """Return once ``met()``; fail with ``missing`` (called, if it can be) after too long."""
        give_up_s = self.loop.time() + within_s
        while not met():
            if self.loop.time() > give_up_s:
                detail = missing() if callable(missing) else missing
                raise AssertionError(f"after {within_s:g} s still: {detail}")
            await asyncio.sleep(poll_s)

    async def ready(self, within_s: float = 30.0) -> None:
        """Wait until all running machines have started and hold all their running peers for up."""
        await self.until(lambda: not self._unready(), within_s, self._unready)

    async def noticed(self, *names: str, within_s: float = 10.0) -> None:
        """Wait until no running machine holds these for up."""

        def unaware() -> list[str]:
            return [
                f"{watcher} holds {name} for up"
                for watcher, machine in self.machines.items()
                for name in names
                if machine.process.running and self._holds_for_up(watcher, name)
            ]

        await self.until(lambda: not unaware(), within_s, unaware)

    def agree(self, *names: str) -> bool:
        """Whether these nodes have started and hold each other for up."""
        return all(
            self.nodes[watcher].documents is not None and self._holds_for_up(watcher, name)
            for watcher in names
            for name in names
        )

    def alive(self) -> list[NodeMachine]:
        """The nodes whose process is neither dead nor paused."""
        return [machine for machine in self.nodes.values() if machine.process.running]

    def _unready(self) -> list[str]:
        running = [machine for machine in self.machines.values() if machine.process.running]
        members = [machine for machine in running if machine.name in (DOCS, *self.rings.nodes)]
        starting = [f"{machine.name} starts" for machine in running if machine.documents is None]
        unsure = [
            f"{machine.name} waits for others to confirm its boot"
            for machine in self.alive()
            if machine.documents is not None and self._may_be_confirmed(machine)
        ]
        return (
            starting
            or unsure
            or [
                f"{watcher.name} does not hold {peer.name} for up"
                for watcher in members
                for peer in self.alive()
                if peer in members
                if watcher is not self.docs or peer.region == watcher.region
                if not self._holds_for_up(watcher.name, peer.name)
            ]
        )

    def _may_be_confirmed(self, machine: NodeMachine) -> bool:
        """Whether there is somebody yet to confirm that a machine's disk is the one it left."""
        running = [other.name for other in self.alive() if other is not machine]
        checkin = machine.serving.checkin
        return bool(checkin.unanswered) or any(
            owner in running for part in checkin.joining for owner in self.rings.owners(part)
        )

    def _holds_for_up(self, watcher: str, name: str) -> bool:
        if watcher == DOCS:
            return self.docs.reaches(name)
        return self.nodes[watcher].serving.is_up(NodeId(name))

    # Where documents are ------------------------------------------------------------------

    def owners(self, document_id: bytes) -> tuple[NodeId, ...]:
        """The primaries of a document in all regions, each region's in preference order."""
        return tuple(self.rings.owners(partition_of(document_id, self.ring.partitions)))

    def owners_in(self, region: str, document_id: bytes) -> tuple[NodeId, ...]:
        """Those in one region."""
        return self.rings.owners_in(region, partition_of(document_id, self.ring.partitions))

    def region(self, name: str) -> list[str]:
        """The nodes of a region."""
        return [str(node) for node in self.rings.nodes_of(name)]

    def stand_ins(self, document_id: bytes) -> tuple[NodeId, ...]:
        """The other nodes, in the order in which they stand in for a document's primaries."""
        zones = {node.node_id: node.zone for node in self.settings.region_nodes(REGION)}
        return fallbacks(self.ring, partition_of(document_id, self.ring.partitions), zones)

    def key_of(self, *owners: str) -> str:
        """An idempotency key whose document belongs to exactly these nodes."""
        return next(self.keys_of(*owners))

    def keys_of(self, *owners: str) -> Iterator[str]:
        """Such keys, as many as wanted."""
        assert sorted(owners) in [sorted(primaries) for primaries in self.ring.owners]
        for number in count():
            key = f"key-{number}"
            if sorted(self.owners_in(REGION, id_of_key(key))) == sorted(owners):
                yield key

    def hints_of(self, holder: str, target: str, document_id: DocumentId) -> bool:
        """Whether a node's disk holds a hint."""
        return self.nodes[holder].disk.holds_hint(NodeId(target), document_id)
