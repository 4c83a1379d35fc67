"""Wires of the simulation that change bytes, end in the middle of them, or end at a slow reader."""

import asyncio
import contextlib
from collections.abc import Iterator

import pytest

from tests.simulation.loop import SimLoop
from tests.unit.two_machines import SETTLED_S, connected


@pytest.fixture(params=range(4))
def loop(request: pytest.FixtureRequest) -> Iterator[SimLoop]:
    """A world that is thrown away after the test."""
    with contextlib.closing(SimLoop(request.param)) as loop:
        yield loop


def test_a_damaging_link_changes_a_byte_of_each_part_until_it_is_mended(loop: SimLoop) -> None:
    """None is lost or added, and the other direction is sound."""

    async def main() -> None:
        client, server = await connected(loop)
        loop.network.damaging["a", "b"] = 1
        client.transport.write(bytes(100))
        server.transport.write(bytes(100))
        await asyncio.sleep(SETTLED_S)
        assert len(server.received) == 100
        assert sum(byte != 0 for byte in server.received) == 1
        assert client.received == bytes(100)
        loop.network.heal_all()
        client.transport.write(bytes(100))
        await asyncio.sleep(SETTLED_S)
        assert server.received[100:] == bytes(100)

    loop.run(main())


def test_a_connection_can_end_in_the_middle_of_what_travels(loop: SimLoop) -> None:
    """The reader gets a part of it, and both hear that it is over."""

    async def main() -> None:
        client, server = await connected(loop)
        loop.network.break_off("a", "b")
        await asyncio.sleep(SETTLED_S)
        assert (client.lost, server.lost) == ([], []), "nothing travels yet"
        client.transport.write(bytes(range(100)))
        assert loop.network.half_open() == []
        await asyncio.sleep(SETTLED_S)
        assert len(server.received) < 100
        assert bytes(range(100)).startswith(server.received)
        assert server.was_reset()
        assert client.was_reset()

    loop.run(main())


def test_what_was_to_end_goes_on_when_every_fault_is_undone_before(loop: SimLoop) -> None:
    """Else a fault would strike after all of them are over."""

    async def main() -> None:
        client, server = await connected(loop)
        loop.network.break_off("a", "b")
        loop.network.heal_all()
        client.transport.write(bytes(100))
        await asyncio.sleep(SETTLED_S)
        assert server.received == bytes(100)

    loop.run(main())


def test_a_slow_reader_is_felt_by_whoever_writes_to_it(loop: SimLoop) -> None:
    """Its window fills, and then the writer's buffer, and the writer is told to pause."""

    async def main() -> None:
        client, server = await connected(loop)
        loop.network.window_bytes = 50
        loop.network.slow_readers["b"] = 10, 0.5
        client.transport.set_write_buffer_limits(high=100)
        client.transport.write(bytes(200))
        assert client.transport.get_write_buffer_size() == 150
        assert client.paused_at == [150]
        assert loop.network.full_window_count == 1
        await asyncio.sleep(19 * 0.5)
        assert len(server.received) < 200
        await asyncio.sleep(2.0)
        assert len(server.received) == 200
        assert max(server.read_bytes) == 10
        assert client.resumed_at
        assert client.transport.get_write_buffer_size() == 0

    loop.run(main())


def test_a_connection_is_half_open_until_the_reset_that_ends_it_was_heard(loop: SimLoop) -> None:
    """Whoever waits for calm must not take it for a sound one."""

    async def main() -> None:
        await connected(loop)
        assert loop.network.half_open() == []
        loop.network.reset("a", "b")
        assert len(loop.network.half_open()) == 2
        await asyncio.sleep(SETTLED_S)
        assert loop.network.half_open() == []

    loop.run(main())
