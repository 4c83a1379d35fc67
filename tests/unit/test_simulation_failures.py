"""Connections in the simulation when an end of them fails: reset, killed, paused, unpowered.

What matters most is what the other end does not hear.
"""

import asyncio
import contextlib
import gc
import warnings
from collections.abc import Iterator

import pytest

from tests.simulation.flow import WINDOW_BYTES
from tests.simulation.loop import SimLoop
from tests.unit.two_machines import PORT, SETTLED_S, End, connect, connected, listen


@pytest.fixture
def loop() -> Iterator[SimLoop]:
    """A world that is thrown away after the test."""
    with contextlib.closing(SimLoop(0)) as loop:
        yield loop


# Refusals and resets ----------------------------------------------------------------------------


def test_what_is_refused_hears_so_at_once(loop: SimLoop) -> None:
    """A refusing link, a port without a listener, a killed process; then it works again."""

    async def main() -> None:
        here = loop.start_process("a")
        loop.start_process("b")
        with pytest.raises(ConnectionRefusedError):
            await loop.spawn(here, connect())
        await loop.spawn(loop.processes["b"], listen([]))
        loop.network.refuse("a", "b")
        with pytest.raises(ConnectionRefusedError):
            await loop.spawn(here, connect())
        loop.network.heal("a", "b")
        await loop.spawn(here, connect())
        loop.kill("b")
        with pytest.raises(ConnectionRefusedError):
            await loop.spawn(here, connect())
        await loop.spawn(loop.start_process("b"), listen([]))
        await loop.spawn(here, connect())
        assert loop.time() < 1

    loop.run(main())


def test_a_reset_breaks_the_connections_of_two_machines_at_both_ends(loop: SimLoop) -> None:
    """And new ones can be made."""

    async def main() -> None:
        client, server = await connected(loop)
        loop.network.reset("a", "b")
        await asyncio.sleep(SETTLED_S)
        assert client.was_reset()
        assert server.was_reset()
        second = await loop.spawn(loop.processes["a"], connect())
        assert not second.lost
        assert second.port != client.port

    loop.run(main())


@pytest.mark.parametrize("unsent_bytes", [0, 1])
def test_a_writer_whose_reading_is_paused_learns_of_a_reset_when_it_writes(
    loop: SimLoop, unsent_bytes: int
) -> None:
    """As a real loop does: it does not watch a socket that is neither read nor written."""

    async def main() -> None:
        client, server = await connected(loop)
        client.transport.pause_reading()
        server.transport.pause_reading()
        client.transport.write(bytes(WINDOW_BYTES + unsent_bytes))
        loop.network.reset("a", "b")
        await asyncio.sleep(1)
        if not unsent_bytes:
            assert not client.lost
            client.transport.write(b"?")
        await asyncio.sleep(SETTLED_S)
        assert client.was_reset()

    loop.run(main())


# Ends of processes ------------------------------------------------------------------------------


def test_the_peers_of_a_killed_process_get_what_it_sent_and_then_a_reset(loop: SimLoop) -> None:
    """Its kernel lives on and closes its sockets."""

    async def main() -> None:
        client, server = await connected(loop)
        server.transport.write(b"last words")
        loop.kill("b")
        await asyncio.sleep(SETTLED_S)
        assert client.received == b"last words"
        assert client.was_reset()
        assert not server.lost

    loop.run(main())


def test_the_peers_of_a_machine_without_power_hear_nothing_until_it_is_back(loop: SimLoop) -> None:
    """The connection is half open; only the machine's next kernel can say that it is gone."""

    async def main() -> None:
        client, _ = await connected(loop)
        loop.power_off("b")
        client.transport.write(b"anyone there?")
        attempt = loop.spawn(loop.processes["a"], connect())
        await asyncio.sleep(3600)
        assert not client.lost
        assert not attempt.done()
        accepted: list[End] = []
        await loop.spawn(loop.start_process("b"), listen(accepted))
        await asyncio.sleep(SETTLED_S)
        assert client.was_reset()
        assert [bytes(end.received) for end in accepted] in ([], [b""])

    loop.run(main())


@pytest.mark.parametrize("cut_first", [True, False])
def test_a_reset_over_a_cut_link_is_lost_and_the_peer_finds_out_by_writing(
    loop: SimLoop, cut_first: bool
) -> None:
    """Resets are not repeated: a silent survivor keeps its half-open connection for ever."""

    async def main() -> None:
        client, _ = await connected(loop)
        if cut_first:
            loop.network.partition(["a"], ["b"])
        loop.kill("b")
        loop.network.partition(["a"], ["b"])
        await asyncio.sleep(1)
        loop.network.heal_all()
        loop.start_process("b")
        await asyncio.sleep(3600)
        assert not client.lost
        client.transport.write(b"?")
        await asyncio.sleep(SETTLED_S)
        assert client.was_reset()

    loop.run(main())


