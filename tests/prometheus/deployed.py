"""What stands in deploy/prometheus, as far as tests look into it."""

import json
import re
from pathlib import Path
from typing import Final

DIRECTORY: Final = Path(__file__).parents[2] / "deploy" / "prometheus"
#: A name of ours, or of the HTTP conventions, or what a rule has recorded.
_NAME: Final = re.compile(r"\b(?:stele|http)[a-z0-9_:]+\b")


def alerts() -> dict[str, str]:
    """The text of each alert, by name."""
    blocks = re.split(r"^      - (?=alert:|record:)", _rules(), flags=re.MULTILINE)
    found = [re.match(r"alert: (\w+)", block) for block in blocks]
    return {name[1]: block for name, block in zip(found, blocks, strict=True) if name}


def recorded() -> list[str]:
    """The names of what rules record."""
    return re.findall(r"^      - record: (\S+)$", _rules(), re.MULTILINE)


def expressions() -> list[str]:
    """Of all rules."""
    texts = re.findall(
        r"^        expr: (?:\|\n((?:          .*\n)+)|(.*)\n)", _rules(), re.MULTILINE
    )
    return [block or line for block, line in texts]


def dashboard_expressions() -> list[str]:
    """Of all panels."""
    dashboard = json.loads((DIRECTORY / "dashboard.json").read_text())
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def names_in(expression: str) -> list[str]:
    """The metrics that an expression is about."""
    # Labels and their values are no metrics.
    bare = re.sub(r"\"[^\"]*\"|\bby \([^)]*\)|\{[^}]*\}", "", expression)
    return _NAME.findall(bare)


def _rules() -> str:
    return (DIRECTORY / "rules.yml").read_text()
