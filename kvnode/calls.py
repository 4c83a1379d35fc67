"""What was asked of a coordinator: how often, with which quorum, how it ended, how long it took.

Plain integers, read when Prometheus asks: a call costs about a microsecond more.
"""

from bisect import bisect_left
from collections.abc import Iterable
from itertools import accumulate
from typing import Final

#: Upper bounds, in seconds, by which durations are counted.
BOUNDS_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_OK: Final = "ok"
_EACH: Final = "each_quorum"
OPERATIONS: Final = ("create", "read", "delete")


class Count:
    """Of one operation at one level of consistency. A histogram, and how calls have ended."""

    __slots__ = ("counts", "outcomes", "total_s")

    def __init__(self) -> None:
        #: How many were at most each bound and above the one before; the last: above all.
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.total_s = 0.0
        #: By the code of the error; ``ok`` without one.
        self.outcomes = {_OK: 0}

    def add(self, duration_s: float, outcome: str = _OK) -> None:
        """One call has ended."""
        self.counts[bisect_left(BOUNDS_S, duration_s)] += 1
        self.total_s += duration_s
        if outcome is _OK:
            self.outcomes[_OK] += 1
        else:
            self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1

    def plus(self, others: Iterable["Count"]) -> tuple[list[tuple[str, float]], float]:
        """With others: upper bounds and how many were at most that; seconds in all."""
        counts = [self, *others]
        together = [float(sum(of)) for of in zip(*(one.counts for one in counts), strict=True)]
        names = [*map(str, BOUNDS_S), "+Inf"]
        buckets = list(zip(names, accumulate(together), strict=True))
        return buckets, sum(one.total_s for one in counts)


class Calls:
    """Of one process."""

    def __init__(self, copies: int) -> None:
        named = {number: str(number) for number in range(1, copies + 1)}
        named |= {copies: "all", copies // 2 + 1: "quorum", 1: "one"}
        levels = [*named.values(), _EACH]
        self.counts = {name: {level: Count() for level in levels} for name in OPERATIONS}
        #: By operation: for a quorum in this region, and for one in each.
        self.here = {
            name: {number: of[level] for number, level in named.items()}
            for name, of in self.counts.items()
        }
        self.everywhere = {name: of[_EACH] for name, of in self.counts.items()}