@pytest.mark.parametrize("held_before", [True, False])
@pytest.mark.parametrize("closed_before", [True, False])
def test_what_a_machine_without_power_had_not_got_through_is_lost(
    loop: SimLoop, held_before: bool, closed_before: bool
) -> None:
    """The kernel that would have sent it again is gone: its peer hears nothing, even later."""

    async def main() -> None:
        client, server = await connected(loop)
        client.transport.write(b"held")
        if closed_before:
            client.transport.close()
        loop.network.cut("a", "b")
        if held_before:
            await asyncio.sleep(1)
        loop.power_off("a")
        await asyncio.sleep(0 if held_before else 1)
        loop.network.heal_all()
        loop.start_process("a")
        await asyncio.sleep(3600)
        assert server.received == b""
        assert server.eofs == 0
        assert not server.lost

    loop.run(main())


def test_what_a_process_wrote_and_closed_outlives_it_but_not_its_machine(loop: SimLoop) -> None:
    """After ``close`` the kernel is in charge: a kill comes too late to take anything back."""

    async def main() -> None:
        client, server = await connected(loop)
        loop.network.cut("a", "b")
        client.transport.write(b"last words")
        client.transport.close()
        await asyncio.sleep(1)
        loop.kill("a")
        loop.network.heal_all()
        await asyncio.sleep(SETTLED_S)
        assert server.received == b"last words"
        assert server.eofs == 1
        assert not server.lost

    loop.run(main())


def test_an_abort_over_a_cut_link_leaves_the_peer_half_open(loop: SimLoop) -> None:
    """Nothing of the connection gets through any more, not even its end."""

    async def main() -> None:
        client, server = await connected(loop)
        loop.network.cut("a", "b")
        client.transport.write(b"held")
        await asyncio.sleep(1)
        client.transport.abort()
        await asyncio.sleep(1)
        loop.network.heal_all()
        await asyncio.sleep(3600)
        assert client.lost == [None]
        assert not server.received
        assert not server.lost
        server.transport.write(b"?")
        await asyncio.sleep(SETTLED_S)
        assert server.was_reset()

    loop.run(main())


def test_a_paused_process_accepts_and_buffers_until_its_window_is_full(loop: SimLoop) -> None:
    """SIGSTOP stops the process, not its kernel: peers can't tell, until nothing more fits."""

    async def main() -> None:
        client, server = await connected(loop)
        loop.pause("b")
        second = await loop.spawn(loop.processes["a"], connect())
        client.transport.write(bytes(2 * WINDOW_BYTES))
        second.transport.write(b"hello")
        await asyncio.sleep(3600)
        assert client.transport.get_write_buffer_size() == WINDOW_BYTES
        assert second.transport.get_write_buffer_size() == 0
        assert server.received == b""
        loop.resume("b")
        await asyncio.sleep(SETTLED_S)
        assert len(server.received) == 2 * WINDOW_BYTES

    loop.run(main())


@pytest.mark.parametrize("killed", [True, False])
def test_a_server_that_ends_during_the_handshake_resets_the_client(
    loop: SimLoop, killed: bool
) -> None:
    """The client was told that it is connected; the server never saw it."""

    async def main() -> None:
        accepted: list[End] = []
        server = await loop.spawn(loop.start_process("b"), listen(accepted))
        client = await loop.spawn(loop.start_process("a"), connect())
        if killed:
            loop.kill("b")
        else:
            server.close()
        await asyncio.sleep(SETTLED_S)
        assert not accepted
        assert client.was_reset()

    loop.run(main())


def test_connections_that_are_open_at_the_end_are_no_leak() -> None:
    """``StreamWriter`` warns when it is dropped open, but the end of the world closes all."""

    async def serve() -> None:
        async def keep_open(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await asyncio.sleep(3600)
            writer.close()

        await (await asyncio.start_server(keep_open, port=PORT)).serve_forever()

    async def main(loop: SimLoop) -> None:
        loop.spawn(loop.start_process("b"), serve())
        await asyncio.sleep(1)
        await loop.spawn(loop.start_process("a"), connect())
        await asyncio.sleep(1)

    with (
        contextlib.closing(SimLoop(0)) as loop,
        warnings.catch_warnings(record=True) as caught,
    ):
        loop.run(main(loop))
        loop.close()
        gc.collect()
    assert not caught
