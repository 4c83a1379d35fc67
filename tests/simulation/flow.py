"""One direction of a connection: what the kernels and the wire hold of it.

Rules
-----
1. What is sent arrives once, whole and in order, each part after the link's latency or later.
2. The network's window bounds what was sent and has not been read. Beyond it the sender must wait,
   as with TCP; so a reader that stops (paused, or slow) is felt by the writer.
3. What reaches a cut link or a machine without power is held and sent again once that is over:
   TCP retransmits. Two things end that: the sender's machine loses power, or its kernel resets
   the connection (as when the process dies). Then what was held is lost, and so is the reset.
"""

from collections import deque
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

import msgspec

from tests.simulation.processes import ProcessState

if TYPE_CHECKING:
    from tests.simulation.network import SimNetwork
    from tests.simulation.transport import SimTransport

WINDOW_BYTES: Final = 64 * 1024


class Signal(Enum):
    """What travels beside bytes."""

    OPEN = auto()  # the end of the handshake: the server may accept
    FIN = auto()  # no more bytes will follow
    RESET = auto()  # the connection is gone


class Sent(msgspec.Struct):
    """Something that was put on the wire; nobody looks at it unless the run fails."""

    at_s: float
    flow: "Flow"
    part: bytes | Signal
    #: None: it is under way, or never came.
    arrived_s: float | None = None
    #: Whether it came as it was sent.
    sound: bool = True


class Flow:
    """From ``sender`` to ``receiver``."""

    def __init__(
        self, network: "SimNetwork", sender: "SimTransport", receiver: "SimTransport"
    ) -> None:
        self._network = network
        self._sender, self._receiver = sender, receiver
        self.source, self.target = sender.process.name, receiver.process.name
        #: The other direction.
        self.back: Flow
        self._travelling: deque[Sent] = deque()
        self._last_arrival_s = 0.0
        self._unread_bytes = 0
        self._held = False
        #: Whether the connection is to end in the middle of the next bytes.
        self.breaks_off = False

    @property
    def room_bytes(self) -> int:
        """How much may be sent now."""
        return max(0, self._network.window_bytes - self._unread_bytes)

    def send(self, part: bytes | Signal) -> None:
        """Put a part on the way; bytes must fit in the window."""
        if isinstance(part, bytes):
            assert 0 < len(part) <= self.room_bytes
            self._unread_bytes += len(part)
        self._put_on_the_wire(part)
        # What overtakes an earlier part on the wire waits for it in the receiver's kernel.
        arrives_s = self._network.arrival_s(self.source, self.target)
        self._last_arrival_s = max(self._last_arrival_s, arrives_s)
        self._network.at(self._last_arrival_s, self._arrive)

    @property
    def brings_reset(self) -> bool:
        """Whether a reset is under way."""
        return any(sent.part is Signal.RESET for sent in self._travelling)

    def was_read(self, byte_count: int) -> None:
        """The receiving process took bytes out of its kernel's buffer."""
        self._unread_bytes -= byte_count
        self._sender.window_opened()

    def _arrive(self) -> None:
        blocked = self._network.blocked(self.source, self.target)
        if (blocked or self._held) and self._is_not_sent_again():
            self._travelling.clear()
        self._held = blocked and len(self._travelling) > 0
        if self._held:
            self._network.hold(self.source, self.target, self._arrive)
        elif self._travelling:
            sent = self._travelling.popleft()
            part = sent.part
            if isinstance(part, bytes):
                part = self._network.carried(self.source, self.target, part)
                if self.breaks_off:
                    part = self._break_off_in(part)
            sent.arrived_s, sent.sound = self._network.now_s, part is sent.part
            size = len(part) if isinstance(part, bytes) else part.name
            self._network.record(f"{self.source}>{self.target} {size}")
            self._receiver.arrived(part)

    def _break_off_in(self, part: bytes) -> bytes | Signal:
        """Both ends get a reset, the receiver after what arrives of the part."""
        self._travelling.clear()
        self._receiver.reset()
        arriving = self._network.broken_off(part)
        if not arriving:
            return Signal.RESET
        self._put_on_the_wire(Signal.RESET)
        self._network.at(self._last_arrival_s, self._arrive)
        return arriving

    def _put_on_the_wire(self, part: bytes | Signal) -> None:
        sent = Sent(self._network.now_s, self, part)
        self._travelling.append(sent)
        self._network.sent.append(sent)

    def _is_not_sent_again(self) -> bool:
        # The kernel of a killed process goes on sending what was written before a ``close``.
        powerless = self._sender.process.state is ProcessState.POWERED_OFF
        return powerless or (
            len(self._travelling) > 0 and self._travelling[-1].part is Signal.RESET
        )
