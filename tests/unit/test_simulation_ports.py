"""The clocks and the entropy of simulated nodes."""

from hypothesis import given
from hypothesis import strategies as st

from kvnode.ports import Clock, Entropy
from tests.simulation.ports import START_MS, SimClock, SimEntropy
from tests.simulation.processes import Process

seconds = st.floats(-1e6, 1e6)


class _Truth:
    now_s = 0.0

    def read(self) -> float:
        return self.now_s


@given(
    st.floats(0.9, 1.1),
    st.lists(st.tuples(st.floats(0, 1e6), seconds), max_size=20),
)
def test_the_monotonic_clock_goes_at_its_rate_whatever_the_wall_clock_does(
    rate: float, history: list[tuple[float, float]]
) -> None:
    """Timeouts and deadlines hang on it."""
    truth = _Truth()
    clock: Clock = (sim := SimClock(truth.read, rate=rate, monotonic_start_s=5))
    for pass_s, jump_s in history:
        before_s, started_s = clock.monotonic_s(), truth.now_s
        truth.now_s += pass_s
        sim.jump(jump_s)
        assert clock.monotonic_s() >= before_s
        assert clock.monotonic_s() == 5 + truth.now_s * rate
        assert truth.now_s >= started_s


@given(st.floats(0, 1e6), seconds, seconds)
def test_the_wall_clock_is_ahead_by_its_offset_and_its_jumps(
    now_s: float, ahead_s: float, jump_s: float
) -> None:
    """Forward and back, for nothing promises that time only grows."""
    truth = _Truth()
    clock = SimClock(truth.read, wall_ahead_s=ahead_s)
    truth.now_s = now_s

    clock.jump(jump_s)

    assert abs(clock.wall_ms() - START_MS - 1000 * (now_s + ahead_s + jump_s)) <= 1


def test_equal_seed_and_process_give_equal_entropy_and_others_differ() -> None:
    """Above all after a restart: the new process must not make the ids of the old one again."""

    def drawn(seed: int, name: str, epoch: int) -> bytes:
        entropy: Entropy = SimEntropy(seed, Process(name, epoch))
        assert 2 <= entropy.uniform(2, 3) < 3
        return entropy.random_bytes(16)

    assert drawn(1, "n1", 1) == drawn(1, "n1", 1)
    assert len({drawn(1, "n1", 1), drawn(1, "n1", 2), drawn(1, "n2", 1), drawn(2, "n1", 1)}) == 4
