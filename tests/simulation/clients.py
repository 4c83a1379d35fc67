"""Requests to the machines of a cluster, each remembered in the history.

A request runs as the production use case (``DocumentService``) in the process that is asked. Its
client waits in the test's own process, so what becomes of it is known when the machine dies.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final

from cluster.ids import DocumentId, uuid8_of_key
from docservice.documents import TENANT, Created, DocumentService, Found, Quorums
from docservice.session import Session, Tokens
from kvnode.errors import StoreError
from kvnode.results import Stored
from scripts.checker.history import Kind, NoAnswer, Operation, Refused
from tests.simulation.loop import SimLoop
from tests.simulation.machine import SECRET, Machine

CLUSTER_ID: Final = "5e" * 16
TIMEOUT_S: Final = 2.0
#: After a deadline, until a client gives up an answer: sweeps are late, and clocks drift.
PATIENCE_S: Final = 0.5

_Call = Callable[[DocumentService, float, Session], Coroutine[Any, Any, Any]]
_TOKENS: Final = Tokens(SECRET)


class SimSession:
    """The token of one client, who asks one thing after the other."""

    def __init__(self, number: int = 1) -> None:
        self.number = number
        self._token = _TOKENS.write(Session())
        #: What was answered while the token was carried along, oldest first.
        self.heard: list[Operation] = []

    def begin(self, operation: Operation) -> Session:
        """What a request brings along."""
        operation.session, operation.heard_before = self.number, tuple(self.heard)
        return _TOKENS.read(self._token)

    def end(self, operation: Operation, seen: Session) -> None:
        """Take what its answer brought back."""
        self._token = _TOKENS.write(seen)
        self.heard.append(operation)


class Clients:
    """Every client of a cluster.

    Args:
        loop: The world.
        machines: What can be asked, by name.
        on_success: Called just when a client hears that its operation succeeded.
    """

    def __init__(
        self,
        loop: SimLoop,
        machines: Mapping[str, Machine],
        on_success: Callable[[Operation], None],
    ) -> None:
        self.loop = loop
        self.machines = machines
        self.history: list[Operation] = []
        self._on_success = on_success

    def now_s(self) -> float:
        """Virtual time."""
        return self.loop.time()

    def id_of_key(self, key: str) -> DocumentId:
        """The id that an idempotency key gives."""
        return id_of_key(key)

    async def create(
        self,
        via: str,
        content: str,
        *,
        key: str | None = None,
        ttl_s: int | None = None,
        write: int = 1,
        sloppy: bool = True,
        each_region: bool = False,
        timeout_s: float = TIMEOUT_S,
        session: SimSession | None = None,
    ) -> Created:
        """Create a document through a machine. Raises StoreError or NoAnswer."""
        operation = self._invoke(
            Kind.CREATE, via, Quorums(1, write, sloppy, each_region), timeout_s
        )
        operation.content, operation.key, operation.ttl_s = content, key, ttl_s
        operation.document_id = id_of_key(key) if key is not None else None
        created: Created = await self._answer(
            operation,
            session,
            lambda documents, deadline_s, seen: documents.create(
                content,
                ttl_s=ttl_s,
                idempotency_key=key,
                quorums=operation.quorums,
                deadline_s=deadline_s,
                session=seen,
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
        each_region: bool = False,
        timeout_s: float = TIMEOUT_S,
        session: SimSession | None = None,
    ) -> Found:
        """Read a document through a machine. Raises StoreError or NoAnswer."""
        operation = self._invoke(Kind.READ, via, Quorums(read, 1, sloppy, each_region), timeout_s)
        operation.document_id = document_id
        found: Found = await self._answer(
            operation,
            session,
            lambda documents, deadline_s, seen: documents.read(
                document_id, quorums=operation.quorums, deadline_s=deadline_s, session=seen
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
        each_region: bool = False,
        timeout_s: float = TIMEOUT_S,
        session: SimSession | None = None,
    ) -> Stored:
        """Delete a document through a machine. Raises StoreError or NoAnswer."""
        operation = self._invoke(
            Kind.DELETE, via, Quorums(1, write, sloppy, each_region), timeout_s
        )
        operation.document_id = document_id
        stored: Stored = await self._answer(
            operation,
            session,
            lambda documents, deadline_s, seen: documents.delete(
                document_id, quorums=operation.quorums, deadline_s=deadline_s, session=seen
            ),
        )
        return stored

    def disturb(self, name: str) -> None:
        """Remember that a machine was struck while these were waiting for it."""
        for operation in self.history:
            if operation.answered_s is None and operation.via == name:
                operation.disturbed = True

    def _invoke(
        self,
        kind: Kind,
        via: str,
        quorums: Quorums,
        timeout_s: float,
    ) -> Operation:
        now_s = self.loop.time()
        operation = Operation(len(self.history) + 1, kind, via, quorums, now_s, now_s + timeout_s)
        self.history.append(operation)
        return operation

    async def _answer(self, operation: Operation, session: SimSession | None, call: _Call) -> Any:
        seen = session.begin(operation) if session is not None else Session()
        try:
            answer = await self._ask(operation, call, seen)
        except (StoreError, NoAnswer) as error:
            operation.answer = error
            if session is not None and isinstance(error, StoreError):
                session.end(operation, seen)
            raise
        else:
            if session is not None:
                session.end(operation, seen)
            operation.answer = answer
            if isinstance(answer, Created):
                operation.document_id = answer.document_id
            self._on_success(operation)
            return answer
        finally:
            operation.answered_s = self.loop.time()

    async def _ask(self, operation: Operation, call: _Call, seen: Session) -> Any:
        machine = self.machines[operation.via]
        if machine.documents is None or machine.process.dead:
            raise Refused(f"{operation.via} does not listen")
        operation.disturbed = not machine.process.running
        timeout_s = operation.deadline_s - operation.invoked_s
        deadline_s = machine.clock.monotonic_s() + timeout_s
        process = machine.process
        task = self.loop.spawn(process, call(machine.documents, deadline_s, seen))
        await asyncio.wait(
            [task, machine.gone],
            timeout=timeout_s + PATIENCE_S,
            return_when=asyncio.FIRST_COMPLETED,
        )
        if task.done():
            return task.result()
        if process.dead:
            operation.disturbed = True  # also by an end that nobody caused: its disk failed
        task.add_done_callback(_nobody_listens)
        raise NoAnswer(f"{operation.via} did not answer")


def id_of_key(key: str) -> DocumentId:
    """The id that an idempotency key gives."""
    return uuid8_of_key(bytes.fromhex(CLUSTER_ID), TENANT, key)


def _nobody_listens(task: "asyncio.Task[Any]") -> None:
    """Take an answer that comes after its client has left."""
    if not task.cancelled():
        task.exception()
