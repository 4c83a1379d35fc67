"""The client of a chaos run, on simulated machines: it knows what became of each request."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator

import pytest

from scripts.chaos.connection import HttpConnection
from scripts.checker.history import NoAnswer, Refused
from tests.simulation.loop import SimLoop

PORT = 80
WITHIN_S = 5.0
#: What the server does with each connection.
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nStele-Acks: 1/1\r\nContent-Length: 4\r\n\r\nbody"


@pytest.fixture
def loop() -> Iterator[SimLoop]:
    """A world that is thrown away after the test."""
    with contextlib.closing(SimLoop(0)) as loop:
        yield loop


def play(
    loop: SimLoop, serve: Serve | None, scenario: Callable[[HttpConnection], Awaitable[None]]
) -> None:
    """Run a scenario on machine "a" with a connection to "b", which serves or does not listen."""

    async def listen() -> None:
        if serve is not None:
            await asyncio.start_server(serve, "b", PORT)

    async def main() -> None:
        await loop.spawn(loop.start_process("b"), listen())
        connection = HttpConnection("b", PORT)
        process = loop.start_process("a")
        await loop.spawn(process, _coroutine(scenario(connection)))
        connection.close()

    loop.run(main())


async def _coroutine(scenario: Awaitable[None]) -> None:
    await scenario


async def get(connection: HttpConnection) -> bytes:
    """The answer's body."""
    answer = await connection.request("GET", "/", {}, b"", WITHIN_S)
    assert (answer.status, answer.headers["stele-acks"]) == (200, "1/1")
    return answer.body


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await reader.readuntil(b"\r\n\r\n"):
        writer.write(OK)


def test_one_connection_serves_one_request_after_the_other(loop: SimLoop) -> None:
    """As a client that stays with a node does."""
    accepted: list[None] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.append(None)
        with contextlib.suppress(asyncio.IncompleteReadError):
            await _answer(reader, writer)

    async def scenario(connection: HttpConnection) -> None:
        assert [await get(connection) for _ in range(3)] == [b"body"] * 3
        assert connection.quiet

    play(loop, serve, scenario)
    assert len(accepted) == 1


def test_an_answer_without_a_body_ends_with_its_head(loop: SimLoop) -> None:
    """204 names no length; waiting for a body would wait for the deadline."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")

    async def scenario(connection: HttpConnection) -> None:
        answer = await connection.request("DELETE", "/", {}, b"", WITHIN_S)
        assert (answer.status, answer.body) == (204, b"")
        assert not connection.usable

    play(loop, serve, scenario)


def test_nobody_listens_so_the_request_had_no_effect(loop: SimLoop) -> None:
    """It may be sent again elsewhere without a doubt."""

    async def scenario(connection: HttpConnection) -> None:
        with pytest.raises(Refused):
            await get(connection)
        assert not connection.usable

    play(loop, None, scenario)


def test_a_connection_that_ends_in_the_middle_leaves_the_outcome_open(loop: SimLoop) -> None:
    """And the request is sent once: a second time it might create a second document."""
    requests: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(OK[:20])
        writer.close()

    async def scenario(connection: HttpConnection) -> None:
        with pytest.raises(NoAnswer) as caught:
            await get(connection)
        assert not isinstance(caught.value, Refused)
        assert not connection.usable

    play(loop, serve, scenario)
    assert len(requests) == 1


def test_a_node_that_is_silent_is_given_up_and_so_is_the_connection(loop: SimLoop) -> None:
    """A later answer must not be taken for that of the next request."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(2 * WITHIN_S)
        writer.write(OK)

    async def scenario(connection: HttpConnection) -> None:
        began_s = loop.time()
        with pytest.raises(NoAnswer):
            await get(connection)
        assert loop.time() - began_s == pytest.approx(WITHIN_S)
        assert not connection.usable

    play(loop, serve, scenario)


def test_a_connection_that_the_node_hung_up_is_known_to_be_dead(loop: SimLoop) -> None:
    """So a kept one is not used for a request whose outcome would then be unknown."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        writer.close()

    async def scenario(connection: HttpConnection) -> None:
        assert await get(connection) == b"body"
        await asyncio.sleep(1.0)
        assert not connection.quiet

    play(loop, serve, scenario)
