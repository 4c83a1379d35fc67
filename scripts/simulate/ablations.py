"""Take out one safeguard after the other, and write which promise breaks: ``make ablations``.

The safeguards are those of ``tests/simulation/test_ablations.py``. Where random histories catch
one, the first seed that does is looked for from 0 on; elsewhere it is the test that is about it, or
a point at which an operation is cut short.
"""

import inspect
import re
import sys
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Final, NamedTuple

import pytest
import typer

from scripts.simulate.pool import ROOT
from tests.simulation.histories import (
    random_history,
    random_layouts,
    random_lifetimes,
    random_regions,
    random_sessions,
)

if TYPE_CHECKING:
    from tests.simulation.ablations import Ablation

PAGE: Final = ROOT / "docs" / "ablations.md"
SEEDS: Final = range(51)
_SHOWN: Final = 100
_NOTHING: Final = "**nothing**"
_PLAYS: Final = (
    random_history,
    random_lifetimes,
    random_regions,
    random_sessions,
    random_layouts,
)
_HISTORIES: Final = {play.__name__: play for play in _PLAYS}
_HEAD: Final = """# Ablations

What the tests are worth: each safeguard is taken out of the production code, one at a time, and
something must break. Written by `make ablations`; the safeguards are in
`tests/simulation/test_ablations*.py`. A seed is the first, from 0 on, whose random history catches
it; where they seldom meet what it guards against, the test that is about it is named, or the
crash point (`make crash-points`).

| safeguard taken out | what that means | caught by | how it shows |
|---|---|---|---|
"""


class Catch(NamedTuple):
    """Where an ablation was caught, and how that showed."""

    by: str
    where: str
    #: The line that says so.
    shows: str


def row(ablation: "Ablation") -> str:
    """A line of the table."""
    meaning = inspect.getdoc(ablation.patch) or ""
    catch = caught(ablation)
    name = ablation.patch.__name__.replace("_", " ")
    if catch is None:
        return f"| {name} | {meaning} | {_NOTHING} | |"
    shown = catch.shows.replace("|", "\\|")
    if len(shown) > _SHOWN:
        shown = f"{shown[:_SHOWN].rstrip()} ..."
    return f"| {name} | {meaning} | {catch.by}, {catch.where} | {shown} |"


def caught(ablation: "Ablation") -> Catch | None:
    """Take a safeguard out, and see what catches that; None: nothing does."""
    with pytest.MonkeyPatch.context() as patch:
        ablation.patch(patch)
        catch = _catch(ablation, ablation.check)
        play = _HISTORIES.get(catch.by) if catch is not None else None
        if catch is None or play is None:
            return catch
        for seed in SEEDS:
            first = _catch(ablation, partial(play, seed))
            if first is not None:
                return first
        return catch


def _catch(ablation: "Ablation", check: Callable[[], object]) -> Catch | None:
    try:
        check()
    except ablation.failures as error:
        # As ``pytest.raises`` matches: what else was broken is told in notes.
        told = "\n".join([str(error), *getattr(error, "__notes__", [])])
        match = re.search(ablation.caught_as, told)
        if match is None:
            return None
        by, where = _place(error.__traceback__)
        start = told.rfind("\n", 0, match.start()) + 1
        return Catch(by, where, told[start:].partition("\n")[0].removeprefix("broken: "))
    return None


def _place(trace: TracebackType | None) -> tuple[str, str]:
    """The history or the test that failed, and its seed; or the operation, and where it was cut."""
    while trace is not None:
        name, found = trace.tb_frame.f_code.co_name, trace.tb_frame.f_locals
        if name in _HISTORIES or name.startswith("test_"):
            return name, f"seed {found['seed']}"
        if name == "steps_of":  # of tests.simulation.crash_points, as is the next one
            return found["operation"], "undisturbed"
        if name == "cut":
            return found["point"].operation, f"{found['point'].strike}, step {found['point'].step}"
        trace = trace.tb_next
    raise LookupError("neither a history nor a test nor an operation has failed")


class _Writer:
    """Works instead of the tests that pytest has collected.

    Only what pytest imports says in an assertion what was compared, and that is matched here.
    """

    def pytest_runtestloop(self) -> bool:
        """Write the page."""
        from tests.simulation import (  # noqa: PLC0415 not before pytest
            test_ablations,
            test_ablations_of_layouts,
            test_ablations_of_lifetimes,
            test_ablations_of_partings,
            test_ablations_of_regions,
            test_ablations_of_sessions,
            test_crash_points,
        )

        rows = []
        themes = [
            test_ablations,
            test_ablations_of_lifetimes,
            test_ablations_of_sessions,
            test_ablations_of_regions,
            test_ablations_of_partings,
            test_ablations_of_layouts,
            test_crash_points,
        ]
        for ablation in [ablation for theme in themes for ablation in theme.ABLATIONS]:
            rows.append(row(ablation))
            typer.echo(rows[-1])
        PAGE.write_text(_HEAD + "\n".join(rows) + "\n", encoding="utf-8")
        if any(_NOTHING in line for line in rows):
            raise pytest.exit.Exception("a safeguard can be taken out, and nothing notices", 1)
        return True


def main() -> None:
    """Entry point."""
    quiet = ["-q", "-s", "--no-header", "--no-summary", "-p", "no:cacheprovider"]
    registry = str(ROOT / "tests" / "simulation" / "test_ablations.py")
    sys.exit(pytest.main([*quiet, registry], plugins=[_Writer()]))


if __name__ == "__main__":
    main()
