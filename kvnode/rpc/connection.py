"""One connection: frames in both directions, requests and answers interleaved.

Rules
-----
1. What is sent within one tick leaves as one frame, at the tick's end (or sooner when it grows
   beyond FLUSH_BYTES).
2. Every request gets exactly one outcome: an answer, a failure, or a loss (deadline, connection
   gone). The outcome never arrives inside ``request`` itself.
3. A peer that does not drain what is sent makes requests fail at once (bounded write buffer)
   instead of queueing without end.
4. A side that has been silent sends an empty frame; a side that hears nothing for
   SILENCE_S closes. So a blackholed link is noticed without a request on it.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final, Protocol, cast

from cluster.layout import Version
from kvnode.ports import Clock
from kvnode.rpc.frames import (
    FRAME_BYTES_MAX,
    FrameDecoder,
    Message,
    ProtocolError,
    encode_frame,
)
from kvnode.rpc.handshake import Handshake
from kvnode.rpc.operations import OPEN_REQUESTS_MAX, Fields, Op
from kvnode.sweep import DeadlineSweep

#: Queued bytes that make a frame leave before the tick ends; well below the frame's cap.
FLUSH_BYTES: Final = 256 * 1024
#: Unsent bytes beyond which requests are refused.
UNSENT_BYTES_MAX: Final = 8 * 1024 * 1024
HEARTBEAT_S: Final = 1.0
#: Two heartbeats may be missed, and half a second more: a process may stand still for as long. With
#: it a region that is cut off is seen in every view, and is an alert, within five seconds.
SILENCE_S: Final = 3.5
#: From a frame's first byte to its last. The length of one that was damaged can claim bytes that
#: come hours later, and what is sent meanwhile would be taken for them.
FRAME_S: Final = 10.0
HANDSHAKE_TIMEOUT_S: Final = 3.0
_SWEEP_TICK_S: Final = 0.05
#: Between two looks at what is due, should a timer come too early for it.
_WATCH_S_MIN: Final = 0.01
_MESSAGE_OVERHEAD_BYTES: Final = 64


class Lost:
    """Why a request has no answer. ``sent``: the other side may have carried it out."""

    __slots__ = ("code", "detail", "extra", "sent")

    def __init__(self, code: str, detail: str, *, sent: bool, extra: Fields | None = None) -> None:
        self.code, self.detail, self.sent, self.extra = code, detail, sent, extra or []

    def __repr__(self) -> str:
        return f"Lost({self.code!r}, {self.detail!r}, sent={self.sent})"


#: The fields of an answer, or why there is none.
Outcome = Fields | Lost
OnOutcome = Callable[[Outcome], None]


def settle(outcome: "asyncio.Future[Outcome]") -> OnOutcome:
    """For whoever awaits an outcome, and may have been cancelled when it arrives."""

    def on_outcome(found: Outcome) -> None:
        if not outcome.done():
            outcome.set_result(found)

    return on_outcome


class Listener(Protocol):
    """What a connection tells its owner."""

    def established(self, connection: "Connection", peer: str) -> None:
        """Both sides have proved who they are."""

    def request_received(self, connection: "Connection", message: Message) -> None:
        """A request arrived: [operation, request id, timeout_ms, *fields]."""

    def closed(self, connection: "Connection", reason: str) -> None:
        """The connection is gone; its open requests have been lost."""


class Answers(Protocol):
    """Where a request is answered: a connection, or what takes notes around it."""

    def reply(self, request_id: int, fields: Fields, size_bytes: int) -> None:
        """Answer a request."""

    def fail(self, request_id: int, code: str, detail: str, *extra: object) -> None:
        """Answer a request with a failure."""

    def abort(self, reason: str) -> None:
        """Close without waiting for what is unsent."""


class _OpenRequest:
    """A request on its way; see ``kvnode.sweep.Expiring``."""

    __slots__ = ("began_s", "deadline_s", "on_outcome", "op")

    def __init__(self, op: Op, began_s: float, deadline_s: float, on_outcome: OnOutcome) -> None:
        self.op = op
        self.began_s = began_s
        self.deadline_s = deadline_s
        self.on_outcome = on_outcome

    def expire(self) -> None:
        self.on_outcome(Lost("timeout", "no answer in time", sent=True))


class Answered:
    """How many requests of one operation a peer has answered, and how long that took it."""

    __slots__ = ("count", "total_s")

    def __init__(self) -> None:
        self.count = 0
        self.total_s = 0.0


class Connection(asyncio.Protocol):
    """See the module's rules. The handshake is made by whoever knows the secret."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        handshake: Handshake,
        listener: Listener,
    ) -> None:
        self._loop = loop
        self._clock = clock
        self._handshake = handshake
        self._listener = listener
        self._decoder = FrameDecoder()
        self._transport: asyncio.Transport | None = None
        self._outgoing: list[Any] = []
        self._outgoing_bytes = 0
        self._flush_scheduled = False
        self._open = DeadlineSweep(loop, clock, _SWEEP_TICK_S)
        self._established = False
        self._close_reason = ""
        self._heard_s = self._wrote_s = self._began_s = clock.monotonic_s()
        self._watch: asyncio.TimerHandle | None = None
        #: By operation; whoever made this connection may put one in its place that outlives it.
        self.answered: dict[Op, Answered] = {}

    @property
    def open_count(self) -> int:
        """Requests that have no outcome yet."""
        return len(self._open)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say hello at once; both sides do."""
        self._transport = cast("asyncio.Transport", transport)
        if self._close_reason:  # its owner gave up before it was made
            self._transport.abort()
            return
        self._transport.set_write_buffer_limits(high=UNSENT_BYTES_MAX)
        self.send([Op.HELLO, *self._handshake.hello()], 0)
        self._watch = self._loop.call_later(HANDSHAKE_TIMEOUT_S, self._watch_handshake)

    def data_received(self, data: bytes) -> None:
        """Decode, then act on each message."""
        self._heard_s = self._clock.monotonic_s()
        if not self._decoder.in_frame:
            self._began_s = self._heard_s
        try:
            self._decoder.feed(data)
            while (messages := self._decoder.next_frame()) is not None:
                self._began_s = self._heard_s  # of what is behind this one
                for message in messages:
                    if self._close_reason:
                        return  # refused or replaced by what came before
                    if self._established:
                        self._receive(message)
                    else:
                        self._receive_handshake(message)
        except ProtocolError as error:
            self._refuse(str(error))

    def connection_lost(self, exc: Exception | None) -> None:
        """All open requests are lost: they may or may not have been carried out."""
        if self._watch is not None:
            self._watch.cancel()
        self._transport = None
        reason = self._close_reason or (f"connection lost: {exc}" if exc else "closed by peer")
        self._close_reason = reason
        lost = Lost("unreachable", reason, sent=True)
        for entry in self._open.drain():
            cast("_OpenRequest", entry).on_outcome(lost)
        self._listener.closed(self, reason)

    # requests and answers

    def request(
        self, op: Op, deadline_s: float, fields: Fields, size_bytes: int, on_outcome: OnOutcome
    ) -> None:
        """Send a request; ``on_outcome`` is called once, later.

        Args:
            deadline_s: A reading of ``Clock.monotonic_s``; what remains of it travels along.
            size_bytes: About how large the fields are.
        """
        transport = self._transport
        if transport is None or not self._established:
            lost = Lost("unreachable", self._close_reason or "not connected", sent=False)
            self._loop.call_soon(on_outcome, lost)
            return
        if (
            len(self._open) >= OPEN_REQUESTS_MAX
            or transport.get_write_buffer_size() > UNSENT_BYTES_MAX
        ):
            lost = Lost("overloaded", "peer does not keep up", sent=False)
            self._loop.call_soon(on_outcome, lost)
            return
        now_s = self._clock.monotonic_s()
        timeout_ms = max(0, int((deadline_s - now_s) * 1000))
        number = self._open.add(_OpenRequest(op, now_s, deadline_s, on_outcome))
        self.send([op, number, timeout_ms, *fields], size_bytes)

    def reply(self, request_id: int, fields: Fields, size_bytes: int) -> None:
        """Answer a request."""
        self.send([Op.REPLY, request_id, *fields], size_bytes)

    def fail(self, request_id: int, code: str, detail: str, *extra: object) -> None:
        """Answer a request with a failure."""
        self.send([Op.FAILED, request_id, code, detail, *extra], 0)

    def send(self, message: Fields, size_bytes: int) -> None:
        """Queue one message for this tick's frame."""
        if self._transport is None:
            return
        size_bytes += _MESSAGE_OVERHEAD_BYTES
        if self._outgoing_bytes + size_bytes > FLUSH_BYTES and self._outgoing:
            self._flush()
        self._outgoing.append(message)
        self._outgoing_bytes += size_bytes
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush_tick)

    def close(self, reason: str) -> None:
        """Close; ``closed`` follows, if the connection was ever made."""
        self._close_reason = self._close_reason or reason
        if self._transport is not None:
            self._flush()
            self._transport.close()

    def abort(self, reason: str) -> None:
        """Close without waiting for what is unsent; ``closed`` follows."""
        if self._transport is not None:
            self._close_reason = self._close_reason or reason
            self._transport.abort()

    # inside

    def _flush_tick(self) -> None:
        self._flush_scheduled = False
        self._flush()

    def _flush(self) -> None:
        if self._outgoing and self._transport is not None:
            self._transport.write(encode_frame(self._outgoing))
            self._wrote_s = self._clock.monotonic_s()
        self._outgoing = []
        self._outgoing_bytes = 0

    def _receive(self, message: Message) -> None:
        op = message[0]
        if op > Op.REFUSED:
            self._listener.request_received(self, message)
        elif op in (Op.REPLY, Op.FAILED):
            self._receive_answer(message)
        elif op == Op.REFUSED:
            self.close(f"refused by peer: {message[1:2]}")
        else:
            msg = f"operation {op} after the handshake"
            raise ProtocolError(msg)

    def _receive_answer(self, message: Message) -> None:
        failed = message[0] == Op.FAILED
        # All checked before the request is taken out: it must not be left without an outcome.
        if len(message) < (4 if failed else 2) or not isinstance(message[1], int):
            msg = "not an answer"
            raise ProtocolError(msg)
        entry = self._open.pop(message[1])
        if entry is None:
            return  # its deadline has passed; the caller was told
        asked = cast("_OpenRequest", entry)
        answered = self.answered.get(asked.op)
        if answered is None:
            answered = self.answered[asked.op] = Answered()
        answered.count += 1
        answered.total_s += self._clock.monotonic_s() - asked.began_s
        on_outcome = asked.on_outcome
        if failed:
            _, _, code, detail, *extra = message
            on_outcome(Lost(str(code), str(detail), sent=False, extra=extra))
        else:
            on_outcome(message[2:])

    @property
    def peer_layouts(self) -> list[Version]:
        """What the other side knew when it connected."""
        return self._handshake.peer_layouts

    def _receive_handshake(self, message: Message) -> None:
        op = message[0]
        if op == Op.HELLO:
            self.send([Op.PROOF, self._handshake.receive_hello(message)], 0)
            # In a frame of its own: the other side takes only 1 KiB until it has checked it, and
            # requests may follow within this tick.
            self._flush()
        elif op == Op.PROOF:
            peer = self._handshake.receive_proof(message)
            self._established = True
            self._decoder.payload_bytes_max = FRAME_BYTES_MAX
            assert self._watch is not None
            self._watch.cancel()
            self._watch = self._loop.call_later(HEARTBEAT_S, self._watch_silence)
            self._listener.established(self, peer)
        elif op == Op.REFUSED:
            self.close(f"refused by peer: {message[1:2]}")
        else:
            msg = f"operation {op} before the handshake"
            raise ProtocolError(msg)

    def _refuse(self, reason: str) -> None:
        self.send([Op.REFUSED, reason], 0)
        self.close(f"protocol error: {reason}")

    def _watch_handshake(self) -> None:
        self.abort("no handshake in time")

    def _watch_silence(self) -> None:
        now_s = self._clock.monotonic_s()
        if now_s - self._heard_s >= SILENCE_S:
            self.abort(f"nothing heard for {SILENCE_S:g} s")
            return
        if self._decoder.in_frame and now_s - self._began_s > FRAME_S:
            self.abort(f"a frame has not ended for {FRAME_S:g} s")
            return
        if now_s - self._wrote_s >= HEARTBEAT_S and self._transport is not None:
            self._transport.write(encode_frame([]))
            self._wrote_s = now_s
        # To the moment: looked at once a second, a silence would be noticed up to a second late.
        due_s = min(self._wrote_s + HEARTBEAT_S, self._heard_s + SILENCE_S)
        self._watch = self._loop.call_later(max(due_s - now_s, _WATCH_S_MIN), self._watch_silence)
