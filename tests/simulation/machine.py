"""One machine of a simulated cluster: what ``python -m kvnode`` starts, on simulated ports.

Rules
-----
1. The node, the document service and the cluster client are production code, unmodified. Clock,
   entropy, engine and disk space are simulated; the network is the loop's.
2. Disk, clock and log belong to the machine and outlive its processes. Engine, entropy, node and
   service are made anew at every start.
"""

import asyncio
from collections.abc import Callable, MutableMapping
from typing import Any, Final, NoReturn

import msgspec
import structlog

from cluster.ids import NodeId
from cluster.ring import Ring
from cluster.settings import ClusterSettings, NodeSettings
from docservice.documents import DocumentService
from kvnode.client import ClusterClient
from kvnode.codec import decode
from kvnode.errors import CannotStart
from kvnode.log import Log
from kvnode.node import Node
from kvnode.ports import Entropy
from kvnode.record import Record
from kvnode.storage.identity import Identity
from kvnode.storage.keys import IDENTITY_KEY, record_key
from kvnode.storage.memory import MemoryEngine
from tests.simulation.disk import OnCommit, SimDisk, SimSpace
from tests.simulation.loop import SimLoop
from tests.simulation.ports import SimClock, SimEntropy
from tests.simulation.processes import Process

SECRET: Final = b"a secret of thirty-two bytes, no"
#: A commit of the simulated disk (uniform between the two).
COMMIT_LATENCY_S: Final = (0.000_1, 0.003)
#: Clocks of two machines differ by at most twice this, within the default bound on skew.
WALL_AHEAD_S: Final = 2.0
DRIFT: Final = 0.000_5


class LogLine(msgspec.Struct, frozen=True):
    """One event that a node logged."""

    at_s: float
    level: str
    event: str
    fields: dict[str, Any]


class Machine:
    """A machine on which a document service runs, next to a node or alone.

    Args:
        loop: The world.
        settings: The cluster file.
        ring: What follows from it: made once, for every start of every machine.
        name: Of the machine and its process.
    """

    def __init__(self, loop: SimLoop, settings: ClusterSettings, ring: Ring, name: str) -> None:
        self.name = name
        chance = loop.stream(f"clock/{name}")
        self.clock = SimClock(
            loop.time,
            rate=chance.uniform(1 - DRIFT, 1 + DRIFT),
            wall_ahead_s=chance.uniform(-WALL_AHEAD_S, WALL_AHEAD_S),
            monotonic_start_s=chance.uniform(0, 1e6),
        )
        self.log: list[LogLine] = []
        #: What the running process offers; None while it starts, and before.
        self.documents: DocumentService | None = None
        #: Done when clients can hear that the process is gone.
        self.gone: asyncio.Future[None] = asyncio.Future(loop=loop)
        self.loop = loop
        self.settings = settings
        self.ring = ring

    def start(self) -> None:
        """Start the machine's process, which must not run; it needs some time."""
        process = self.loop.start_process(self.name)
        self.documents = None
        self.gone = asyncio.Future(loop=self.loop)
        self.loop.spawn(process, self.main(SimEntropy(self.loop.seed, process)))

    async def main(self, entropy: Entropy) -> None:
        """What the process does."""
        raise NotImplementedError

    def ended(self) -> None:
        """Let clients hear that the process is gone."""
        if not self.gone.done():
            self.gone.set_result(None)

    @property
    def process(self) -> Process:
        """The newest one."""
        return self.loop.processes[self.name]

    def events(self, event: str) -> list[LogLine]:
        """The lines of this event, oldest first."""
        return [line for line in self.log if line.event == event]

    def _new_log(self) -> Log:
        def collect(_: object, level: str, fields: MutableMapping[str, Any]) -> NoReturn:
            event = fields.pop("event")
            self.log.append(LogLine(self.loop.time(), level, event, dict(fields)))
            raise structlog.DropEvent

        log: Log = structlog.wrap_logger(
            None,
            processors=[collect],
            wrapper_class=structlog.make_filtering_bound_logger("info"),
        )
        return log


