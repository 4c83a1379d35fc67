"""What a report is made of: series over time, setbacks out of logs."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from docservice.documents import DocumentDeleted, Quorums
from kvnode.errors import Unavailable
from scripts.chaos.series import quantile, series_of
from scripts.chaos.setbacks import Expected, Setback, setbacks
from scripts.checker.history import Answer, Kind, NoAnswer, Operation, Refused

ANSWERS: list[Answer] = [
    DocumentDeleted(acked=1, required=1),
    Unavailable("too few"),
    Refused("nobody listens"),
    NoAnswer("silence"),
]


def operation(invoked_s: float, answer: Answer, took_s: float = 0.1) -> Operation:
    """A read."""
    op = Operation(1, Kind.READ, "a1", Quorums(1, 1, True), invoked_s, invoked_s + 2.0)
    op.answer, op.answered_s = answer, invoked_s + took_s
    return op


@given(st.lists(st.tuples(st.floats(0, 9.99), st.sampled_from(ANSWERS))))
def test_each_request_is_in_one_second_and_of_one_sort(asked: list[tuple[float, Answer]]) -> None:
    """The heights of the throughput plot add up to what was asked."""
    series = series_of([operation(at_s, answer) for at_s, answer in asked], 10.0)
    for second in series.seconds:
        drawn = series.answered[second] + series.refused[second] + series.unanswered[second]
        assert drawn == sum(int(at_s) == second for at_s, _ in asked)
        errors = sum(counts[second] for counts in series.errors.values())
        assert errors == series.refused[second] + series.unanswered[second]
        assert (series.p50_ms[second] is None) == (series.answered[second] == 0)


def test_latency_is_that_of_answers_alone() -> None:
    """A refusal at once would make a broken second look fast."""
    deleted, unavailable = ANSWERS[:2]
    took_s = [0.001 * number for number in range(1, 101)]
    history = [operation(0.5, deleted, one) for one in took_s]
    history += [operation(0.5, unavailable, 0.000_001) for _ in range(1000)]
    series = series_of(history, 1.0)
    assert [round(value or 0) for value in (series.p50_ms[0], series.p99_ms[0])] == [50, 99]
    assert series.errors == {"unavailable": [1000]}


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.01, 1.0))
def test_a_quantile_is_a_value_that_enough_do_not_exceed(values: list[float], share: float) -> None:
    """And the smallest such."""
    ordered = sorted(values)
    found = quantile(ordered, share)
    assert found in ordered
    assert sum(value <= found for value in ordered) >= share * len(ordered)
    assert sum(value < found for value in ordered) < max(share * len(ordered), 1)


def event(at_s: float, name: str, **more: Any) -> dict[str, Any]:
    """A line of a node's log, ``at_s`` after 1970 began."""
    minutes, seconds = divmod(at_s, 60)
    return {
        "timestamp": f"1970-01-01T00:{int(minutes):02d}:{seconds:09.6f}Z",
        "event": name,
        **more,
    }


def test_a_node_that_starts_anew_has_a_setback_until_it_is_started() -> None:
    """It met damage by itself, long after the strike; clients heard nothing meanwhile."""
    log = [
        event(1, "node.started"),
        event(40, "database.damaged", detail="a block"),
        event(42, "node.started"),
        event(43, "node.fenced", reason="its database is new"),
    ]
    found = list(setbacks({"a1": log}, [Expected("a1", 10, 12)], 0))
    assert found == [Setback("a1", 40, 42, "a1 starts anew: a block")]


def test_a_fence_counts_unless_a_strike_on_that_node_explains_it() -> None:
    """What a strike destroyed is known exactly; what another fence costs has to be assumed."""
    log = [event(30, "node.fenced", reason="away"), event(100, "node.fenced", reason="away")]
    struck = [Expected("a1", 10, 25)]
    assert [one.at_s for one in setbacks({"a1": log}, struck, 0)] == [100]
    assert [one.at_s for one in setbacks({"a2": log}, struck, 0)] == [30, 100]
    assert [one.at_s for one in setbacks({"a2": log}, [], 20_000)] == [10, 80]
