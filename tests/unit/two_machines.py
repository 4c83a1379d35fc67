"""Two simulated machines, "a" connected to "b", and what both ends hear."""

import asyncio
from typing import Final

from tests.simulation.loop import SimLoop
from tests.simulation.network import LINK_LATENCY_S

PORT: Final = 7
#: Until everything that is underway has arrived.
SETTLED_S: Final = 20 * LINK_LATENCY_S[1]


class End(asyncio.Protocol):
    """One end of a connection, with what it heard."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.read_bytes: list[int] = []
        self.eofs = 0
        self.lost: list[Exception | None] = []
        #: Bytes in the write buffer when the pause and its end came.
        self.paused_at: list[int] = []
        self.resumed_at: list[int] = []
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        self.read_bytes.append(len(data))

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)

    def pause_writing(self) -> None:
        self.paused_at.append(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        self.resumed_at.append(self.transport.get_write_buffer_size())

    def eof_received(self) -> bool:
        self.eofs += 1
        return True

    @property
    def port(self) -> int:
        _, port = self.transport.get_extra_info("sockname")
        return int(port)

    def was_reset(self) -> bool:
        return [type(error) for error in self.lost] == [ConnectionResetError]


async def listen(accepted: list[End]) -> asyncio.Server:
    def accept() -> End:
        accepted.append(End())
        return accepted[-1]

    return await asyncio.get_running_loop().create_server(accept, port=PORT)


async def connect() -> End:
    _, end = await asyncio.get_running_loop().create_connection(End, "b", PORT)
    assert isinstance(end, End)
    return end


async def connected(loop: SimLoop) -> tuple[End, End]:
    """Machine "a" connected to machine "b"."""
    accepted: list[End] = []
    await loop.spawn(loop.start_process("b"), listen(accepted))
    client = await loop.spawn(loop.start_process("a"), connect())
    await asyncio.sleep(SETTLED_S)
    return client, accepted[0]
