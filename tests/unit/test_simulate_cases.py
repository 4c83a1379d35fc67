"""Cases of the simulation: as they are typed, when they fail, and how a plan is made smaller."""

import asyncio
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.simulate.case import KINDS, Case, Failure, Kind, Outcome, parse, play
from scripts.simulate.pool import cases
from scripts.simulate.reduction import reduced
from tests.simulation.cluster import SimCluster
from tests.simulation.histories import random_history
from tests.simulation.plan import Plan

_NAMES: Final = [f"{line}.{number}" for line in ("n0", "n1", "s") for number in range(8)]
_FAULTS: Final = st.lists(st.sampled_from(_NAMES), unique=True).map(tuple)


@given(kind=st.sampled_from(list(KINDS)), seed=st.integers(0, 10**9), only=st.none() | _FAULTS)
def test_a_case_is_read_as_it_is_printed(
    kind: str, seed: int, only: tuple[str, ...] | None
) -> None:
    """What a report says can be typed."""
    case = Case(kind, seed, only)
    assert parse(str(case)) == case


@pytest.mark.parametrize("text", ["", "17", "lifetimes", "lifetimes:", "lives:3", "lifetimes:-1"])
def test_what_is_no_case_is_refused_with_what_one_looks_like(text: str) -> None:
    """Never played as something else."""
    with pytest.raises(ValueError, match="KIND:SEED"):
        parse(text)


@given(first=st.integers(0, 99), number=st.integers(1, 99))
def test_a_seed_is_of_one_kind_wherever_a_run_begins(first: int, number: int) -> None:
    """So a long run can be done in parts."""
    kinds = ("histories", "histories", "lifetimes")
    whole = list(cases(kinds, 0, 200))
    assert list(cases(kinds, first, number)) == whole[first : first + number]


@given(faults=_FAULTS, data=st.data())
def test_a_plan_is_reduced_to_the_faults_that_are_needed(
    faults: tuple[str, ...], data: st.DataObject
) -> None:
    """Whichever they are, and however many; another failure on the way is not mistaken for it."""
    needed = set(data.draw(st.lists(st.sampled_from(faults)) if faults else st.just([])))

    async def replay(case: Case) -> Outcome:
        assert case.only is not None
        kept = tuple(fault for fault in faults if fault in case.only)
        broken = "I4" if needed <= set(kept) else "I1"
        return Outcome(case, failure=Failure(broken, kept, ""))

    failed = Outcome(Case("lifetimes", 3), failure=Failure("I4", faults, ""))
    smallest = asyncio.run(reduced(failed, replay, attempts_max=1000))
    assert smallest.failure is not None
    assert set(smallest.failure.faults) == needed


def test_a_reduction_comes_to_an_end() -> None:
    """With what it has found until then."""
    attempts = 0

    async def never_fails(case: Case) -> Outcome:
        nonlocal attempts
        attempts += 1
        return Outcome(case)

    failed = Outcome(Case("lifetimes", 3), failure=Failure("I4", tuple(_NAMES), ""))
    assert asyncio.run(reduced(failed, never_fails, attempts_max=10)) is failed
    assert attempts == 10


def test_a_failure_says_what_is_known_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A history is really played; only its end is called wrong."""

    def wrong(seed: int, plan: Plan) -> SimCluster:
        random_history(seed, plan)
        error = AssertionError("I4: it is back")
        error.add_note("a note")
        raise error

    monkeypatch.setitem(KINDS, "histories", Kind(wrong, KINDS["histories"].met))
    failure = play(Case("histories", 1)).failure
    assert failure is not None
    assert failure.broken == "I4"
    assert failure.faults
    assert failure.report.startswith("histories:1 FAILED\nAssertionError: I4: it is back\na note\n")
    assert f" {failure.faults[0]} " in failure.report
    assert failure.report.endswith("\nreplay: python -m scripts.simulate --replay histories:1")


def test_an_error_that_is_no_broken_promise_is_reported_with_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A bug of the simulation fails the seed, and can be found."""

    def stumbles(seed: int, plan: Plan) -> SimCluster:
        raise KeyError("a1")

    monkeypatch.setitem(KINDS, "histories", Kind(stumbles, KINDS["histories"].met))
    failure = play(Case("histories", 1)).failure
    assert failure is not None
    assert "in stumbles" in failure.report
