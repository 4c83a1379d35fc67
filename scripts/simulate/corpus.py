"""Cases that once failed, each a small file that CI plays: ``tests/simulation/corpus/*.toml``.

    kind = "lifetimes"
    seed = 17
    only = ["n0.3", "s.1"]      # if a few of its faults are enough
    found = "What was wrong, in a sentence."
    fixed_by = "The subject of the commit that mended it"

A seed finds again what it found as long as the draws before it are the same. When a change of the
simulation's draws makes it play something else, the file has had its time.
"""

import tomllib
from pathlib import Path
from typing import Final

import msgspec

from scripts.simulate.case import Case
from scripts.simulate.pool import ROOT

CORPUS: Final = ROOT / "tests" / "simulation" / "corpus"


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A case, what it found, and what mended that."""

    kind: str
    seed: int
    found: str
    fixed_by: str
    only: tuple[str, ...] | None = None

    @property
    def case(self) -> Case:
        """What is played."""
        return Case(self.kind, self.seed, self.only)


def entries(directory: Path = CORPUS) -> dict[str, Entry]:
    """Every case that is kept, by the name of its file."""
    return {
        path.stem: msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), Entry)
        for path in sorted(directory.glob("*.toml"))
    }


def as_text(case: Case, found: str) -> str:
    """A file for a case that was just found, to be completed by whoever mends it."""
    lines = [f'kind = "{case.kind}"', f"seed = {case.seed}"]
    if case.only is not None:
        lines.append(f"only = [{', '.join(map(quoted, case.only))}]")
    return "\n".join([*lines, f"found = {quoted(found)}", 'fixed_by = ""', ""])


def quoted(text: str) -> str:
    """A string of TOML, which is one of JSON but for one character."""
    return msgspec.json.encode(text).decode().replace("\x7f", r"\u007f")
