"""The network of a chaos run, on simulated machines: what each trouble does, and what it does not.

Nodes "a" and "b" stand on machines of their own, the proxies on a third. Time is virtual.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scripts.chaos.proxy import Network, Trouble
from tests.simulation.loop import SimLoop
from tests.unit.two_machines import PORT, SETTLED_S, End, listen

PROXY = "proxy"
#: Two links are longer than one.
ARRIVED_S = 2 * SETTLED_S
HOLDS = Trouble(holds=True)


class Path:
    """A connection that "a" made to "b" through the network."""

    def __init__(self, network: Network, near: End, accepted: list[End]) -> None:
        self.network = network
        self.near = near
        self._accepted = accepted

    @property
    def far(self) -> End:
        """The end at "b"."""
        return self._accepted[0]


@pytest.fixture
def loop() -> Iterator[SimLoop]:
    """A world that is thrown away after the test."""
    with contextlib.closing(SimLoop(0)) as loop:
        yield loop


def play(loop: SimLoop, scenario: Callable[[Path], Awaitable[None]]) -> None:
    """Run a scenario on a connection from "a" to "b"."""

    async def main() -> None:
        accepted: list[End] = []
        await loop.spawn(loop.start_process("b"), listen(accepted))
        network = Network({"a": ("a", PORT), "b": ("b", PORT)}, "seed", host=PROXY)
        await loop.spawn(loop.start_process(PROXY), network.open())
        near = await loop.spawn(loop.start_process("a"), _dial(network))
        await asyncio.sleep(ARRIVED_S)
        await scenario(Path(network, near, accepted))

    loop.run(main())


async def _dial(network: Network) -> End:
    port = network.ports["a", "b"]
    _, end = await asyncio.get_running_loop().create_connection(End, PROXY, port)
    assert isinstance(end, End)
    return end


def _has_ended(end: End) -> bool:
    return bool(end.eofs or end.lost)


def test_each_pair_of_nodes_has_a_port_of_its_own(loop: SimLoop) -> None:
    """A node's cluster file names them: one port for two peers would mix the links up."""

    async def scenario(path: Path) -> None:
        ports = path.network.ports
        assert sorted(ports) == [("a", "b"), ("b", "a")]
        assert len(set(ports.values())) == 2

    play(loop, scenario)


@given(
    st.integers(0, 2**32),
    st.lists(
        st.sampled_from(["there", "back", "hold", "hold back", "slow", "heal", "wait"]), max_size=30
    ),
)
@settings(deadline=None, max_examples=60)
def test_whatever_holds_or_slows_a_link_every_byte_arrives_once_and_in_order(
    seed: int, events: list[str]
) -> None:
    """Otherwise a frame could be lost that TCP would not lose, and blame would fall on a node."""

    async def scenario(path: Path) -> None:
        sent = {"there": bytearray(), "back": bytearray()}
        there, back = path.network.links["a", "b"], path.network.links["b", "a"]
        for number, event in enumerate(events):
            match event:
                case "there" | "back":
                    chunk = number.to_bytes(2, "big") * 9_000
                    sent[event] += chunk
                    end = path.near if event == "there" else path.far
                    end.transport.write(chunk)
                case "hold":
                    there.add(HOLDS)
                case "hold back":
                    back.add(HOLDS)
                case "slow":
                    there.add(Trouble(delay_s=0.5, bytes_per_s=100_000))
                case "heal":
                    path.network.heal()
                case _:
                    await asyncio.sleep(0.2)
        assert bytes(sent["there"]).startswith(bytes(path.far.received))
        assert bytes(sent["back"]).startswith(bytes(path.near.received))
        path.network.heal()
        await asyncio.sleep(60.0)
        assert path.far.received == sent["there"]
        assert path.near.received == sent["back"]

    with contextlib.closing(SimLoop(seed)) as loop:
        play(loop, scenario)


