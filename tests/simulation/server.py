"""A listening port."""

import asyncio
from collections.abc import Callable

from tests.simulation.processes import Process

ProtocolFactory = Callable[[], asyncio.BaseProtocol]
#: Machine and port.
Address = tuple[str, int]


class SimServer(asyncio.AbstractServer):
    """What ``create_server`` returns.

    Args:
        loop: The loop that serves.
        listeners: Every listening port of the network; this one is added.
        process: Who listens, on the machine of its name.
        port: Not in use on that machine.
        protocol_factory: Makes the protocol of an accepted connection.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listeners: dict[Address, "SimServer"],
        process: Process,
        port: int,
        protocol_factory: ProtocolFactory,
    ) -> None:
        self.process = process
        self.address = (process.name, port)
        self.protocol_factory = protocol_factory
        self._loop = loop
        self._listeners = listeners
        listeners[self.address] = self

    @property
    def sockets(self) -> tuple["SimServer"]:
        """It stands for its socket, of which nobody asks more than its name."""
        return (self,)

    def getsockname(self) -> Address:
        """Machine and port."""
        return self.address

    def close(self) -> None:
        """Stop listening; open connections stay."""
        if self.is_serving():
            del self._listeners[self.address]

    def is_serving(self) -> bool:
        """Whether new connections are accepted."""
        return self._listeners.get(self.address) is self

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The loop that serves."""
        return self._loop

    async def start_serving(self) -> None:
        """Nothing to do: it serves from the start."""

    async def serve_forever(self) -> None:
        """Serve until cancelled."""
        try:
            await self._loop.create_future()
        finally:
            self.close()

    async def wait_closed(self) -> None:
        """Nothing to do: closing takes no time."""
