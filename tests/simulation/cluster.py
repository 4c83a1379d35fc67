"""A cluster of production nodes in one interpreter, and what a test does to it.

    def scenario(cluster: SimCluster) -> Coroutine: ...      simulate(scenario, seed)

Rules
-----
1. A node's host is its name: machines of the simulated network have no other address.
2. Requests go through the production use cases (``DocumentService``), in the process that is asked;
   each is an Operation of ``history``.
3. Whatever a test is about, every commit is watched (``invariants``), and at its end the whole
   history is judged (``checks``).
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final, TypeVar

import msgspec

from cluster.ids import DocumentId, NodeId, partition_of, uuid8_of_key
from cluster.ring import fallbacks
from cluster.settings import ClusterSettings, HintSettings, NodeSettings, ReplicationSettings
from docservice.documents import TENANT, Created, DocumentDeleted, DocumentService, Found, Quorums
from kvnode.errors import StoreError
from kvnode.node import ring_of
from kvnode.record import Create, Record
from kvnode.results import Stored
from tests.simulation.history import Kind, NoAnswer, Operation, Refused
from tests.simulation.invariants import DiskWatch
from tests.simulation.loop import SimLoop
from tests.simulation.machine import Machine, NodeMachine, ServiceMachine
from tests.simulation.processes import ProcessState

T = TypeVar("T")

REGION: Final = "a"
CLUSTER_ID: Final = "5e" * 16
#: The name of the machine that runs a document service without a node.
DOCS: Final = "docs"
TIMEOUT_S: Final = 2.0
#: After a deadline, until a client gives up an answer: sweeps are late, and clocks drift.
PATIENCE_S: Final = 0.5
#: How often a condition is looked at.
POLL_S: Final = 0.02
_RPC_PORT: Final = 9000
_KEYS_TRIED_MAX: Final = 10_000


def settings_of(
    nodes: int = 3, *, zones: int = 3, partitions: int = 16, hints: HintSettings | None = None
) -> ClusterSettings:
    """The cluster file of nodes a1, a2, ... in zones z1, z2, ..., taken in turn."""
    return ClusterSettings(
        cluster_id=CLUSTER_ID,
        replication=ReplicationSettings(partitions=partitions),
        hints=hints or HintSettings(),
        node=tuple(
            NodeSettings(
                id=f"{REGION}{number}",
                region=REGION,
                zone=f"z{(number - 1) % zones + 1}",
                host=f"{REGION}{number}",
                http_port=_RPC_PORT - 1000,
                rpc_port=_RPC_PORT,
                ops_port=_RPC_PORT + 1000,
            )
            for number in range(1, nodes + 1)
        ),
    )


class Fault(msgspec.Struct, frozen=True):
    """Something that a test did to the cluster, at a true time."""

    at_s: float
    what: str


class SimCluster:
    """The nodes of one region, and a document service beside them.

    Args:
        loop: The world.
        settings: The cluster file.
    """

    def __init__(self, loop: SimLoop, settings: ClusterSettings) -> None:
        self.loop = loop
        self.settings = settings
        self.ring = ring_of(settings, REGION)
        self.history: list[Operation] = []
        self.faults: list[Fault] = []
        self.nodes: dict[str, NodeMachine] = {}
        disks, wall_ms = {}, {}
        self.watch = DiskWatch(self.ring, settings.hints, disks, wall_ms, loop.time)
        for own in settings.region_nodes(REGION):
            machine = NodeMachine(loop, settings, own, self.watch.committed)
            self.nodes[own.id] = machine
            disks[own.id] = machine.disk
            wall_ms[own.id] = machine.clock.wall_ms
        self.docs = ServiceMachine(loop, settings, DOCS)
        self.machines: dict[str, Machine] = {**self.nodes, DOCS: self.docs}

    # Processes and faults -----------------------------------------------------------------

    async def start(self) -> None:
        """Start every machine and wait until all of them see each other."""
        for machine in self.machines.values():
            machine.start()
        await self.ready()

    def kill(self, name: str) -> None:
        """SIGKILL: the disk keeps what is durable, clients and peers get resets."""
        self._disturb(name, "is killed")
        self.loop.kill(name)
        self.machines[name].ended()

    def power_off(self, name: str) -> None:
        """Cut a machine's power: nobody hears anything."""
        self._disturb(name, "loses power")
        self.loop.power_off(name)

    def pause(self, name: str) -> None:
        """SIGSTOP."""
        self._disturb(name, "is paused")
        self.loop.pause(name)

    def resume(self, name: str) -> None:
        """SIGCONT."""
        self.note(f"{name} is resumed")
        self.loop.resume(name)

    async def restart(self, *names: str) -> None:
        """Start dead machines again and wait until all that run see each other."""
        for name in names:
            self.note(f"{name} starts")
            self.machines[name].start()
        await self.ready()

    def alive(self) -> list[NodeMachine]:
        """The nodes whose process is neither dead nor paused."""
        return [
            machine
            for machine in self.nodes.values()
            if machine.name in self.loop.processes and machine.process.running
        ]

    def note(self, what: str) -> None:
        """Remember a fault, for timelines."""
        self.faults.append(Fault(self.loop.time(), what))

    def _disturb(self, name: str, how: str) -> None:
        self.note(f"{name} {how}")
        for operation in self.history:
            if operation.answered_s is None and operation.via == name:
                operation.disturbed = True

    # Waiting ------------------------------------------------------------------------------

    async def until(self, met: Callable[[], bool], within_s: float, otherwise: object) -> None:
        """Return once ``met()``; fail with what ``otherwise`` says if that takes too long."""
        give_up_s = self.loop.time() + within_s
        while not met():
            if self.loop.time() > give_up_s:
                detail = otherwise() if callable(otherwise) else otherwise
                raise AssertionError(f"after {within_s:g} s still: {detail}")
            await asyncio.sleep(POLL_S)

    async def ready(self, within_s: float = 30.0) -> None:
        """Wait until all running machines have started and hold all their running peers for up."""
        await self.until(lambda: not self._unready(), within_s, self._unready)

    def _unready(self) -> list[str]:
        alive = self.alive()
        unready = [f"{machine.name} starts" for machine in alive if machine.documents is None]
        if not unready:
            unready = [
                f"{machine.name} does not hold {peer.name} for up"
                for machine in alive
                for peer in alive
                if not machine.serving.is_up(NodeId(peer.name))
            ]
        if self.docs.process.running and self.docs.documents is None:
            unready.append(f"{DOCS} starts")
        return unready

    async def calm(self) -> None:
        """Undo every fault: the network whole, every machine running."""
        self.note("every fault is over")
        self.loop.network.heal_all()
        for name, machine in self.machines.items():
            if machine.process.state is ProcessState.PAUSED:
                self.loop.resume(name)
            elif machine.process.dead:
                machine.start()
        await self.ready()

    async def settle(self, within_s: float = 60.0) -> None:
        """Wait until no hint is held and all owners of every document say the same of it."""
        await self.until(lambda: not self.unsettled(), within_s, self.unsettled)

    def unsettled(self) -> list[str]:
        """What keeps the cluster from being settled."""
        return self.hints() + self.differences()

    def hints(self) -> list[str]:
        """Whose hints are still held."""
        return [
            f"{machine.name} holds {held.count} hints for {target}"
            for machine in self.alive()
            for target, held in machine.serving.replica.hints.targets()
        ]

    def differences(self) -> list[str]:
        """Documents of which two owners would say different things.

        Two owners of a deleted document agree, whatever else they know: only anti-entropy compares
        what no client can see.
        """
        found = []
        for document_id in self.watch.commits:
            owners = self.owners(document_id)
            held = {name: visible(self.nodes[name].stored(document_id)) for name in owners}
            first, *others = held.values()
            if any(other != first for other in others):
                found.append(f"{document_id.hex()}: {held}")
        return found

    async def converge(self) -> None:
        """Deliver all hints, read every document through each of its owners, and wait.

        This is all that heals replicas while there is no anti-entropy.
        """
        await self.until(lambda: not self.hints(), 120.0, self.hints)
        for document_id in list(self.watch.commits):
            for owner in self.owners(document_id):
                with contextlib.suppress(DocumentDeleted):
                    await self.read(owner, document_id, read=3, sloppy=False)
        await self.settle()

    # Requests -----------------------------------------------------------------------------

    async def create(
        self,
        via: str,
        content: str,
        *,
        key: str | None = None,
        write: int = 1,
        sloppy: bool = True,
        timeout_s: float = TIMEOUT_S,
    ) -> Created:
        """Create a document through a machine. Raises StoreError or NoAnswer."""
        operation = self._invoke(Kind.CREATE, via, Quorums(1, write, sloppy), timeout_s)
        operation.content, operation.key = content, key
        operation.document_id = self.id_of_key(key) if key is not None else None
        created: Created = await self._answer(
            operation,
            lambda documents, deadline_s: documents.create(
                content,
                ttl_s=None,
                idempotency_key=key,
                quorums=operation.quorums,
                deadline_s=deadline_s,
            ),
        )
        return created

    async def read(
        self,
        via: str,
        document_id: DocumentId,
        *,
        read: int = 1,
        sloppy: bool = True,
        timeout_s: float = TIMEOUT_S,
    ) -> Found:
        """Read a document through a machine. Raises StoreError or NoAnswer."""
        operation = self._invoke(Kind.READ, via, Quorums(read, 1, sloppy), timeout_s)
        operation.document_id = document_id
        found: Found = await self._answer(
            operation,
            lambda documents, deadline_s: documents.read(
                document_id, quorums=operation.quorums, deadline_s=deadline_s
            ),
        )
        return found

    async def delete(
        self,
        via: str,
        document_id: DocumentId,
        *,
        write: int = 1,
        sloppy: bool = True,
        timeout_s: float = TIMEOUT_S,
    ) -> Stored:
        """Delete a document through a machine. Raises StoreError or NoAnswer."""
        operation = self._invoke(Kind.DELETE, via, Quorums(1, write, sloppy), timeout_s)
        operation.document_id = document_id
        stored: Stored = await self._answer(
            operation,
            lambda documents, deadline_s: documents.delete(
                document_id, quorums=operation.quorums, deadline_s=deadline_s
            ),
        )
        return stored

    def _invoke(self, kind: Kind, via: str, quorums: Quorums, timeout_s: float) -> Operation:
        now_s = self.loop.time()
        operation = Operation(len(self.history) + 1, kind, via, quorums, now_s, now_s + timeout_s)
        self.history.append(operation)
        return operation

    async def _answer(
        self,
        operation: Operation,
        call: Callable[[DocumentService, float], Coroutine[Any, Any, Any]],
    ) -> Any:
        try:
            answer = await self._ask(operation, call)
        except (StoreError, NoAnswer) as error:
            operation.answer = error
            raise
        else:
            operation.answer = answer
            if isinstance(answer, Created):
                operation.document_id = answer.document_id
            self.watch.acknowledged(operation)
            return answer
        finally:
            operation.answered_s = self.loop.time()

    async def _ask(
        self,
        operation: Operation,
        call: Callable[[DocumentService, float], Coroutine[Any, Any, Any]],
    ) -> Any:
        machine = self.machines[operation.via]
        if machine.documents is None or machine.process.dead:
            raise Refused(f"{operation.via} does not listen")
        operation.disturbed = not machine.process.running
        timeout_s = operation.deadline_s - operation.invoked_s
        deadline_s = machine.clock.monotonic_s() + timeout_s
        task = self.loop.spawn(machine.process, call(machine.documents, deadline_s))
        await asyncio.wait(
            [task, machine.gone],
            timeout=timeout_s + PATIENCE_S,
            return_when=asyncio.FIRST_COMPLETED,
        )
        if task.done():
            return task.result()
        task.add_done_callback(partial(_nobody_listens))
        raise NoAnswer(f"{operation.via} did not answer")

    # Where documents are ------------------------------------------------------------------

    @staticmethod
    def id_of_key(key: str) -> DocumentId:
        """The id that an idempotency key gives."""
        return uuid8_of_key(bytes.fromhex(CLUSTER_ID), TENANT, key)

    def owners(self, document_id: bytes) -> tuple[NodeId, ...]:
        """The primaries of a document, in preference order."""
        return self.ring.primaries(partition_of(document_id, self.ring.partitions))

    def stand_ins(self, document_id: bytes) -> tuple[NodeId, ...]:
        """The other nodes, in the order in which they stand in for a document's primaries."""
        zones = {node.node_id: node.zone for node in self.settings.region_nodes(REGION)}
        return fallbacks(self.ring, partition_of(document_id, self.ring.partitions), zones)

    def key_of(self, *owners: str) -> str:
        """An idempotency key whose document belongs to exactly these nodes."""
        for number in range(_KEYS_TRIED_MAX):
            key = f"key-{number}"
            if sorted(self.owners(self.id_of_key(key))) == sorted(owners):
                return key
        raise AssertionError(f"no partition belongs to {owners}")


def visible(record: Record | None) -> Create | str:
    """What a client could learn from one replica."""
    if record is None:
        return "absent"
    return record.create if record.tombstone is None and record.create else "deleted"


def _nobody_listens(task: "asyncio.Task[Any]") -> None:
    """Take an answer that comes after its client has left."""
    if not task.cancelled():
        task.exception()
