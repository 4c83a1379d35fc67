"""Pages that promise something name the test that holds it: it must be there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTS = "\n".join(path.read_text() for path in sorted((ROOT / "tests").rglob("*.py")))


@pytest.mark.parametrize("page", ["consistency.md", "what-happens-when.md", "client.md"])
def test_what_a_page_promises_is_tested(page: str) -> None:
    """A test that was renamed, or is gone, leaves a promise that nobody keeps."""
    text = (ROOT / "docs" / page).read_text()
    named = re.findall(r"`(?:\w+/)*(test_\w+)`", text)
    paths = re.findall(r"`((?:tests|scripts)/[\w/]+\.py)`", text)
    assert [name for name in named if f"def {name}(" not in TESTS] == []
    assert [path for path in paths if not (ROOT / path).exists()] == []
    assert named or paths
