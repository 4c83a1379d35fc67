"""The simulated network: what arrives, and what a cut or a refusal makes of it."""

import asyncio
import contextlib
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.simulation.flow import WINDOW_BYTES
from tests.simulation.loop import Order, SimLoop
from tests.unit.two_machines import PORT, SETTLED_S, End, connect, connected, listen


@pytest.fixture
def loop() -> Iterator[SimLoop]:
    """A world that is thrown away after the test."""
    with contextlib.closing(SimLoop(0)) as loop:
        yield loop


# Nothing lost, doubled or reordered -------------------------------------------------------------


_faults = st.sampled_from(
    ["write", "cut", "cut back", "heal", "pause", "resume", "stop reading", "read", "wait"]
)


@given(st.integers(0, 2**32), st.sampled_from(Order), st.lists(_faults, max_size=40))
@settings(deadline=None, max_examples=200)
def test_a_connection_delivers_every_byte_once_and_in_order(
    seed: int, order: Order, faults: list[str]
) -> None:
    """Whatever happens on the way, what arrives is a prefix; in the end it is everything."""

    async def main(loop: SimLoop) -> None:
        client, server = await connected(loop)
        sent = bytearray()
        for number, fault in enumerate(faults):
            match fault:
                case "write":
                    sent += number.to_bytes(2, "big") * 9000
                    client.transport.write(sent[-18_000:])
                case "cut":
                    loop.network.cut("a", "b")
                case "cut back":
                    loop.network.cut("b", "a")
                case "heal":
                    loop.network.heal_all()
                case "pause" if loop.processes["b"].running:
                    loop.pause("b")
                case "resume" if not loop.processes["b"].running:
                    loop.resume("b")
                case "stop reading":
                    server.transport.pause_reading()
                case "read":
                    server.transport.resume_reading()
                case _:
                    await asyncio.sleep(0.001)
            assert sent.startswith(server.received)
            unread = len(sent) - len(server.received) - client.transport.get_write_buffer_size()
            assert 0 <= unread <= WINDOW_BYTES
        loop.network.heal_all()
        if not loop.processes["b"].running:
            loop.resume("b")
        server.transport.resume_reading()
        await asyncio.sleep(1)
        assert server.received == sent
        assert not client.lost
        assert not server.lost

    with contextlib.closing(SimLoop(seed, order=order)) as loop:
        loop.run(main(loop))


@pytest.mark.parametrize("order", Order)
def test_reads_do_not_keep_the_boundaries_of_writes(order: Order) -> None:
    """A decoder that takes a read for a frame works on a quiet loopback, and nowhere else."""

    async def main(loop: SimLoop) -> list[int]:
        client, server = await connected(loop)
        client.transport.write(bytes(1000))
        client.transport.write(bytes(1000))
        await asyncio.sleep(SETTLED_S)
        return server.read_bytes

    outcomes = []
    for seed in range(200):
        with contextlib.closing(SimLoop(seed, order=order)) as loop:
            outcomes.append(loop.run(main(loop)))

    assert all(sum(reads) == 2000 for reads in outcomes)
    assert [1000, 1000] in outcomes
    assert any(reads[0] < 1000 for reads in outcomes)
    assert any(reads[0] > 1000 for reads in outcomes)


def test_the_end_of_the_bytes_is_told_once(loop: SimLoop) -> None:
    """Also to a protocol that keeps the connection open and is woken again."""

    async def main() -> None:
        client, server = await connected(loop)
        client.transport.write_eof()
        await asyncio.sleep(SETTLED_S)
        server.transport.pause_reading()
        server.transport.resume_reading()
        await asyncio.sleep(SETTLED_S)
        assert server.eofs == 1
        assert not server.lost

    loop.run(main())


def test_a_flood_does_not_dissolve_into_single_bytes(loop: SimLoop) -> None:
    """Silly window syndrome: each short read would make room for a part as short."""

    async def main() -> None:
        client, server = await connected(loop)
        steps_before = loop.steps
        client.transport.write(bytes(100 * WINDOW_BYTES))
        await asyncio.sleep(1)
        assert len(server.received) == 100 * WINDOW_BYTES
        assert loop.steps - steps_before < 10 * 100

    loop.run(main())


# Cuts -------------------------------------------------------------------------------------------


