"""Bounds on how far clocks are apart: the truth is within them, and they notice a change."""

from hypothesis import given
from hypothesis import strategies as st

from cluster.ids import NodeId
from kvnode.skew import ClockSkews

PEER = NodeId("a2")
_delays_ms = st.floats(0, 5000)


def exchange(
    skews: ClockSkews, at_ms: float, ahead_ms: float, there_ms: float, back_ms: float
) -> None:
    """One request and its answer; clocks are read in whole milliseconds."""
    sent, read, received = at_ms, at_ms + there_ms + ahead_ms, at_ms + there_ms + back_ms
    skews.observe(PEER, int(sent // 1), int(received // 1), int(read // 1))


@given(
    st.floats(-100_000, 100_000),
    st.lists(st.tuples(st.floats(0, 10_000), _delays_ms, _delays_ms), min_size=1),
)
def test_the_truth_is_within_the_bounds_whatever_the_delays(
    ahead_ms: float, exchanges: list[tuple[float, float, float]]
) -> None:
    """However lopsided: there at once and back after five seconds says nothing false."""
    skews = ClockSkews()
    for at_ms, there_ms, back_ms in exchanges:
        exchange(skews, at_ms, ahead_ms, there_ms, back_ms)
        skew = skews.of(PEER)
        assert skew is not None
        assert abs(ahead_ms / 1000 - skew.ahead_s) <= skew.error_s + 1e-6
        assert skew.least_s <= abs(ahead_ms) / 1000 + 1e-6


@given(_delays_ms, _delays_ms, st.floats(10_100, 1e6))
def test_a_clock_that_was_set_is_noticed_with_the_next_exchange(
    there_ms: float, back_ms: float, set_by_ms: float
) -> None:
    """However quick, and so narrow, the exchanges before were."""
    skews = ClockSkews()
    exchange(skews, 0.0, 0.0, 0.1, 0.1)
    assert skews.beyond(0.01) == []
    exchange(skews, 1000.0, set_by_ms, there_ms, back_ms)
    ((peer, skew),) = skews.beyond(0.05)
    assert peer == PEER
    assert abs(set_by_ms / 1000 - skew.ahead_s) <= skew.error_s + 1e-6


def test_quick_exchanges_count_and_a_slow_one_takes_nothing_away() -> None:
    """A node that was paused for a minute between question and answer accuses nobody."""
    skews = ClockSkews()
    exchange(skews, 0.0, 40.0, 0.4, 0.4)
    quick = skews.of(PEER)
    assert quick is not None
    assert quick.error_s <= 0.002
    exchange(skews, 1000.0, 40.0, 60_000.0, 0.4)
    assert skews.of(PEER) == quick


def test_an_exchange_over_a_jump_of_the_own_clock_says_nothing() -> None:
    """Received before it was sent: the clock was set back meanwhile."""
    skews = ClockSkews()
    skews.observe(PEER, 5000, 4000, 4500)
    assert skews.of(PEER) is None
