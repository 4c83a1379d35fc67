"""A data listener on loopback over an in-memory store, and a client that sends any bytes."""

import asyncio
from collections.abc import AsyncIterator, MutableMapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import msgspec
import pytest
import structlog
from structlog.testing import LogCapture

from cluster.settings import (
    HttpSettings,
    LifecycleSettings,
    ReplicationSettings,
    TraceSettings,
)
from docservice.documents import DocumentService
from docservice.http.metrics import METHODS
from docservice.http.problems import CATALOGUE, MEDIA_TYPE, Problem
from docservice.http.server import DataListener, start_data_listener
from docservice.notedstore import NotedStore
from kvnode.system import SystemEntropy
from kvnode.tracing import Tracer
from tests.support.stores import MemoryStore

T = TypeVar("T")

#: For long tables of cases that are no different on the other event loop.
one_loop = pytest.mark.asyncio(loop_factories=["uvloop"])

#: Longest wait for what should come at once; only a failing test ever waits as long.
PATIENCE_S = 10.0
#: 2026-01-01T00:00:00Z.
NOW_MS = 1_767_225_600_000
REGION = "north"
SECRET = bytes(range(32))
CLUSTER_ID = bytes(range(16))
RETENTION_S = 3600.0
WITHOUT_BODY = (204, 304)


class StoppedWallClock:
    """Wall time stands still until a test moves it; the monotonic clock is the event loop's."""

    def __init__(self) -> None:
        self.now_ms = NOW_MS

    def wall_ms(self) -> int:
        """See ``kvnode.ports.Clock``."""
        return self.now_ms

    def monotonic_s(self) -> float:
        """See ``kvnode.ports.Clock``."""
        return asyncio.get_running_loop().time()


class CountedRequests:
    """A ``RequestMetrics`` that keeps what it was told."""

    def __init__(self) -> None:
        self.observed: list[tuple[str, str, int]] = []

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """See ``RequestMetrics``."""
        assert method in METHODS
        assert seconds >= 0
        self.observed.append((method, route, status))


class Response(msgspec.Struct):
    """One answer, taken apart."""

    status: int
    #: Names in lower case.
    headers: dict[str, str]
    body: bytes
    raw: bytes

    def json(self, of: type[T]) -> T:
        """The body as the type that it must have."""
        assert self.headers["content-type"] == "application/json"
        return msgspec.json.decode(self.body, type=of)

    @property
    def problem(self) -> Problem:
        """The body of a refusal, which must be all that a refusal has to be."""
        assert self.headers["content-type"] == MEDIA_TYPE
        problem = msgspec.json.decode(self.body, type=Problem)
        kind = CATALOGUE[problem.code]
        assert problem.status == self.status == kind.status
        assert problem.type == f"/problems/{problem.code}"
        assert problem.title == kind.title
        assert problem.instance.endswith(f":{self.headers['x-request-id']}")
        assert len(problem.trace_id) == 32
        assert self.headers["cache-control"] == "no-store"
        assert ("retry-after" in self.headers) == (self.status in (429, 503))
        return problem


