"""A short chaos run: real processes behind proxies, real clients, the judge over it all."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from scripts.chaos.arena import Arena
from scripts.chaos.plan import Fault, Kind
from scripts.chaos.report import write_report
from scripts.chaos.run import Options, Outcome, Run

pytestmark = pytest.mark.cluster

ONE_REGION = (
    Fault(1.0, Kind.KILL, ("a2",), 1.0),
    Fault(3.0, Kind.HALVES, ("a3",), 1.5),
    Fault(3.5, Kind.CORRUPT, ("a1",), 1.0),
)
TWO_REGIONS = (
    Fault(0.5, Kind.KILL_REGION, ("b1", "b2", "b3"), 0.5),
    # On a busy machine three nodes take seconds to start.
    Fault(6.0, Kind.CUT_REGION, ("a1", "a2", "a3"), 1.5),
)


async def _play(directory: Path, regions: int, plan: Sequence[Fault]) -> Outcome:
    # The last answers, the first second after healing, and a report come on top.
    duration_s = 0.5 + max(fault.at_s + fault.lasts_s for fault in plan)
    options = Options(
        seed=1, nodes=3, regions=regions, duration_s=duration_s, plan=plan, rate=100.0
    )
    arena = Arena(directory, options.nodes, options.regions, options.seed)
    try:
        return await Run(options, arena, print).play()
    finally:
        await arena.close()


def test_a_kill_and_a_partition_cost_no_document_and_bring_none_back(tmp_path: Path) -> None:
    """The same as ``make chaos``, but short: what it needs is there, and it finds nothing wrong."""
    outcome = asyncio.run(_play(tmp_path, 1, ONE_REGION))

    assert outcome.violations == []
    assert [band.what for band in outcome.bands] == ["kill a2", "halves a3", "corrupt a1"]
    assert outcome.looks[-1].reasons == []
    assert outcome.verdict.acknowledged > 100
    met = {type(operation.answer).__name__ for operation in outcome.history}
    assert met >= {"Created", "Found", "Stored", "DocumentDeleted", "DocumentNotFound"}

    page = write_report(outcome, tmp_path / "report", ["nothing"])
    assert "PASSED" in page.read_text(encoding="utf-8")
    assert {path.name for path in page.parent.iterdir()} == {
        "report.html",
        "plan.toml",
        *(f"{name}{theme}.png" for name in ("run", "healing") for theme in ("", "-dark")),
    }


def test_a_region_that_is_killed_and_one_that_is_cut_off_cost_no_document(tmp_path: Path) -> None:
    """Every document is on every owner's disk in both regions in the end, or deleted in both."""
    outcome = asyncio.run(_play(tmp_path, 2, TWO_REGIONS))

    assert outcome.violations == []
    assert [band.what for band in outcome.bands] == [str(fault) for fault in TWO_REGIONS]
    assert outcome.looks[-1].reasons == []
    assert outcome.verdict.acknowledged > 100
    apart = [one for one in outcome.history if 6.0 < one.invoked_s < 7.5 and one.acknowledged]
    assert {one.via[0] for one in apart} == {"a", "b"}, "both go on while they are apart"