def test_a_cut_swallows_silently_and_only_one_way(loop: SimLoop) -> None:
    """Neither end learns of it; the other direction works on."""

    async def main() -> None:
        client, server = await connected(loop)
        loop.network.cut("a", "b")
        client.transport.write(b"lost?")
        server.transport.write(b"heard")
        await asyncio.sleep(3600)
        assert client.received == b"heard"
        assert not server.received
        assert not client.lost + server.lost
        loop.network.heal("a", "b")
        await asyncio.sleep(SETTLED_S)
        assert server.received == b"lost?"

    loop.run(main())


def test_what_is_underway_when_the_link_is_cut_is_held(loop: SimLoop) -> None:
    """The cut meets it on its way, not only when it is sent."""

    async def main() -> None:
        client, server = await connected(loop)
        client.transport.write(b"underway")
        loop.network.cut("a", "b")
        await asyncio.sleep(1)
        assert server.received == b""
        loop.network.heal("a", "b")
        await asyncio.sleep(SETTLED_S)
        assert server.received == b"underway"

    loop.run(main())


def test_a_writer_into_a_cut_is_paused_and_holds_no_more_than_its_limits(loop: SimLoop) -> None:
    """A node that honours the pause can't be filled up by a peer that is gone."""

    async def main() -> None:
        client, server = await connected(loop)
        loop.network.cut("a", "b")
        client.transport.set_write_buffer_limits(high=10_000)
        written = 0
        while not client.paused_at and written < 2 * WINDOW_BYTES:
            written += 1000
            client.transport.write(bytes(1000))
        assert client.paused_at == [client.transport.get_write_buffer_size()]
        assert written == WINDOW_BYTES + client.paused_at[0]
        assert 10_000 < client.paused_at[0] <= 11_000
        loop.network.heal_all()
        await asyncio.sleep(SETTLED_S)
        assert len(client.resumed_at) == 1
        assert client.resumed_at[0] <= 10_000 // 4
        assert len(server.received) == written

    loop.run(main())


def test_connecting_over_a_cut_link_hangs_until_the_caller_gives_up_or_it_heals(
    loop: SimLoop,
) -> None:
    """Silence, whichever way is cut: the question is lost, or the answer."""

    async def connect_within(seconds: float) -> End:
        async with asyncio.timeout(seconds):
            return await connect()

    async def main() -> None:
        await loop.spawn(loop.start_process("b"), listen([]))
        here = loop.start_process("a")
        for link in (("a", "b"), ("b", "a")):
            loop.network.cut(*link)
            with pytest.raises(TimeoutError):
                await loop.spawn(here, connect_within(3600))
            attempt = loop.spawn(here, connect_within(3600))
            await asyncio.sleep(1000)
            assert not attempt.done()
            loop.network.heal(*link)
            await asyncio.sleep(SETTLED_S)
            assert attempt.done()

    loop.run(main())


def test_a_partition_cuts_every_link_between_its_sides_and_no_other(loop: SimLoop) -> None:
    """Both ways."""
    names = ("a", "b", "c", "d")

    async def main() -> set[tuple[str, str]]:
        for name in names:
            loop.start_process(name)
        loop.network.partition(["a", "b"], ["c", "d"])
        return {(s, t) for s in names for t in names if loop.network.blocked(s, t)}

    one_way = {("a", "c"), ("a", "d"), ("b", "c"), ("b", "d")}
    assert loop.run(main()) == one_way | {(t, s) for s, t in one_way}


# What is not simulated --------------------------------------------------------------------------


def test_what_the_simulation_does_not_have_is_refused(loop: SimLoop) -> None:
    """Rather than silently left out."""

    async def listen_elsewhere() -> None:
        await asyncio.get_running_loop().create_server(End, "b", PORT)

    async def connect_nowhere() -> None:
        await asyncio.get_running_loop().create_connection(End, "nowhere", PORT)

    async def encrypt() -> None:
        await asyncio.get_running_loop().create_connection(End, "b", PORT, ssl=True)

    async def main() -> None:
        here = loop.start_process("a")
        loop.start_process("b")
        with pytest.raises(OSError, match="not an address of a"):
            await loop.spawn(here, listen_elsewhere())
        with pytest.raises(OSError, match="no machine nowhere"):
            await loop.spawn(here, connect_nowhere())
        with pytest.raises(NotImplementedError):
            await loop.spawn(here, encrypt())

    loop.run(main())