def test_a_link_that_holds_lets_nothing_through_until_it_heals(loop: SimLoop) -> None:
    """A partition: the other side hears nothing, neither bytes nor the end, and no error."""

    async def scenario(path: Path) -> None:
        path.network.links["a", "b"].add(HOLDS)
        path.near.transport.write(b"held")
        path.near.transport.close()
        await asyncio.sleep(3600.0)
        assert path.far.received == b""
        assert not _has_ended(path.far)
        path.network.heal()
        await asyncio.sleep(ARRIVED_S)
        assert path.far.received == b"held"
        assert _has_ended(path.far)

    play(loop, scenario)


def test_a_link_is_held_in_one_direction_only(loop: SimLoop) -> None:
    """One-way cuts are what failure detectors get wrong."""

    async def scenario(path: Path) -> None:
        path.network.links["a", "b"].add(HOLDS)
        path.near.transport.write(b"there")
        path.far.transport.write(b"back")
        await asyncio.sleep(ARRIVED_S)
        assert path.far.received == b""
        assert path.near.received == b"back"

    play(loop, scenario)


def test_troubles_add_up_and_each_is_undone_alone(loop: SimLoop) -> None:
    """Two faults may befall one link; the end of one must not heal the other."""

    async def scenario(path: Path) -> None:
        link = path.network.links["a", "b"]
        link.add(HOLDS)
        link.add(HOLDS)
        link.remove(HOLDS)
        path.near.transport.write(b"held")
        await asyncio.sleep(ARRIVED_S)
        assert path.far.received == b""
        link.remove(HOLDS)
        await asyncio.sleep(ARRIVED_S)
        assert path.far.received == b"held"

    play(loop, scenario)


def test_a_slow_link_delays_what_it_carries_and_lets_so_many_bytes_through(loop: SimLoop) -> None:
    """Delay counts from when each chunk was sent; bytes share the rate."""

    async def scenario(path: Path) -> None:
        path.network.links["a", "b"].add(Trouble(delay_s=2.0))
        path.near.transport.write(b"late")
        await asyncio.sleep(1.9)
        assert path.far.received == b""
        await asyncio.sleep(0.1 + ARRIVED_S)
        assert path.far.received == b"late"
        path.network.heal()
        path.network.links["a", "b"].add(Trouble(bytes_per_s=1000))
        path.near.transport.write(bytes(5000))
        await asyncio.sleep(4.9)
        assert len(path.far.received) < 5004
        await asyncio.sleep(0.3)
        assert len(path.far.received) == 5004

    play(loop, scenario)


def test_a_reset_breaks_both_ends_and_a_new_connection_works(loop: SimLoop) -> None:
    """As a firewall that forgets its connections does."""

    async def scenario(path: Path) -> None:
        path.network.reset("b", "a")
        await asyncio.sleep(ARRIVED_S)
        assert path.near.lost
        assert path.far.lost
        again = await loop.spawn(loop.processes["a"], _dial(path.network))
        again.transport.write(b"again")
        await asyncio.sleep(ARRIVED_S)
        assert path._accepted[-1].received == b"again"

    play(loop, scenario)


def test_a_corrupting_link_changes_one_bit_of_a_chunk_and_not_its_length(loop: SimLoop) -> None:
    """So a frame still ends where it ended, and only its checksum can tell."""

    async def scenario(path: Path) -> None:
        link = path.network.links["a", "b"]
        link.add(Trouble(flips=1.0))
        sent = bytes(1000)
        path.near.transport.write(sent)
        await asyncio.sleep(ARRIVED_S)
        assert len(path.far.received) == len(sent)
        changed = sum(
            (one ^ other).bit_count() for one, other in zip(sent, path.far.received, strict=True)
        )
        assert changed == link.flipped > 0
        path.far.transport.write(b"untouched")
        await asyncio.sleep(ARRIVED_S)
        assert path.near.received == b"untouched"

    play(loop, scenario)


def test_a_node_that_does_not_listen_refuses_through_the_proxy(loop: SimLoop) -> None:
    """The dialling node sees a connection that ends at once, and dials again."""

    async def scenario(path: Path) -> None:
        loop.kill("b")
        again = await loop.spawn(loop.processes["a"], _dial(path.network))
        await asyncio.sleep(ARRIVED_S)
        assert again.lost

    play(loop, scenario)
