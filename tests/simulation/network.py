"""The network between simulated machines, and what can go wrong with it.

Rules
-----
1. A link is directed: from one machine to another. Each way has its latency and can be cut alone.
2. A cut swallows silently. What is underway then is held, and travels again after ``heal``;
   resets are lost. So a connection attempt over a cut link hangs, until the caller gives up.
3. A machine without power is the same as cut off, until it is started again; it then knows
   nothing of the connections it had, and answers them with resets.
4. A port without a listener refuses, and so does a link that is told to.
5. A handshake takes one round trip and a half: the server sees a connection later than the
   client does, perhaps never.
6. Bytes can be changed on a link, which TCP's checksum does not notice; a connection can end in
   the middle of what travels; and a process can be slow in reading, which its peers' writers feel
   once the window is full.
7. TCP's own patience is not simulated: no keep-alive, and no end to retransmission (some 15
   minutes with Linux). Nor is bandwidth: a part's size does not delay it.
"""

import asyncio
import errno
from collections.abc import Callable, Iterable, Mapping
from contextvars import Context
from functools import partial
from math import inf
from random import Random
from typing import Final

from tests.simulation.flow import WINDOW_BYTES, Sent
from tests.simulation.processes import Process, ProcessState, current_process
from tests.simulation.server import Address, ProtocolFactory, SimServer
from tests.simulation.transport import SimTransport

#: Seconds from one machine to another (uniform between the two), and within one.
LINK_LATENCY_S: Final = (0.000_2, 0.002)
LOOPBACK_LATENCY_S: Final = (0.000_02, 0.000_05)
#: How many reads return less than has arrived: one in this many.
_SHORT_READ_ONE_IN: Final = 16
_FIRST_EPHEMERAL_PORT: Final = 49_152

Link = tuple[str, str]


