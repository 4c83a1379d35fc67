"""The estimate settles where 95 % of the answers lie below it, whatever they are like."""

from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.ids import NodeId
from kvnode.latency import FIRST_S, HEDGE_QUANTILE, USUAL_MIN_S, Latencies

PEER, OTHER = NodeId("a2"), NodeId("a3")
SETTLING, MEASURED = 2_000, 6_000

SHAPES: dict[str, Callable[[Random], float]] = {
    "uniform": lambda rng: rng.uniform(0.5, 1.5),
    "exponential": lambda rng: rng.expovariate(1.0),
    "long tail": lambda rng: rng.lognormvariate(0.0, 1.0),
    "a pause now and then": lambda rng: 1.0 if rng.random() < 0.97 else 100.0,
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale_s", [2e-4, 1e-2, 1.0])
def test_the_estimate_rests_near_the_95th_percentile(shape: str, scale_s: float) -> None:
    """Over orders of magnitude: a hedge is to be sent for one read in twenty."""
    rng = Random(f"{shape}/{scale_s}")
    latencies = Latencies()
    below = 0
    for number in range(SETTLING + MEASURED):
        sample_s = scale_s * SHAPES[shape](rng)
        if number >= SETTLING:
            below += sample_s <= latencies.estimate_s[PEER]
        latencies.add(PEER, sample_s)
    assert below / MEASURED == pytest.approx(HEDGE_QUANTILE, abs=0.02)


@given(st.lists(st.floats(0, 1e6), max_size=200))
def test_the_estimate_stays_a_time(samples_s: list[float]) -> None:
    """Positive and finite, so that it can rise again after a thousand answers of zero."""
    latencies = Latencies()
    for sample_s in samples_s:
        latencies.add(PEER, sample_s)
        assert 0 < latencies.estimate_s[PEER] <= max(FIRST_S, 1.05 * max(samples_s))


def test_a_peer_that_became_slow_is_believed_to_be_slow_soon() -> None:
    """A hundredfold within a hundred answers: until then every read is hedged."""
    latencies = Latencies()
    for _ in range(1000):
        latencies.add(PEER, 0.001)
    for _ in range(100):
        latencies.add(PEER, 0.1)
    assert latencies.usual_s(PEER) > 0.09


def test_peers_are_told_apart() -> None:
    """One slow peer makes no other one look slow."""
    latencies = Latencies()
    for _ in range(100):
        latencies.add(PEER, 1.0)
    assert latencies.estimate_s.keys() == {PEER}
    assert latencies.usual_s(OTHER) == FIRST_S


def test_a_hedge_is_never_sent_for_a_pause_of_this_process() -> None:
    """Below a few milliseconds, what is slow is more likely here than there."""
    latencies = Latencies()
    for _ in range(10_000):
        latencies.add(PEER, 0.0)
    assert latencies.usual_s(PEER) == USUAL_MIN_S
