"""A history as numbers over time."""

from collections import Counter
from collections.abc import Sequence
from math import ceil, floor

import msgspec

from kvnode.errors import StoreError
from scripts.chaos.verdict import is_definite
from scripts.checker.history import NoAnswer, Operation, Refused


class Series(msgspec.Struct):
    """One value a second, by what it is of; seconds count from the beginning."""

    seconds: list[int]
    #: Requests by what became of them.
    answered: list[int]
    refused: list[int]
    unanswered: list[int]
    #: Of the answered ones, in milliseconds; None in a second without any.
    p50_ms: list[float | None]
    p99_ms: list[float | None]
    #: By kind, most frequent first.
    errors: dict[str, list[int]]


def series_of(history: Sequence[Operation], until_s: float) -> Series:
    """What was asked before ``until_s``, by the second in which it was asked."""
    count = ceil(until_s)
    answered, refused, unanswered = [0] * count, [0] * count, [0] * count
    latencies: list[list[float]] = [[] for _ in range(count)]
    errors: dict[str, list[int]] = {}
    for operation in history:
        second = floor(operation.invoked_s)
        if second >= count:
            continue
        if is_definite(operation):
            answered[second] += 1
            assert operation.answered_s is not None
            latencies[second].append(1000 * (operation.answered_s - operation.invoked_s))
            continue
        kind = kind_of_error(operation)
        errors.setdefault(kind, [0] * count)[second] += 1
        (unanswered if kind == "no answer" else refused)[second] += 1
    totals = Counter({kind: sum(counts) for kind, counts in errors.items()})
    return Series(
        seconds=list(range(count)),
        answered=answered,
        refused=refused,
        unanswered=unanswered,
        p50_ms=[quantile(sorted(one), 0.5) for one in latencies],
        p99_ms=[quantile(sorted(one), 0.99) for one in latencies],
        errors={kind: errors[kind] for kind, _ in totals.most_common()},
    )


def kind_of_error(operation: Operation) -> str:
    """In a client's words."""
    answer = operation.answer
    if isinstance(answer, StoreError):
        return answer.code
    if isinstance(answer, Refused):
        return "no connection"
    assert answer is None or isinstance(answer, NoAnswer)
    return "no answer"


def quantile(ordered: Sequence[float], share: float) -> float | None:
    """The smallest value that so large a share does not exceed."""
    return ordered[max(ceil(share * len(ordered)) - 1, 0)] if ordered else None
