"""Adding up outcomes, and saying what they come to."""

import time
from collections import Counter
from collections.abc import Callable
from typing import Final

from scripts.simulate.case import Outcome
from scripts.simulate.checkpoint import Progress

#: A zero among the counters fails a run of at least so many seeds.
MANY_SEEDS: Final = 1000
#: Failures that are told whole; of the others it is said that they are.
TOLD_WHOLE: Final = 5


class Tally:
    """Of one run.

    Args:
        planned: How many cases there are.
        clock: Seconds that pass.
        before: What was done before the run was broken off.
    """

    def __init__(
        self,
        planned: int,
        clock: Callable[[], float] = time.monotonic,
        before: Progress | None = None,
    ) -> None:
        before = before or Progress([], [], {}, 0.0, 0.0)
        self.planned = planned
        self.seeds_done = list(before.done)
        self.failures = list(before.failures)
        self.met = Counter(before.met)
        self.simulated_s = before.simulated_s
        self._before = before
        self._clock = clock
        self._began_s = clock()

    def add(self, outcome: Outcome) -> None:
        """One more is done."""
        self.seeds_done.append(outcome.case.seed)
        self.simulated_s += outcome.simulated_s
        self.met.update(outcome.met)
        if outcome.failure is not None:
            self.failures.append(outcome)

    @property
    def done(self) -> int:
        """How many cases are."""
        return len(self.seeds_done)

    @property
    def took_s(self) -> float:
        """Without the time for which it was broken off."""
        return self._before.took_s + self._clock() - self._began_s

    def progress_made(self) -> Progress:
        """All of it, to be kept."""
        return Progress(
            self.seeds_done, self.failures, dict(self.met), self.simulated_s, self.took_s
        )

    @property
    def never_met(self) -> list[str]:
        """What no history has met, if there were enough of them to expect it."""
        if self.done < MANY_SEEDS:
            return []
        return [name for name, number in self.met.items() if not number]

    @property
    def passed(self) -> bool:
        """Whether every case that was planned is done, and all is well."""
        return self.done == self.planned and not self.failures and not self.never_met

    @property
    def rate(self) -> float:
        """Seeds a second, so far."""
        return self.done / max(self.took_s, 1e-9)

    def progress(self) -> str:
        """How far the run is, in one line."""
        left_s = (self.planned - self.done) / self.rate if self.done else 0.0
        return (
            f"{self.done} of {self.planned} seeds, {len(self.failures)} failed, "
            f"{self.rate:.2f} seeds/s, {duration(self.simulated_s)} simulated, "
            f"{duration(left_s)} to go"
        )

    def first_of_each(self) -> list[Outcome]:
        """The first failure of each that broke something else."""
        found: dict[str, Outcome] = {}
        for outcome in self.failures:
            assert outcome.failure is not None
            found.setdefault(outcome.failure.broken, outcome)
        return list(found.values())

    def counters(self) -> list[str]:
        """How often each rare path was met, one a line."""
        lines = [f"{number:>9,}  {name}" for name, number in self.met.items()]
        return ["met:", *lines] if lines else []

    def verdict(self, *, interrupted: bool = False) -> str:
        """What the run comes to, in one line."""
        what = "passed" if self.passed else "FAILED"
        if interrupted and not self.failures:
            what = "interrupted"
        parts = [
            f"{self.done} of {self.planned} seeds",
            f"{len(self.failures)} failed",
            f"{self.rate:.2f} seeds/s",
            f"{duration(self.simulated_s)} simulated in {duration(self.took_s)}",
        ]
        if self.never_met:
            parts.append(f"never met: {', '.join(self.never_met)}")
        return f"{what}: {', '.join(parts)}"


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, as far as there are any."""
    minutes, rest_s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest_s:02} s" if minutes else f"{rest_s} s"
