"""What is promised of the scenarios; ``tests/cluster/test_scenarios.py`` plays them."""

import re
from pathlib import Path

import pytest

from scripts.scenarios.catalogue import SCENARIOS, Scenario

_PAGE = Path(__file__).parents[2] / "docs" / "what-happens-when.md"


def test_the_page_of_faults_names_each_scenario_and_no_other() -> None:
    """A fault that is played has its row, and a row that names a scenario can be played."""
    named = re.findall(r"scenario `([^`]+)`", _PAGE.read_text(encoding="utf-8"))
    assert set(named) == {scenario.name for scenario in SCENARIOS}


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_a_scenario_says_what_is_done_and_what_must_be_seen(scenario: Scenario) -> None:
    """It is all that people are told before it runs."""
    assert scenario.title.endswith(".")
    assert "Must be seen: " in scenario.description