class NodeMachine(Machine):
    """A machine with a storage node, its disk, and the document service in the same process."""

    def __init__(
        self,
        loop: SimLoop,
        settings: ClusterSettings,
        ring: Ring,
        own: NodeSettings,
        on_commit: OnCommit,
        on_absent: Callable[[str], None],
    ) -> None:
        super().__init__(loop, settings, ring, own.id)
        self.own = own
        self.disk = SimDisk(own.id, on_commit)
        #: The disk that is in the machine: its own, unless somebody mixed them up.
        self.mounted = self.disk
        #: Why starts were refused, and commits failed.
        self.refusals: list[str] = []
        self.failed_commits = 0
        self.space = SimSpace()
        #: Seconds (least, most) that a commit takes.
        self.commit_latency_s = COMMIT_LATENCY_S
        #: The newest process's, also after it died; None until it answers requests.
        self.node: Node | None = None
        self.engine: MemoryEngine | None = None
        self._on_absent = on_absent
        self._latencies = loop.stream(f"disk/{own.id}")
        identity = Identity(settings.cluster_id, own.id, settings.replication.partitions)
        self.disk.apply({IDENTITY_KEY: identity.encode()})

    async def main(self, entropy: Entropy) -> None:
        """As ``kvnode.__main__`` does, without HTTP."""
        self.node = None
        self.engine = MemoryEngine(
            self.mounted,
            self.loop,
            commit_latency_s=lambda: self._latencies.uniform(*self.commit_latency_s),
            failed=self._engine_failed,
        )
        node = Node(
            self.settings,
            self.own,
            self.ring,
            SECRET,
            engine=self.engine,
            disk=self.space,
            clock=self.clock,
            entropy=entropy,
            log=self._new_log(),
        )
        try:
            await node.start()
        except CannotStart as error:
            self.refusals.append(str(error))
            self.exit()
            return
        self._show_absences(node)
        self.node = node
        self.documents = DocumentService(
            node.coordinator,
            clock=self.clock,
            entropy=entropy,
            cluster_id=bytes.fromhex(self.settings.cluster_id),
            region=self.own.region,
            replication=self.settings.replication,
            lifecycle=self.settings.lifecycle,
        )
        await node.run()

    def _engine_failed(self, _: BaseException) -> None:
        """What is durable is not known any more: only a start can find out."""
        self.failed_commits += 1
        self.exit()

    def exit(self) -> None:
        """Let the process end, as it does by itself."""
        self.loop.kill(self.name)
        self.ended()

    def _show_absences(self, node: Node) -> None:
        """Tell of every node that is left out of a purge."""
        purge = node.background.purge
        is_absent = purge._is_absent

        def shown(name: NodeId) -> bool:
            absent = is_absent(name)
            if absent:
                self._on_absent(name)
            return absent

        purge._is_absent = shown

    @property
    def serving(self) -> Node:
        """The node, which must have started."""
        assert self.node is not None, f"{self.name} has not started"
        return self.node

    def stored(self, document_id: bytes) -> Record | None:
        """What the disk holds of a document, as its replica."""
        encoded = self.disk.values.get(record_key(document_id))
        return decode(document_id, encoded) if encoded is not None else None

    def damage(self, document_id: bytes, position: int = 0) -> None:
        """Invert one byte of a stored record."""
        self.disk.flip(record_key(document_id), position)


class ServiceMachine(Machine):
    """A machine with a document service alone, a client of the cluster."""

    def __init__(self, loop: SimLoop, settings: ClusterSettings, ring: Ring, name: str) -> None:
        super().__init__(loop, settings, ring, name)
        self._client: ClusterClient | None = None

    def reaches(self, node: str) -> bool:
        """Whether it is connected to a node."""
        return self._client is not None and self._client._transport.connected(NodeId(node))

    async def main(self, entropy: Entropy) -> None:
        """As ``docservice.__main__`` does, without HTTP."""
        region = self.settings.node[0].region
        nodes = self.settings.region_nodes(region)
        self._client = ClusterClient(
            cluster_id=self.settings.cluster_id,
            secret=SECRET,
            ring=self.ring,
            zones={node.node_id: node.zone for node in nodes},
            addresses={NodeId(node.id): (node.host, node.rpc_port) for node in nodes},
            clock=self.clock,
            entropy=entropy,
            log=self._new_log(),
        )
        self.documents = DocumentService(
            self._client,
            clock=self.clock,
            entropy=entropy,
            cluster_id=bytes.fromhex(self.settings.cluster_id),
            region=region,
            replication=self.settings.replication,
            lifecycle=self.settings.lifecycle,
        )
