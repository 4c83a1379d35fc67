"""The network between nodes: a userspace TCP proxy for each directed link.

Rules
-----
1. A link is one direction between two nodes. A connection carries bytes over two links, whoever
   dialled it; each link has its own troubles, any number at once.
2. Bytes on a link that holds them are late, not lost, as TCP would have it: they go on when it
   heals, if both ends still want them. So does the end of a connection.
3. Nodes know nothing of this: the cluster file that each reads names proxies as its peers' ports.
"""

import asyncio
import contextlib
import random
import socket
import struct
from collections.abc import Collection, Mapping
from typing import Final

import msgspec

_CHUNK_BYTES: Final = 64 * 1024
#: Chunks under way on one link of one connection; beyond it the sender feels back pressure.
_CHUNKS_MAX: Final = 64
#: Below the range from which the kernel takes ports for outgoing connections.
_PORTS: Final = range(12_000, 19_999)
#: SO_LINGER with no time: closing sends a reset.
_RESET: Final = struct.pack("ii", 1, 0)

Address = tuple[str, int]


class Trouble(msgspec.Struct, frozen=True, kw_only=True):
    """What a link does to bytes."""

    holds: bool = False
    delay_s: float = 0.0
    #: 0: as many as the machine can.
    bytes_per_s: float = 0.0
    #: Share of chunks in which one bit is flipped.
    flips: float = 0.0


class Link:
    """One direction between two nodes."""

    def __init__(self, source: str, target: str, chance: random.Random) -> None:
        self.source, self.target = source, target
        self._chance = chance
        self._troubles: list[Trouble] = []
        #: Set while no trouble holds what is sent.
        self._free = asyncio.Event()
        self._free.set()
        #: Chunks that were changed.
        self.flipped = 0

    def add(self, trouble: Trouble) -> None:
        """From now on."""
        self._troubles.append(trouble)
        self._changed()

    def remove(self, trouble: Trouble) -> None:
        """Of equal ones, one."""
        self._troubles.remove(trouble)
        self._changed()

    def clear(self) -> None:
        """Of all troubles."""
        self._troubles.clear()
        self._changed()

    @property
    def delay_s(self) -> float:
        """Of what is sent now."""
        return sum(trouble.delay_s for trouble in self._troubles)

    async def passage(self, size_bytes: int) -> None:
        """Return when so many bytes may arrive."""
        await self._free.wait()
        limits = [one.bytes_per_s for one in self._troubles if one.bytes_per_s]
        if limits:
            await asyncio.sleep(size_bytes / min(limits))

    def spoilt(self, chunk: bytes) -> bytes:
        """What arrives of a chunk."""
        if not any(self._chance.random() < one.flips for one in self._troubles if one.flips):
            return chunk
        self.flipped += 1
        changed = bytearray(chunk)
        changed[self._chance.randrange(len(changed))] ^= 1 << self._chance.randrange(8)
        return bytes(changed)

    def _changed(self) -> None:
        if any(trouble.holds for trouble in self._troubles):
            self._free.clear()
        else:
            self._free.set()


class Network:
    """All links between some nodes.

    Args:
        addresses: Where each node listens.
        seed: Of what links do to single bytes, and of ports.
        host: Where proxies listen.
    """

    def __init__(
        self, addresses: Mapping[str, Address], seed: str, host: str = "127.0.0.1"
    ) -> None:
        self._addresses = addresses
        self._host = host
        # Each port is tried once, in an order in which two networks hardly meet.
        self._free_ports = iter(random.Random(seed).sample(_PORTS, len(_PORTS)))
        self.links = {
            (source, target): Link(source, target, random.Random(f"{seed}/{source}>{target}"))
            for source in addresses
            for target in addresses
            if source != target
        }
        #: By who dials and who is dialled: where the proxy between them listens.
        self.ports: dict[tuple[str, str], int] = {}
        self._servers: list[asyncio.Server] = []
        #: Sockets of open connections, with the two nodes that they connect.
        self._open: dict[asyncio.StreamWriter, tuple[str, str]] = {}
        self._tasks: dict[asyncio.Task[None], None] = {}

    async def open(self) -> None:
        """Listen for every pair of nodes."""
        for dialler, dialled in self.links:
            await self._serve(dialler, dialled)

    async def close(self) -> None:
        """End every connection, and listen no more."""
        for server in self._servers:
            server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def around(self, nodes: Collection[str]) -> list[Link]:
        """All links between these nodes and the others, both ways."""
        return [
            link for link in self.links.values() if (link.source in nodes) != (link.target in nodes)
        ]

    def reset(self, one: str, other: str) -> None:
        """Reset what connects two nodes, at both ends."""
        for writer, ends in list(self._open.items()):
            if sorted(ends) == sorted((one, other)):
                _abort(writer)

    def heal(self) -> None:
        """End every trouble."""
        for link in self.links.values():
            link.clear()

    async def _serve(self, dialler: str, dialled: str) -> None:
        async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._tasks[task] = None
            try:
                await self._connect(dialler, dialled, reader, writer)
            except asyncio.CancelledError:
                _abort(writer)  # the network closes; streams would log a cancellation
            finally:
                del self._tasks[task]

        for port in self._free_ports:
            with contextlib.suppress(OSError):
                self._servers.append(await asyncio.start_server(accepted, self._host, port))
                self.ports[dialler, dialled] = port
                return
        raise OSError("no port is free for a proxy")

    async def _connect(
        self,
        dialler: str,
        dialled: str,
        near_reader: asyncio.StreamReader,
        near_writer: asyncio.StreamWriter,
    ) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._addresses[dialled])
        except OSError:
            _abort(near_writer)
            return
        ends = (dialler, dialled)
        self._open[near_writer] = self._open[far_writer] = ends
        try:
            async with asyncio.TaskGroup() as group:
                there, back = self.links[dialler, dialled], self.links[dialled, dialler]
                group.create_task(_carry(there, near_reader, far_writer))
                group.create_task(_carry(back, far_reader, near_writer))
        finally:
            for writer in (near_writer, far_writer):
                del self._open[writer]
                _abort(writer)


async def _carry(link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Bring what is read to the other end, in order, until its end arrives there too."""
    under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_CHUNKS_MAX)
    async with asyncio.TaskGroup() as group:
        group.create_task(_depart(link, reader, under_way))
        group.create_task(_arrive(link, under_way, writer))


async def _depart(
    link: Link, reader: asyncio.StreamReader, under_way: "asyncio.Queue[tuple[float, bytes]]"
) -> None:
    loop = asyncio.get_running_loop()
    chunk = b"begun"
    while chunk:
        try:
            chunk = await reader.read(_CHUNK_BYTES)
        except OSError:
            chunk = b""  # a reset ends it, too
        await under_way.put((loop.time() + link.delay_s, chunk))


async def _arrive(
    link: Link, under_way: "asyncio.Queue[tuple[float, bytes]]", writer: asyncio.StreamWriter
) -> None:
    loop = asyncio.get_running_loop()
    while True:
        due_s, chunk = await under_way.get()
        if due_s > loop.time():
            await asyncio.sleep(due_s - loop.time())
        await link.passage(len(chunk))
        if not chunk:
            writer.close()
            return
        if writer.is_closing():
            continue  # whoever is there is gone
        with contextlib.suppress(OSError):  # its reader finds out, and the end comes from there
            writer.write(link.spoilt(chunk))
            await writer.drain()


def _abort(writer: asyncio.StreamWriter) -> None:
    found = writer.get_extra_info("socket")
    if found is not None:
        with contextlib.suppress(OSError):
            found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