class Wire:
    """One connection. ``async with await Wire.open(port)``."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int) -> Self:
        """Connect."""
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._writer.close()
        with suppress(ConnectionError):  # it may have been cut off
            await self._writer.wait_closed()

    def send(self, data: bytes) -> None:
        """Hand bytes to the socket."""
        self._writer.write(data)

    async def drain(self) -> None:
        """Let the event loop move what was sent, as far as it goes."""
        await self._writer.drain()
        await asyncio.sleep(0)

    def pause(self) -> None:
        """Read nothing from now on."""
        cast("asyncio.Transport", self._writer.transport).pause_reading()

    async def answers(self) -> bool:
        """Wait for the server to close; whether anything came before that."""
        try:
            return await self.rest() != b""
        except ConnectionResetError:
            return False

    async def rest(self) -> bytes:
        """Everything until the server closes."""
        async with asyncio.timeout(PATIENCE_S):
            return await self._reader.read()

    def half_close(self) -> None:
        """Say that nothing more will be sent."""
        self._writer.write_eof()

    def abort(self) -> None:
        """Leave without a goodbye."""
        self._writer.transport.abort()

    async def receive(self, *, head: bool = False) -> Response:
        """The next answer. With ``head``, one to HEAD, which has no body."""
        async with asyncio.timeout(PATIENCE_S):
            raw = await self._reader.readuntil(b"\r\n\r\n")
            status_line, *lines = raw.decode("ascii").split("\r\n")[:-2]
            version, status, _ = status_line.split(" ", 2)
            assert version == "HTTP/1.1"
            headers: dict[str, str] = {}
            for line in lines:
                name, value = line.split(": ", 1)
                assert name.lower() not in headers
                headers[name.lower()] = value
            body = b""
            if not head and int(status) not in WITHOUT_BODY:
                body = await self._reader.readexactly(int(headers["content-length"]))
        response = Response(int(status), headers, body, raw + body)
        assert headers["server"] == "stele"
        assert headers["stele-region"] == REGION
        assert headers["date"].endswith(" GMT")
        assert headers["x-request-id"]
        return response

    async def continues(self) -> None:
        """Expect the go-ahead for a body."""
        async with asyncio.timeout(PATIENCE_S):
            assert await self._reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"

    async def ends(self) -> bool:
        """Wait for the server to close in good order; whether nothing more came before that."""
        return await self.rest() == b""


class Served:
    """A running listener and everything behind it."""

    def __init__(
        self,
        listener: DataListener,
        store: MemoryStore,
        clock: StoppedWallClock,
        metrics: CountedRequests,
        logged: LogCapture,
        tracer: Tracer,
    ) -> None:
        self.listener = listener
        self.store = store
        self.clock = clock
        self.metrics = metrics
        self.traces = tracer.store
        self.port = listener.port
        #: Lines of the log.
        self.logged = logged.entries

    @property
    def faults(self) -> Sequence[MutableMapping[str, Any]]:
        """Lines of the log that somebody must look into."""
        return [line for line in self.logged if line["log_level"] == "error"]

    async def connect(self) -> Wire:
        """A new connection."""
        return await Wire.open(self.port)

    async def ask(self, raw: bytes, *, head: bool = False) -> Response:
        """Send bytes on a connection of their own and return the first answer."""
        async with await self.connect() as wire:
            wire.send(raw)
            return await wire.receive(head=head)

    async def call(
        self, method: str, target: str, body: bytes | None = None, **headers: str
    ) -> Response:
        """One well-formed request; ``headers`` with underscores for hyphens."""
        return await self.ask(request(method, target, body, **headers), head=method == "HEAD")


def request(method: str, target: str, body: bytes | None = None, **headers: str) -> bytes:
    """A well-formed request; ``headers`` with underscores for hyphens."""
    lines = [f"{method} {target} HTTP/1.1", "Host: stele.test"]
    if body is not None:
        headers.setdefault("Content_Type", "application/json")
        headers.setdefault("Content_Length", str(len(body)))
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


@asynccontextmanager
async def serving(
    *,
    http: HttpSettings | None = None,
    replication: ReplicationSettings | None = None,
    trace: TraceSettings | None = None,
) -> AsyncIterator[Served]:
    """A listener on a free port; stopped afterwards, and then nothing may be left of it.

    Nor may anything have been raised where only the event loop could hear it.
    """
    unheard: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))
    replication = replication or ReplicationSettings()
    store = MemoryStore(copies=replication.copies)
    clock, entropy, metrics = StoppedWallClock(), SystemEntropy(), CountedRequests()
    service = partial(
        DocumentService,
        clock=clock,
        entropy=entropy,
        cluster_id=CLUSTER_ID,
        region=REGION,
        replication=replication,
        lifecycle=LifecycleSettings(tombstone_retention_s=RETENTION_S),
    )
    tracer = Tracer("a1", trace or TraceSettings(), clock, entropy)
    logged = LogCapture()
    listener = await start_data_listener(
        service(store),
        lambda span: service(NotedStore(lambda _: store, span)),
        host="127.0.0.1",
        port=0,
        region=REGION,
        secret=SECRET,
        http=http or HttpSettings(),
        tracer=tracer,
        metrics=metrics,
        clock=clock,
        entropy=entropy,
        log=structlog.wrap_logger(
            None,
            processors=[logged],
            wrapper_class=structlog.make_filtering_bound_logger("info"),
        ),
    )
    served = Served(listener, store, clock, metrics, logged, tracer)
    try:
        yield served
    finally:
        await listener.stop(grace_s=PATIENCE_S)
    assert listener.connection_count == 0
    assert unheard == []
