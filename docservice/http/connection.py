"""One connection: bytes to requests, answers to bytes, and a deadline on everything in between.

aiohttp's parser (llhttp) and body streams, with a loop of our own around them instead of aiohttp's
request handler: that one makes a task and a dictionary of headers for every answer, has no
deadline for a header or a body, drops the answer when a client half-closes, and quotes what it
could not parse. Here one task serves a connection for its whole life.

Rules
-----
1. Requests are answered in order, one at a time. At most PIPELINED_MAX wait parsed; past that the
   socket is not read.
2. No timer per request: a request leaves a reading of the listener's coarse clock, and the
   listener's sweep compares it (``check``).
3. What can't be parsed, or comes too late, is answered in its turn and ends the connection. What
   was already being read as its body fails with the same refusal, so nothing is done with half
   of a request.
4. A body that has not arrived whole when its answer is ready ends the connection too: finding the
   next request behind it would mean reading what nobody wants.
5. The server ends a connection by closing its own half first and discarding input for a moment;
   closing at once would make the kernel reset it, and the client lose the answer it came for.
"""

import asyncio
from collections import deque
from contextlib import suppress
from enum import Enum, auto
from typing import Final

from aiohttp import StreamReader, hdrs
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpRequestParser, HttpVersion10, RawRequestMessage
from aiohttp.http_exceptions import HttpProcessingError

from docservice.http.exchange import ClientGone
from docservice.http.metrics import METHODS, OTHER_METHOD, UNMATCHED
from docservice.http.problems import RequestRefused
from docservice.http.protocol import (
    HEADER_BYTES_MAX,
    HEADER_LINE_BYTES_MAX,
    HEADER_LINES_MAX,
    TARGET_BYTES_MAX,
    read_at_most,
    refusal_of,
    refusal_of_message,
)
from docservice.http.replies import Reply
from docservice.http.shared import Shared

PIPELINED_MAX: Final = 32
#: Connections beyond the bound that are still told so; past these they are cut off.
REFUSED_MAX: Final = 64
#: How long input is discarded after our half was closed.
LINGER_S: Final = 1.0
_READ_BYTES: Final = 64 * 1024
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class Phase(Enum):
    """What a connection waits for."""

    IDLE = auto()  # the first byte of a request
    HEADER = auto()  # the rest of a header
    SERVING = auto()  # the store, or the rest of a body
    WRITING = auto()  # the client to read its answer
    LINGERING = auto()  # the client to see that we closed our half


