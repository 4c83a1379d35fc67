"""One end of a connection, as asyncio's protocols see it.

Rules
-----
1. The kernel's half (``arrived``, ``window_opened``, ``crash``) works while the process is paused
   or dead; everything that calls the protocol is a callback of the process.
2. The protocol hears connection_made, then data_received any number of times, then perhaps
   eof_received, then connection_lost once. Nothing is received after ``close``.
3. Bytes keep their order and lose their boundaries: what arrived together is read together, and
   now and then a read returns less than there is.
4. What the window has no room for waits here, and beyond the high-water mark the protocol is
   told to pause writing. The limits and their logic are asyncio's own.
5. Bytes for an end that no longer exists are answered with a reset.
"""

import asyncio
from asyncio import protocols, transports
from collections.abc import Callable
from contextvars import Context
from typing import TYPE_CHECKING, Any

from tests.simulation.flow import Flow, Signal
from tests.simulation.processes import Process
from tests.simulation.server import SimServer

if TYPE_CHECKING:
    from tests.simulation.network import SimNetwork


class SimTransport(transports._FlowControlMixin):
    """What ``create_connection`` returns, and what a server's protocols are given.

    Args:
        network: Where it is registered while it is open.
        loop: Runs the callbacks.
        process: Whose end this is.
        server: Accepts the connection once its OPEN arrives; None at the connecting end.
        extra: ``sockname`` and ``peername``.
    """

    # asyncio's own, which its published types leave out.
    _loop: asyncio.AbstractEventLoop
    _maybe_pause_protocol: Callable[[], None]
    _maybe_resume_protocol: Callable[[], None]

    def __init__(
        self,
        network: "SimNetwork",
        loop: asyncio.AbstractEventLoop,
        process: Process,
        server: SimServer | None,
        extra: dict[str, Any],
    ) -> None:
        super().__init__(extra, loop)
        self.process = process
        self._network = network
        self._server = server
        self._protocol: asyncio.BaseProtocol
        self._peer: SimTransport
        self._outgoing: Flow
        self._incoming: Flow
        self._unsent = bytearray()
        self._arrived = bytearray()
        self._fin_arrived = self._reset_arrived = False
        self._started = self._paused = self._closing = False
        self._eof_written = self._fin_sent = False
        #: connection_lost is due; it has been called.
        self._losing = self._lost = False
        self._read_due = self._write_due = False

    def join(self, peer: "SimTransport") -> None:
        """Lay the two flows between both ends."""
        self._peer, peer._peer = peer, self
        self._outgoing = peer._incoming = Flow(self._network, self, peer)
        self._incoming = peer._outgoing = Flow(self._network, peer, self)
        self._outgoing.back, self._incoming.back = self._incoming, self._outgoing

    def start(self, protocol: asyncio.BaseProtocol) -> None:
        """Give the connection to its protocol. Runs in the process."""
        self._protocol = protocol
        protocol.connection_made(self)
        self._started = True
        self._wake_reader()

    @property
    def half_open(self) -> bool:
        """Whether it is in use, and its other end is not, or a reset is under way to it."""
        ends = self._peer._losing or self._reset_arrived or self._incoming.brings_reset
        return self._started and not self._losing and ends

    # The kernel's half --------------------------------------------------------------------

    def open(self) -> None:
        """End the handshake, as the connecting side."""
        self._outgoing.send(Signal.OPEN)

    def arrived(self, part: bytes | Signal) -> None:
        """Take what the wire brought."""
        if self._lost or self.process.dead:
            if isinstance(part, bytes) or part is Signal.OPEN:
                self._outgoing.send(Signal.RESET)
            return
        match part:
            case Signal.OPEN:
                self._accept_or_refuse()
            case Signal.FIN:
                self._fin_arrived = True
            case Signal.RESET:
                self._reset_arrived = True
                self._wake_writer()
            case _:
                self._arrived += part
        self._wake_reader()

    def window_opened(self) -> None:
        """Learn that the peer has read something, so there is room to send."""
        self._wake_writer()

    def reset(self) -> None:
        """Send the peer a reset."""
        self._outgoing.send(Signal.RESET)

    def break_off(self, *, will: bool = True) -> None:
        """Let the connection end in the middle of what this end sends next, or let it not."""
        self._outgoing.breaks_off = will

    def crash(self) -> None:
        """Vanish with the process: the protocol hears nothing."""
        self._closing = self._losing = True

    def _accept_or_refuse(self) -> None:
        assert self._server is not None
        if self._server.is_serving():
            self._soon(self._accept)
        else:
            self._lost = True
            self._network.forget(self)
            self._outgoing.send(Signal.RESET)

    def _wake_reader(self) -> None:
        something = self._arrived or self._fin_arrived or self._reset_arrived
        if self._started and something and self.is_reading() and not self._read_due:
            self._read_due = True
            slow = self._network.slow_readers.get(self.process.name)
            if slow is None:
                self._soon(self._read_ready)
            else:
                self._loop.call_later(slow[1], self._read_ready, context=self.process.context)

    def _wake_writer(self) -> None:
        if self._unsent and not self._write_due:
            self._write_due = True
            self._soon(self._write_ready)

    def _soon(self, callback: Callable[..., None], *args: object) -> None:
        context: Context = self.process.context
        self._loop.call_soon(callback, *args, context=context)

    # Callbacks of the process -------------------------------------------------------------

    def _accept(self) -> None:
        assert self._server is not None
        self.start(self._server.protocol_factory())

    def _read_ready(self) -> None:
        self._read_due = False
        if not self.is_reading():
            return
        if self._arrived:
            size = self._network.read_bytes(self.process.name, len(self._arrived))
            received = bytes(self._arrived[:size])
            del self._arrived[:size]
            self._incoming.was_read(size)
            self._wake_reader()
            self._feed(received)
        elif self._reset_arrived:
            self._lose(ConnectionResetError("reset by peer"))
        elif self._fin_arrived:
            self._fin_arrived = False
            assert isinstance(self._protocol, asyncio.Protocol | asyncio.BufferedProtocol)
            if not self._protocol.eof_received():
                self.close()

    def _feed(self, received: bytes) -> None:
        if isinstance(self._protocol, asyncio.BufferedProtocol):
            feed = protocols._feed_data_to_buffered_proto  # type: ignore[attr-defined]
            feed(self._protocol, received)
        else:
            assert isinstance(self._protocol, asyncio.Protocol)
            self._protocol.data_received(received)

    def _write_ready(self) -> None:
        self._write_due = False
        if self._losing:
            return
        self._send()
        self._maybe_resume_protocol()
        if self._closing and not self._unsent:
            self._lose(None)

    def _connection_lost(self, error: Exception | None) -> None:
        self._lost = True
        self._network.forget(self)
        self._protocol.connection_lost(error)

    def _send(self) -> None:
        if self._reset_arrived:
            self._lose(ConnectionResetError("reset by peer"))
            return
        size = min(len(self._unsent), self._outgoing.room_bytes)
        if size:
            self._outgoing.send(bytes(self._unsent[:size]))
            del self._unsent[:size]
        if self._unsent:
            self._network.full_window_count += 1
        if not self._unsent and (self._closing or self._eof_written) and not self._fin_sent:
            self._fin_sent = True
            self._outgoing.send(Signal.FIN)

    def _lose(self, error: Exception | None) -> None:
        if not self._losing:
            self._losing = self._closing = True
            self._unsent.clear()
            self._soon(self._connection_lost, error)

    # asyncio.Transport --------------------------------------------------------------------

    def get_protocol(self) -> asyncio.BaseProtocol:
        """The protocol that hears of this connection."""
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Let another protocol hear of it from now on."""
        self._protocol = protocol

    def is_reading(self) -> bool:
        """Neither paused nor closing."""
        return not (self._paused or self._closing)

    def pause_reading(self) -> None:
        """Leave what arrives in the kernel, until the window is full."""
        self._paused = True

    def resume_reading(self) -> None:
        """Read again."""
        self._paused = False
        self._wake_reader()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send, or keep what does not fit. After ``close`` it is dropped."""
        assert isinstance(data, bytes | bytearray | memoryview), type(data)
        if self._eof_written:
            raise RuntimeError("write after write_eof")
        if data and not self._closing:
            waiting = len(self._unsent) > 0
            self._unsent += data
            if not waiting:
                self._send()
            self._maybe_pause_protocol()

    def get_write_buffer_size(self) -> int:
        """Bytes that the window had no room for."""
        return len(self._unsent)

    def can_write_eof(self) -> bool:
        """As TCP can."""
        return True

    def write_eof(self) -> None:
        """Say that nothing will follow, once what was written is on its way."""
        if not (self._closing or self._eof_written):
            self._eof_written = True
            self._send()

    def is_closing(self) -> bool:
        """Closed, or about to be."""
        return self._closing

    def close(self) -> None:
        """Send what was written, then end; read nothing more."""
        if not self._closing:
            self._closing = True
            self._send()
            if not self._unsent:
                self._lose(None)

    def abort(self) -> None:
        """End at once: what was not sent is lost, and the peer gets a reset."""
        if not self._losing:
            self._outgoing.send(Signal.RESET)
            self._lose(None)