class SimNetwork:
    """Every link, listener and open connection.

    Args:
        loop: Virtual time.
        processes: The newest process of each machine, by name.
        random: Latencies and short reads.
        record: Takes the trace's events.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        processes: Mapping[str, Process],
        random: Random,
        record: Callable[[str], None],
    ) -> None:
        self.record = record
        #: Seconds (least, most) of links that differ from LINK_LATENCY_S.
        self.latency_s: dict[Link, tuple[float, float]] = {}
        #: All that was ever put on the wire, to be told if the run fails (``ladder``).
        self.sent: list[Sent] = []
        #: What TCP takes in for a reader, on every connection.
        self.window_bytes = WINDOW_BYTES
        #: Links that change a byte of what travels, of one part in so many.
        self.damaging: dict[Link, int] = {}
        #: Machines whose process reads so many bytes, once in so many seconds.
        self.slow_readers: dict[str, tuple[int, float]] = {}
        #: How often bytes were changed, a part was broken off, and a window was full.
        self.damaged_count = self.broken_off_count = self.full_window_count = 0
        #: When bytes were last changed.
        self.damaged_s = -inf
        self._loop = loop
        self._processes = processes
        self._random = random
        self._cut: set[Link] = set()
        self._refusing: set[Link] = set()
        self._held: list[tuple[Link, Callable[[], None]]] = []
        self._listeners: dict[Address, SimServer] = {}
        self._open: dict[SimTransport, None] = {}
        self._next_port = _FIRST_EPHEMERAL_PORT
        self._unowned = Context()

    # Faults -------------------------------------------------------------------------------

    def cut(self, source: str, target: str) -> None:
        """Swallow everything from ``source`` to ``target``, until ``heal``."""
        assert source != target
        self._cut.add((source, target))

    def partition(self, one_side: Iterable[str], other_side: Iterable[str]) -> None:
        """Cut every link between the two sides, both ways."""
        others = list(other_side)
        for one in one_side:
            for other in others:
                self.cut(one, other)
                self.cut(other, one)

    def refuse(self, source: str, target: str) -> None:
        """Refuse new connections from ``source`` to ``target``, until ``heal``."""
        self._refusing.add((source, target))

    def heal(self, source: str, target: str) -> None:
        """Undo ``cut`` and ``refuse`` of one link."""
        self._cut.discard((source, target))
        self._refusing.discard((source, target))
        self.release()

    def heal_all(self) -> None:
        """Undo every ``cut`` and ``refuse``, and whatever else befell links and readers."""
        self._cut.clear()
        self._refusing.clear()
        for transport in self._open:
            transport.break_off(will=False)
        self.damaging.clear()
        self.slow_readers.clear()
        self.release()

    def reset(self, one: str, other: str) -> None:
        """Break every open connection between two machines, as a firewall that restarts does."""
        for transport in self._between(one, other):
            transport.reset()

    def break_off(self, one: str, other: str) -> None:
        """The same, but in the middle of what travels next: only a part of that arrives."""
        for transport in self._between(one, other):
            transport.break_off()

    def _between(self, one: str, other: str) -> list[SimTransport]:
        return [
            transport
            for transport in self._open
            if {transport.process.name, transport.get_extra_info("peername")[0]} == {one, other}
        ]

    def half_open(self) -> list[SimTransport]:
        """Ends of connections that are over, and have not heard of it."""
        return [transport for transport in self._open if transport.half_open]

    def process_killed(self, process: Process) -> None:
        """Close its sockets, as the kernel does: peers get resets."""
        for transport in self.process_lost(process):
            transport.reset()

    def process_lost(self, process: Process) -> list[SimTransport]:
        """Forget its sockets and tell nobody. Returns its ends of connections."""
        for server in [s for s in self._listeners.values() if s.process is process]:
            server.close()
        ends = [transport for transport in self._open if transport.process is process]
        for transport in ends:
            transport.crash()
            self.forget(transport)
        return ends

    def close(self) -> None:
        """End the world: every connection vanishes."""
        for transport in self._open:
            transport.crash()
        self._open.clear()

    # Servers and connections --------------------------------------------------------------

    def listen(
        self, factory: ProtocolFactory, host: str | None, port: int, options: Mapping[str, object]
    ) -> SimServer:
        """Open a port of the running process's machine; 0 picks a free one."""
        _check_options(options)
        process = _running_process()
        if host not in {None, process.name}:
            raise OSError(errno.EADDRNOTAVAIL, f"{host} is not an address of {process.name}")
        port = port or self._ephemeral_port()
        if (process.name, port) in self._listeners:
            raise OSError(errno.EADDRINUSE, f"{process.name}:{port} is in use")
        return SimServer(self._loop, self._listeners, process, port, factory)

    async def connect(
        self, factory: ProtocolFactory, host: str, port: int, options: Mapping[str, object]
    ) -> tuple[SimTransport, asyncio.BaseProtocol]:
        """Connect the running process to a port of the machine ``host``."""
        _check_options(options)
        process = _running_process()
        if host not in self._processes:
            raise OSError(errno.EHOSTUNREACH, f"there is no machine {host}")
        answer: asyncio.Future[SimServer] = self._loop.create_future()
        self._carry(process.name, host, partial(self._ask, process.name, (host, port), answer))
        server = await answer
        local = (process.name, self._ephemeral_port())
        mine = SimTransport(
            self, self._loop, process, None, {"sockname": local, "peername": server.address}
        )
        theirs = SimTransport(
            self,
            self._loop,
            server.process,
            server,
            {"sockname": server.address, "peername": local},
        )
        mine.join(theirs)
        self._open[mine] = self._open[theirs] = None
        mine.open()
        protocol = factory()
        mine.start(protocol)
        return mine, protocol

    def _ask(self, source: str, address: Address, answer: "asyncio.Future[SimServer]") -> None:
        # The kernel of the addressed machine, to which a SYN came.
        server = self._listeners.get(address)
        if (source, address[0]) in self._refusing:
            server = None
        self._carry(address[0], source, partial(_answer, answer, server, address))

    def _ephemeral_port(self) -> int:
        self._next_port += 1
        return self._next_port - 1

    # For flows and transports -------------------------------------------------------------

    @property
    def now_s(self) -> float:
        """Virtual time."""
        return self._loop.time()

    def blocked(self, source: str, target: str) -> bool:
        """Whether nothing gets through, for now."""
        machine_off = self._processes[target].state is ProcessState.POWERED_OFF
        return machine_off or (source, target) in self._cut

    def arrival_s(self, source: str, target: str) -> float:
        """When something sent now arrives."""
        usual = LOOPBACK_LATENCY_S if source == target else LINK_LATENCY_S
        return self._loop.time() + self._random.uniform(
            *self.latency_s.get((source, target), usual)
        )

    def at(self, when_s: float, action: Callable[[], None]) -> None:
        """Run an action of the wire or a kernel, whatever becomes of the processes."""
        self._loop.call_at(when_s, action, context=self._unowned)

    def hold(self, source: str, target: str, action: Callable[[], None]) -> None:
        """Keep what reached a blocked link, for after it."""
        self._held.append(((source, target), action))

    def release(self) -> None:
        """Send again what was held by links that are no longer blocked."""
        held, self._held = self._held, []
        for link, action in held:
            if self.blocked(*link):
                self._held.append((link, action))
            else:
                self.at(self.arrival_s(*link), action)

    def carried(self, source: str, target: str, part: bytes) -> bytes:
        """What becomes of a part on the wire."""
        one_in = self.damaging.get((source, target))
        if one_in is None or self._random.randrange(one_in):
            return part
        damaged = bytearray(part)
        damaged[self._random.randrange(len(part))] ^= self._random.randrange(1, 256)
        self.damaged_count += 1
        self.damaged_s = self._loop.time()
        return bytes(damaged)

    def broken_off(self, part: bytes) -> bytes:
        """What arrives of a part that ends in the middle; perhaps nothing."""
        self.broken_off_count += 1
        return part[: self._random.randrange(len(part))]

    def read_bytes(self, process: str, arrived_bytes: int) -> int:
        """How many of the arrived bytes a read returns, at least 1."""
        slow = self.slow_readers.get(process)
        if slow is not None:
            return min(slow[0], arrived_bytes)
        if arrived_bytes > 1 and self._random.randrange(_SHORT_READ_ONE_IN) == 0:
            return self._random.randrange(1, arrived_bytes)
        return arrived_bytes

    def forget(self, transport: SimTransport) -> None:
        """Drop a connection's end that no longer exists."""
        self._open.pop(transport, None)

    def _carry(self, source: str, target: str, action: Callable[[], None]) -> None:
        self.at(self.arrival_s(source, target), partial(self._land, source, target, action))

    def _land(self, source: str, target: str, action: Callable[[], None]) -> None:
        if self.blocked(source, target):
            self.hold(source, target, partial(self._land, source, target, action))
        else:
            action()


def _answer(
    answer: "asyncio.Future[SimServer]", server: SimServer | None, address: Address
) -> None:
    if answer.done():
        return  # the caller gave up
    if server is None:
        answer.set_exception(ConnectionRefusedError(errno.ECONNREFUSED, f"{address} refused"))
    else:
        answer.set_result(server)


def _running_process() -> Process:
    process = current_process()
    assert process is not None, "only a process has a network"
    return process


def _check_options(options: Mapping[str, object]) -> None:
    for name in ("ssl", "sock", "local_addr"):
        if options.get(name):
            raise NotImplementedError(f"{name}: the simulation speaks plain TCP only")