class Connection(BaseProtocol):
    """Serves one client, from accept to close."""

    __slots__ = (
        "_arriving",
        "_arriving_since_s",
        "_closing",
        "_half_closed",
        "_header_bytes",
        "_messages",
        "_nothing_to_say",
        "_phase",
        "_refusal",
        "_shared",
        "_since_s",
        "_wake_up",
        "message",
        "payload",
        "task",
    )

    _parser: HttpRequestParser | None

    def __init__(self, loop: asyncio.AbstractEventLoop, shared: Shared) -> None:
        parser = HttpRequestParser(
            self,
            loop,
            _READ_BYTES,
            max_line_size=TARGET_BYTES_MAX,
            max_field_size=HEADER_LINE_BYTES_MAX,
            max_headers=HEADER_LINES_MAX,
            payload_exception=ClientGone,
            auto_decompress=False,
            max_msg_queue_size=PIPELINED_MAX,
        )
        super().__init__(loop, parser)
        self._shared = shared
        self._messages: deque[tuple[RawRequestMessage, StreamReader]] = deque()
        self._wake_up: asyncio.Future[None] | None = None
        self._phase = Phase.IDLE
        self._since_s = shared.now_s
        #: The body that is still arriving, if any: that of the last request parsed.
        self._arriving: StreamReader | None = None
        self._arriving_since_s = 0.0
        #: Bytes of a header that is still arriving.
        self._header_bytes = 0
        #: What to answer in place of a request that could not be read.
        self._refusal: RequestRefused | None = None
        #: No more requests are taken from this connection.
        self._closing = False
        self._half_closed = False
        self._nothing_to_say = False
        self.task: asyncio.Task[None]
        #: The request being answered.
        self.message: RawRequestMessage
        self.payload: StreamReader

    # What the socket calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start serving, or start refusing."""
        super().connection_made(transport)
        shared = self._shared
        excess = len(shared.connections) - shared.http.connections_max
        if excess >= REFUSED_MAX or shared.draining:
            self._abort()
            return
        if excess >= 0:
            self._refusal = RequestRefused("too-many-connections")
            self._closing = True
        shared.connections[self] = None
        self.task = self._loop.create_task(self._live())
        self.task.add_done_callback(_surface)

    def data_received(self, data: bytes) -> None:
        """Parse; ``data`` is empty when a pause ends and what was held back is parsed."""
        if self._closing or self._parser is None:
            return
        try:
            messages, upgraded, _ = self._parser.feed_data(data)
        except (HttpProcessingError, ValueError) as error:
            self._refuse(refusal_of(error, data))
            return
        if messages:
            self._header_bytes = 0
            self._messages.extend(messages)
            message, payload = messages[-1]
            if not payload.is_eof():
                self._arriving = payload
                self._arriving_since_s = self._shared.now_s
            # Nothing is upgraded to: the request is answered as it is, and is the last one.
            self._closing = upgraded or message.upgrade
            if len(self._messages) >= PIPELINED_MAX and not self._buffer_paused:
                self._pause_reading_for_buffer()
            self._wake()
        elif self._arriving is None:
            if data:
                self._header_arrives(len(data))
        elif self._arriving.is_eof():
            self._arriving = None

    def eof_received(self) -> bool:
        """The client sends no more. It may still wait for answers; then our half stays open."""
        self._half_closed = True
        self._closing = True
        if self._arriving is not None and not self._arriving.is_eof():
            self._arriving.set_exception(ClientGone())
        self._wake()
        return bool(self._messages) or self._phase in {Phase.SERVING, Phase.WRITING}

    def connection_lost(self, exc: BaseException | None) -> None:
        """The socket is closed. What the store was asked to do goes on; nobody hears of it."""
        super().connection_lost(exc)
        self._closing = True
        if self._arriving is not None:
            self._arriving.set_exception(ClientGone())
        self._wake()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Called by a body stream after every read; only a pause needs ending."""
        if self._reading_paused:
            super().resume_reading(resume_parser)

    # What the listener calls.

    def check(self) -> None:
        """Compare what is being waited for with its deadline."""
        shared, http = self._shared, self._shared.http
        waited_s = shared.now_s - self._since_s
        if self._phase is Phase.IDLE:
            if waited_s > http.idle_timeout_s:
                self._hang_up()
        elif self._phase is Phase.HEADER:
            if waited_s > http.header_timeout_s:
                self._refuse(RequestRefused("request-timeout"))
        elif self._phase is Phase.WRITING:
            if waited_s > http.body_timeout_s:
                self._abort()
        elif self._phase is Phase.LINGERING and self.transport is not None:
            unsent = self.transport.get_write_buffer_size() > 0
            if waited_s > (http.body_timeout_s if unsent else LINGER_S):
                self._abort()
        if (
            self._arriving is not None
            and not self._arriving.is_eof()
            and shared.now_s - self._arriving_since_s > http.body_timeout_s
        ):
            self._refuse(RequestRefused("request-timeout"))

    def drain(self) -> None:
        """Close as soon as the request being served, if any, is answered."""
        if self._phase in {Phase.IDLE, Phase.HEADER}:
            self._hang_up()

    # What the handler calls.

    async def read_body(self, bytes_max: int) -> bytes:
        """The whole body of the request being answered.

        Raises:
            RequestRefused: it is longer than ``bytes_max``, malformed or too slow.
            ClientGone: the client left in the middle of it.
        """
        payload, headers = self.payload, self.message.headers
        declared = headers.get(hdrs.CONTENT_LENGTH)
        if declared is not None and int(declared) > bytes_max:
            raise RequestRefused("body-too-large")
        if hdrs.EXPECT in headers and not payload.is_eof() and self.transport is not None:
            self.transport.write(_CONTINUE)
        return await read_at_most(payload, bytes_max)

    # The task.

    async def _live(self) -> None:
        try:
            with suppress(ClientGone, ConnectionError):  # then nobody is left to be told
                await self._serve()
            await self._close()
        finally:
            self._abort()
            self._parser = None  # the two refer to each other
            del self._shared.connections[self]

    async def _serve(self) -> None:
        """Answer one request after the other until this connection takes no more."""
        shared = self._shared
        while self._messages or await self._next_message():
            message, payload = self.message, self.payload = self._messages.popleft()
            if self._parser is not None:
                self._parser.message_consumed()
            self._phase = Phase.SERVING
            started_s = shared.clock.monotonic_s()
            refusal = refusal_of_message(message)
            if refusal is not None:
                reply = shared.replies.refused(refusal, message.headers)
            elif shared.in_flight >= shared.http.requests_max:
                reply = shared.replies.refused(RequestRefused("too-many-requests"), message.headers)
            else:
                shared.in_flight += 1
                try:
                    reply = await shared.answer(self)
                finally:
                    shared.in_flight -= 1
            last = (
                message.should_close
                or refusal is not None
                or not payload.is_eof()
                or shared.draining
                or (self._closing and not self._messages and self._refusal is None)
            )
            self._send(reply, message, last=last)
            method = message.method if message.method in METHODS else OTHER_METHOD
            seconds = shared.clock.monotonic_s() - started_s
            shared.metrics.observe(method, reply.route, reply.status, seconds)
            if seconds >= shared.slow_s or reply.status >= 500:
                shared.traces.note_untraced(message, reply, started_s, seconds)
            self._since_s = shared.now_s
            if self.writing_paused:
                self._phase = Phase.WRITING
                await self._drain_helper()
                self._since_s = shared.now_s
            if last:
                return
            self._phase = Phase.HEADER if self._header_bytes else Phase.IDLE
        if self._refusal is not None:
            reply = shared.replies.refused(self._refusal, None)
            self._send(reply, None, last=True)
            shared.metrics.observe(OTHER_METHOD, UNMATCHED, reply.status, 0.0)

    async def _next_message(self) -> bool:
        """Wait until a request is parsed; False when none will be."""
        while not self._messages:
            if self._buffer_paused:  # the parser holds back what came after PIPELINED_MAX requests
                self._resume_reading_for_buffer()
                self.data_received(b"")
            elif self._closing:
                return False
            else:
                await self._woken()
        return True

    async def _close(self) -> None:
        """Close our half, and wait until the client closes its own or the sweep loses patience."""
        self._closing = True
        self._messages.clear()
        self._phase = Phase.LINGERING
        self._since_s = self._shared.now_s
        if self.transport is not None:
            if self._half_closed or self._nothing_to_say:
                self.transport.close()
            else:
                self.transport.write_eof()
        while self.transport is not None:
            await self._woken()

    def _send(self, reply: Reply, message: RawRequestMessage | None, *, last: bool) -> None:
        transport, shared = self.transport, self._shared
        if transport is None or transport.is_closing():
            raise ClientGone
        if last:
            end = shared.end_close
        elif message is not None and message.version is HttpVersion10:
            end = shared.end_keep_alive_10
        else:
            end = shared.end_keep_alive
        if message is not None and message.method == hdrs.METH_HEAD:
            transport.write(reply.head + end)
        else:
            transport.write(b"".join((reply.head, end, reply.body)))

    # Small changes of state.

    def _header_arrives(self, byte_count: int) -> None:
        if self._phase is Phase.IDLE:
            self._phase = Phase.HEADER
            self._since_s = self._shared.now_s
        self._header_bytes += byte_count
        if self._header_bytes > HEADER_BYTES_MAX:
            self._refuse(RequestRefused("headers-too-large"))

    def _refuse(self, refusal: RequestRefused) -> None:
        """Answer with ``refusal`` when its turn comes, and then no more."""
        self._closing = True
        if self._arriving is not None and not self._arriving.is_eof():
            self._arriving.set_exception(refusal)
            self._arriving = None
        else:
            self._refusal = refusal
        self._wake()

    def _hang_up(self) -> None:
        """Leave between two requests, when nothing has to be answered."""
        self._closing = True
        self._nothing_to_say = True
        self._wake()

    def _abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    async def _woken(self) -> None:
        self._wake_up = self._loop.create_future()
        await self._wake_up
        self._wake_up = None

    def _wake(self) -> None:
        if self._wake_up is not None and not self._wake_up.done():
            self._wake_up.set_result(None)


def _surface(task: asyncio.Task[None]) -> None:
    """Let the event loop report a bug at once, not when the task happens to be collected."""
    if not task.cancelled():
        task.result()
