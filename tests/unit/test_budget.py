"""Background work keeps within its budget, yields to clients, and is never starved."""

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvnode.services.budget import (
    _UNIT_MAX_S,
    BURST_S,
    FLOOR,
    LATENESS_TARGET_S,
    TIME_SHARE,
    Budget,
)

RATE: Final = 1000
ITEM_BYTES_MAX: Final = 400
KIND: Final = "handoff"

pauses_s = st.floats(0, 3, allow_nan=False)
lateness_s = st.floats(0, 1, allow_nan=False)


def spend_all(budget: Budget, kind: str, now_s: float, item_bytes: int) -> int:
    """Send items for as long as there is something left; how much that was."""
    left_bytes = allowed_bytes = budget.allowed_bytes(kind, now_s)
    while left_bytes > 0:
        left_bytes -= item_bytes
    budget.spend(kind, allowed_bytes - left_bytes)
    return allowed_bytes - left_bytes


@given(st.lists(st.tuples(pauses_s, st.integers(1, ITEM_BYTES_MAX), lateness_s), min_size=1))
def test_no_stretch_of_time_sees_more_than_rate_times_time_and_a_burst(
    turns: list[tuple[float, int, float]],
) -> None:
    """Rule 1, for any stretch: from each turn to each later one, also after a long rest."""
    budget = Budget({KIND: RATE})
    now_s = 50.0
    sent: list[tuple[float, int]] = []
    for pause_s, item_bytes, late_s in turns:
        now_s += pause_s
        budget.observe(late_s)
        sent.append((now_s, spend_all(budget, KIND, now_s, item_bytes)))
    for first, (began_s, _) in enumerate(sent):
        total_bytes = 0
        for ended_s, size_bytes in sent[first:]:
            total_bytes += size_bytes
            granted_bytes = RATE * (ended_s - began_s) + RATE * BURST_S
            assert total_bytes <= granted_bytes + ITEM_BYTES_MAX + 0.01


@given(st.integers(1, ITEM_BYTES_MAX), st.lists(lateness_s, min_size=1))
def test_bytes_are_never_refused_for_ever(item_bytes: int, late_s: list[float]) -> None:
    """Rule 4: at the worst pace, the floor's share of the rate is there for the taking."""
    budget = Budget({KIND: RATE})
    for_s = 100.0
    sent_bytes = 0
    for tick in range(int(for_s * 10)):
        budget.observe(late_s[tick % len(late_s)])
        sent_bytes += spend_all(budget, KIND, tick / 10, item_bytes)
    assert sent_bytes >= 0.99 * FLOOR * RATE * for_s


def test_one_kind_does_not_take_the_bytes_of_another() -> None:
    """A backlog of hints must not stop repair, nor the other way round."""
    budget = Budget({KIND: RATE, "antientropy": 3 * RATE})
    sent = {KIND: 0, "antientropy": 0}
    for tick in range(1000):
        for kind in sent:
            sent[kind] += spend_all(budget, kind, tick / 10, 100)
    assert sent[KIND] == pytest.approx(RATE * 100, rel=0.01)
    assert sent["antientropy"] == pytest.approx(3 * RATE * 100, rel=0.01)


def test_work_without_a_rate_has_no_bytes_to_ask_for() -> None:
    """A kind that nobody gave a rate is a mistake in putting the node together."""
    with pytest.raises(KeyError):
        Budget({KIND: RATE}).allowed_bytes("scrub", 0.0)


def run_busily(
    budget: Budget, held_s: dict[str, float], until_s: float
) -> dict[str, tuple[float, int]]:
    """Services that always have more to do: (seconds held, units) by kind.

    One event loop: a unit runs when its rest is over and no other unit runs.
    """
    ready_s = dict.fromkeys(held_s, 0.0)
    used = dict.fromkeys(held_s, (0.0, 0))
    now_s = 0.0
    while now_s < until_s:
        kind = min(ready_s, key=lambda name: ready_s[name])
        now_s = max(now_s, ready_s[kind]) + held_s[kind]
        ready_s[kind] = now_s + budget.rest_s(kind, held_s[kind], more=True)
        seconds, units = used[kind]
        used[kind] = (seconds + held_s[kind], units + 1)
    return used


