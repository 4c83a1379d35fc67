"""One history to play: its kind, its seed, and perhaps the few faults that are enough.

Rules
-----
1. ``lifetimes:17`` is a case as it is typed and printed; ``lifetimes:17:n0.3+s.1`` is the same with
   two of its faults only (``tests.simulation.plan`` names them).
2. A case says what it broke by the first words of its failure: ``I4`` for an invariant.
"""

import time
import traceback
from collections import Counter
from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec

from tests.simulation.cluster import SimCluster
from tests.simulation.histories import (
    random_history,
    random_layouts,
    random_lifetimes,
    random_regions,
    random_sessions,
)
from tests.simulation.plan import Plan
from tests.simulation.sometimes import (
    met_in_history,
    met_in_layouts,
    met_in_lifetimes,
    met_in_regions,
    met_in_sessions,
)

REPLAY: Final = "python -m scripts.simulate --replay"


class Kind(NamedTuple):
    """How histories of a kind are played, and what they meet."""

    play: Callable[[int, Plan], SimCluster]
    met: Callable[[SimCluster], Counter[str]]


KINDS: Final = {
    "histories": Kind(random_history, met_in_history),
    "layouts": Kind(random_layouts, met_in_layouts),
    "lifetimes": Kind(random_lifetimes, met_in_lifetimes),
    "regions": Kind(random_regions, met_in_regions),
    "sessions": Kind(random_sessions, met_in_sessions),
}


class Case(msgspec.Struct, frozen=True):
    """What determines a history, together with the code."""

    kind: str
    seed: int
    #: The names of the faults that happen; None: all do.
    only: tuple[str, ...] | None = None

    def __str__(self) -> str:
        whole = f"{self.kind}:{self.seed}"
        return whole if self.only is None else f"{whole}:{'+'.join(self.only)}"


class Failure(msgspec.Struct, frozen=True):
    """What was broken, and what to read about it."""

    #: The invariant, or what else an error begins with: whether two failures are the same.
    broken: str
    #: The names of the faults that had happened.
    faults: tuple[str, ...]
    report: str


class Outcome(msgspec.Struct, frozen=True):
    """What became of a case."""

    case: Case
    simulated_s: float = 0.0
    took_s: float = 0.0
    met: dict[str, int] = {}
    failure: Failure | None = None


def parse(text: str) -> Case:
    """A case as it is typed. Raises ValueError with what is wrong."""
    kind, _, rest = text.partition(":")
    seed, comma, only = rest.partition(":")
    if kind not in KINDS or not seed.isdecimal():
        raise ValueError(f"{text!r} is no case: KIND:SEED, where KIND is {' or '.join(KINDS)}")
    faults = tuple(name for name in only.split("+") if name)
    return Case(kind, int(seed), faults if comma else None)


def play(case: Case) -> Outcome:
    """Play a case in this process, and say what became of it."""
    kind, plan = KINDS[case.kind], Plan(case.only)
    began_s = time.monotonic()
    try:
        cluster = kind.play(case.seed, plan)
    except (Exception, BaseExceptionGroup) as error:  # noqa: BLE001 whatever it is, it is reported
        failure = _failure(case, plan, error)
        return Outcome(case, took_s=time.monotonic() - began_s, failure=failure)
    met = dict(kind.met(cluster))
    return Outcome(case, cluster.loop.time(), time.monotonic() - began_s, met)


def _failure(case: Case, plan: Plan, error: BaseException) -> Failure:
    broken = (str(error) or type(error).__name__).partition(":")[0]
    faults = "\n".join(map(str, plan.faults)) or "none"
    if isinstance(error, AssertionError):  # whose place says only which check it was
        said = [f"{type(error).__name__}: {error}", *getattr(error, "__notes__", [])]
    else:
        said = [line.rstrip() for line in traceback.format_exception(error)]
    lines = [f"{case} FAILED", *said, "fault plan:", faults, f"replay: {REPLAY} {case}"]
    return Failure(broken, tuple(fault.name for fault in plan.faults), "\n".join(lines))
