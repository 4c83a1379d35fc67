"""The data listener: composition, the sweep, and stopping."""

import asyncio
from collections.abc import Callable
from email.utils import formatdate
from typing import Final

from cluster.settings import HttpSettings, LogSettings
from docservice.documents import DocumentService
from docservice.http.api import DocumentApi
from docservice.http.connection import Connection
from docservice.http.events import DocumentEvents
from docservice.http.metrics import RequestMetrics
from docservice.http.replies import ReplyWriter
from docservice.http.requesttraces import RequestTraces
from docservice.http.shared import Shared
from docservice.session import Tokens
from kvnode.log import Log, process_log
from kvnode.ports import Clock, Entropy
from kvnode.tracing import OpenSpan, Tracer

#: Longest time between two looks at the connections' deadlines.
SWEEP_INTERVAL_S: Final = 0.25
#: Looks per shortest deadline, so that a deadline is kept to within this part of itself.
_SWEEPS_PER_DEADLINE: Final = 4
_BACKLOG: Final = 1024


class DataListener:
    """A listening socket and its connections. Made by ``start_data_listener``."""

    def __init__(self, shared: Shared, clock: Clock) -> None:
        self._shared = shared
        self._clock = clock
        self._server: asyncio.Server | None = None
        self._next_sweep: asyncio.TimerHandle | None = None
        http = shared.http
        shortest_s = min(http.header_timeout_s, http.body_timeout_s, http.idle_timeout_s)
        self._sweep_interval_s = min(SWEEP_INTERVAL_S, shortest_s / _SWEEPS_PER_DEADLINE)

    async def start(self, host: str, port: int) -> None:
        """Bind and listen. Raises OSError when the address can't be had."""
        loop = asyncio.get_running_loop()
        self._tick()
        self._server = await loop.create_server(
            lambda: Connection(loop, self._shared), host, port, backlog=_BACKLOG
        )
        self._next_sweep = loop.call_later(self._sweep_interval_s, self._sweep)

    @property
    def port(self) -> int:
        """The port that is listened on, also when 0 was asked for."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def connection_count(self) -> int:
        """Connections now, those being refused or closed included."""
        return len(self._shared.connections)

    @property
    def in_flight(self) -> int:
        """Requests being answered."""
        return self._shared.in_flight

    async def stop(self, grace_s: float) -> None:
        """Accept no more, finish what is being served within ``grace_s`` seconds, cut off the rest.

        Returns when every connection is closed and its task done.
        """
        shared = self._shared
        shared.draining = True
        assert self._server is not None
        self._server.close()
        tasks = []
        for connection in tuple(shared.connections):
            connection.drain()
            tasks.append(connection.task)
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=grace_s)
            for task in late:
                task.cancel()
            await asyncio.wait(tasks)
        if self._next_sweep is not None:
            self._next_sweep.cancel()
        await self._server.wait_closed()

    def _sweep(self) -> None:
        self._tick()
        loop = asyncio.get_running_loop()
        self._next_sweep = loop.call_later(self._sweep_interval_s, self._sweep)

    def _tick(self) -> None:
        self._shared.tick(formatdate(self._clock.wall_ms() / 1000, usegmt=True))


async def start_data_listener(
    service: DocumentService,
    traced: Callable[[OpenSpan], DocumentService],
    *,
    host: str,
    port: int,
    region: str,
    secret: bytes,
    http: HttpSettings,
    tracer: Tracer,
    metrics: RequestMetrics,
    clock: Clock,
    entropy: Entropy,
    log: Log | None = None,
    log_settings: LogSettings | None = None,
) -> DataListener:
    """Serve the document API on ``host:port``; port 0 picks a free one.

    ``traced`` are the same use cases on behalf of a request's span.

    ``secret`` is the cluster's; session tokens are signed with it. ``log`` hears of documents'
    lives and of every exception that nobody raised on purpose; without one, standard error.

    Raises:
        OSError: the address can't be bound.
    """
    log, tokens = log or process_log(), Tokens(secret)
    replies = ReplyWriter(region=region, tokens=tokens, entropy=entropy, log=log)
    events = DocumentEvents(log, clock, (log_settings or LogSettings()).documents_per_s)
    api = DocumentApi(
        service, replies=replies, events=events, tokens=tokens, http=http, clock=clock
    )
    traces = RequestTraces(tracer, api, traced, replies)
    shared = Shared(http=http, clock=clock, metrics=metrics, replies=replies, traces=traces)
    listener = DataListener(shared, clock)
    await listener.start(host, port)
    return listener
