"""What the connections of one listener have in common: bounds, counts and a coarse clock."""

import asyncio
from typing import Protocol

from cluster.settings import HttpSettings
from docservice.http.metrics import RequestMetrics
from docservice.http.replies import ReplyWriter
from docservice.http.requesttraces import RequestTraces
from kvnode.ports import Clock


class Swept(Protocol):
    """A connection, as its listener sees it."""

    #: Ends when the connection has.
    task: asyncio.Task[None]

    def check(self) -> None:
        """Compare what the connection waits for with its deadline."""

    def drain(self) -> None:
        """Close as soon as the request being served, if any, is answered."""


class Shared:
    """One per listener. Its owner calls ``tick`` several times per shortest deadline."""

    def __init__(
        self,
        *,
        http: HttpSettings,
        clock: Clock,
        metrics: RequestMetrics,
        replies: ReplyWriter,
        traces: RequestTraces,
    ) -> None:
        self.http = http
        self.clock = clock
        self.metrics = metrics
        self.replies = replies
        self.traces = traces
        self.answer = traces.answer
        self.slow_s = traces.slow_s
        #: In order of arrival. A connection leaves when its socket is closed and its task done.
        self.connections: dict[Swept, None] = {}
        #: Requests being answered.
        self.in_flight = 0
        #: Every answer is the last one of its connection.
        self.draining = False
        #: The monotonic clock as of the last tick: exact enough for deadlines, free to read.
        self.now_s = clock.monotonic_s()
        #: What ends every head: Date, Connection where it is needed, the empty line.
        self.end_keep_alive = b""
        self.end_keep_alive_10 = b""
        self.end_close = b""

    def tick(self, date: str) -> None:
        """Move the coarse clock and check every connection. ``date`` is an HTTP date."""
        self.now_s = self.clock.monotonic_s()
        line = f"Date: {date}\r\n".encode()
        self.end_keep_alive = line + b"\r\n"
        self.end_keep_alive_10 = line + b"Connection: keep-alive\r\n\r\n"
        self.end_close = line + b"Connection: close\r\n\r\n"
        for connection in tuple(self.connections):
            connection.check()
