"""The scenarios that ``make scenarios`` plays, each with real processes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.scenarios.catalogue import SCENARIOS, Scenario
from scripts.scenarios.stage import Stage

pytestmark = pytest.mark.cluster


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """What is told is shown when a scenario fails."""
    stage = Stage(tmp_path, print)
    yield stage
    stage.close()


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_scenario(scenario: Scenario, stage: Stage) -> None:
    """Its docstring says what is done and what must be seen; it raises what was not."""
    scenario.play(stage)
