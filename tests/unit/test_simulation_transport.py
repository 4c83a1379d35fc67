"""The simulated transports against the real ones: the same protocols must hear the same.

Each scenario runs on asyncio's own loop over loopback sockets, and on the simulated one. Byte
boundaries are no part of the comparison, for TCP keeps none.
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator

import pytest

from tests.simulation.loop import TEST, SimLoop

#: More than all buffers of a real connection hold.
FLOOD_BYTES = 32 * 1024 * 1024


class _Listener(asyncio.Protocol):
    """Notes what it hears; ``heard`` has one entry per event, received bytes joined."""

    def __init__(self, keep_open_at_eof: bool = False) -> None:
        self.heard: list[str] = []
        self.received = bytearray()
        self.keep_open_at_eof = keep_open_at_eof
        self.changed = asyncio.Event()
        self.transport: asyncio.Transport

    def _note(self, event: str) -> None:
        self.heard.append(event)
        self.changed.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._note("made")

    def data_received(self, data: bytes) -> None:
        self.received += data
        self.changed.set()

    def eof_received(self) -> bool:
        self._note("eof")
        return self.keep_open_at_eof

    def connection_lost(self, exc: Exception | None) -> None:
        self._note(f"lost {exc and type(exc).__name__}")

    def is_lost(self) -> bool:
        return self.heard[-1].startswith("lost")

    def pause_writing(self) -> None:
        self._note("pause")

    def resume_writing(self) -> None:
        self._note("resume")

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


class _Buffering(asyncio.BufferedProtocol):
    """Receives into a buffer that is much smaller than what comes."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.done = asyncio.Event()
        self._buffer = bytearray(7)

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.received += self._buffer[:nbytes]

    def eof_received(self) -> None:
        self.done.set()


Pair = tuple[_Listener, _Listener]
Scenario = Callable[[str], Coroutine[None, None, Pair]]
Run = Callable[[Scenario], Pair]


@pytest.fixture(params=["real", "simulated"])
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    """Runs a scenario, which is told the host to listen on."""
    if request.param == "real":
        yield lambda scenario: asyncio.run(scenario("127.0.0.1"))
    else:
        with contextlib.closing(SimLoop(3)) as loop:
            yield lambda scenario: loop.run(scenario(TEST))


async def _connect(host: str, keep_open_at_eof: bool = False) -> Pair:
    """A client, and the server's end of its connection."""
    loop = asyncio.get_running_loop()
    accepted: asyncio.Future[_Listener] = loop.create_future()

    def accept() -> _Listener:
        accepted.set_result(_Listener(keep_open_at_eof))
        return accepted.result()

    server = await loop.create_server(accept, host, 0)
    _, client = await loop.create_connection(_Listener, *server.sockets[0].getsockname()[:2])
    await accepted
    await accepted.result().until(lambda: accepted.result().heard == ["made"])
    server.close()
    return client, accepted.result()