units_s = st.floats(0.001, _UNIT_MAX_S)
services = st.dictionaries(st.sampled_from("abcdef"), units_s, min_size=1)


@given(services, lateness_s)
def test_all_work_together_holds_the_loop_for_its_share_of_the_time(
    held_s: dict[str, float], late_s: float
) -> None:
    """Rule 2: however many there are, clients have the rest."""
    budget = Budget({})
    for _ in range(20):
        budget.observe(late_s)
    for_s = 60.0
    used = run_busily(budget, held_s, for_s)
    together_s = sum(seconds for seconds, _ in used.values())
    # A unit each on top, and the first ran before it was known how many there are.
    beginning_s = (1 + len(held_s)) * sum(held_s.values())
    assert together_s <= TIME_SHARE * budget.pace * for_s + beginning_s + 1e-6


@given(services)
def test_a_share_is_divided_equally_whatever_a_unit_takes(held_s: dict[str, float]) -> None:
    """Fair among kinds: those with long units run less often, and get no more for it."""
    for_s = 400.0
    used = run_busily(Budget({}), held_s, for_s)
    fair_s = TIME_SHARE * for_s / len(held_s)
    for kind, (seconds, units) in used.items():
        assert units > 10, "starved"
        # Units queue behind each other, a little more the more there are.
        assert 0.7 * fair_s <= seconds <= 1.1 * fair_s + 2 * held_s[kind]


def test_who_has_nothing_left_to_do_leaves_its_share_to_the_others() -> None:
    """Work-conserving: an idle scrub must not slow down a rebuild."""
    budget = Budget({})
    alone_s = budget.rest_s("a", 0.01, more=True)
    both_s = budget.rest_s("b", 0.01, more=True)
    assert both_s > 2 * alone_s
    assert budget.rest_s("b", 0.01, more=False) == 0.0
    assert budget.rest_s("a", 0.01, more=True) == alone_s


@given(st.floats(0, 1e6))
def test_a_process_that_stood_still_does_not_rest_for_hours(held_s: float) -> None:
    """A suspended machine finds an hour in its unit of work; that was no work."""
    budget = Budget({})
    longest_s = budget.rest_s("a", _UNIT_MAX_S, more=True)
    assert budget.rest_s("a", held_s, more=True) <= longest_s


@given(st.lists(lateness_s))
def test_the_pace_stays_between_the_floor_and_one(late_s: list[float]) -> None:
    """And a single stall, however long, takes no more than half."""
    budget = Budget({})
    for each_s in late_s:
        before = budget.pace
        budget.observe(each_s)
        assert max(FLOOR, before / 2) <= budget.pace <= 1.0


def test_background_work_yields_while_the_loop_is_late_and_recovers_when_it_is_not() -> None:
    """Rule 3: within some tens of wake-ups, in both directions."""
    budget = Budget({})
    for _ in range(20):
        budget.observe(2 * LATENESS_TARGET_S)
    assert budget.pace == FLOOR
    for _ in range(20):
        budget.observe(0.1 * LATENESS_TARGET_S)
    assert budget.pace == 1.0


@given(st.lists(lateness_s, max_size=50))
def test_lag_is_told_within_what_was_seen_and_follows_it(seen_s: list[float]) -> None:
    """One stall is not a late event loop; one that is always late is one, and recovers."""
    budget = Budget({})
    for late_s in seen_s:
        budget.observe(late_s)
    assert 0 <= budget.lag_s <= max(seen_s, default=0)
    for _ in range(40):
        budget.observe(2.0)
    assert budget.lag_s > 1.9
    for _ in range(40):
        budget.observe(0.0)
    assert budget.lag_s < 0.1
    budget.observe(5.0)
    assert budget.lag_s < 1.0