def test_closing_sends_everything_first(run: Run) -> None:
    """The peer gets every byte in order, then the end."""
    sent = bytes(range(256)) * (FLOOD_BYTES // 256)

    async def scenario(host: str) -> Pair:
        client, server = await _connect(host)
        client.transport.write(sent[:1000])
        client.transport.writelines([sent[1000:2000], bytearray(sent[2000:3000])])
        client.transport.write(memoryview(sent)[3000:])
        client.transport.close()
        await server.until(server.is_lost)
        await client.until(client.is_lost)
        return client, server

    client, server = run(scenario)

    assert server.received == sent
    assert server.heard == ["made", "eof", "lost None"]
    assert client.heard == ["made", "pause", "resume", "lost None"]


def test_half_a_connection_can_be_closed(run: Run) -> None:
    """After ``write_eof`` the other direction still works."""

    async def scenario(host: str) -> Pair:
        client, server = await _connect(host, keep_open_at_eof=True)
        client.transport.write(b"question")
        assert client.transport.can_write_eof()
        client.transport.write_eof()
        with pytest.raises(RuntimeError):
            client.transport.write(b"more")
        await server.until(lambda: "eof" in server.heard)
        server.transport.write(b"answer")
        server.transport.close()
        await client.until(client.is_lost)
        await server.until(server.is_lost)
        return client, server

    client, server = run(scenario)

    assert server.received == b"question"
    assert client.received == b"answer"
    assert server.heard == ["made", "eof", "lost None"]
    assert client.heard == ["made", "eof", "lost None"]


def test_a_reader_that_stops_makes_the_writer_stop(run: Run) -> None:
    """Without this, backpressure bugs (and deadlocks) stay invisible in a simulation."""

    async def scenario(host: str) -> Pair:
        client, server = await _connect(host)
        server.transport.pause_reading()
        client.transport.set_write_buffer_limits(high=5000, low=1000)
        client.transport.write(bytes(FLOOD_BYTES))
        assert client.heard == ["made", "pause"]
        assert client.transport.get_write_buffer_size() > 5000
        assert not server.received
        server.transport.resume_reading()
        await client.until(lambda: "resume" in client.heard)
        assert client.transport.get_write_buffer_size() <= 1000
        await server.until(lambda: len(server.received) == FLOOD_BYTES)
        client.transport.abort()
        await client.until(client.is_lost)
        return client, server

    client, _ = run(scenario)

    assert client.heard == ["made", "pause", "resume", "lost None"]


def test_abort_drops_what_was_not_sent(run: Run) -> None:
    """It does not wait for a peer that does not read."""

    async def scenario(host: str) -> Pair:
        client, server = await _connect(host)
        server.transport.pause_reading()
        client.transport.write(bytes(FLOOD_BYTES))
        client.transport.abort()
        assert client.transport.is_closing()
        await client.until(client.is_lost)
        server.transport.resume_reading()
        await server.until(server.is_lost)
        return client, server

    client, server = run(scenario)

    assert client.heard == ["made", "pause", "lost None"]
    assert len(server.received) < FLOOD_BYTES


def test_what_the_peer_closed_is_lost_after_eof(run: Run) -> None:
    """A protocol that does not keep the connection open at its end is closed."""

    async def scenario(host: str) -> Pair:
        client, server = await _connect(host)
        server.transport.write(b"goodbye")
        server.transport.close()
        await client.until(client.is_lost)
        await server.until(server.is_lost)
        return client, server

    client, server = run(scenario)

    assert client.received == b"goodbye"
    assert client.heard == ["made", "eof", "lost None"]
    assert server.heard == ["made", "lost None"]


def test_both_ends_know_both_addresses(run: Run) -> None:
    """Logs and limits per peer go by them."""

    async def scenario(host: str) -> Pair:
        client, server = await _connect(host)
        for one, other in ((client, server), (server, client)):
            peername = one.transport.get_extra_info("peername")
            assert peername == other.transport.get_extra_info("sockname")
        client.transport.close()
        await server.until(server.is_lost)
        return client, server

    run(scenario)


def test_a_buffered_protocol_gets_its_bytes_in_its_buffer(run: Run) -> None:
    """In as many pieces as it takes."""
    sent = bytes(range(256))

    async def scenario(host: str) -> Pair:
        client, server = await _connect(host)
        buffering = _Buffering()
        server.transport.set_protocol(buffering)
        assert server.transport.get_protocol() is buffering
        client.transport.write(sent)
        client.transport.close()
        async with asyncio.timeout(30):
            await buffering.done.wait()
        assert buffering.received == sent
        await client.until(client.is_lost)
        return client, server

    run(scenario)


def test_a_port_without_a_listener_refuses(run: Run) -> None:
    """At once, unlike a machine that is gone."""

    async def scenario(host: str) -> Pair:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(_Listener, host, 0)
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            await loop.create_server(_Listener, host, port)
        server.close()
        await server.wait_closed()
        with pytest.raises(ConnectionRefusedError):
            await loop.create_connection(_Listener, host, port)
        client, listener = await _connect(host)
        client.transport.abort()
        await listener.until(listener.is_lost)
        return client, listener

    run(scenario)
