"""What a run has come to so far, on disk: so a run of hours that is broken off can go on.

Rules
-----
1. The file is replaced whole, now and then and at the end. What was done since is done again.
2. A seed means something only together with the code: a run does not go on with another one.
3. A case that fails is a file of its own at once, ready for the corpus
   (``scripts.simulate.corpus``), and once its faults were reduced, with fewer.
"""

import shutil
import subprocess
from pathlib import Path
from typing import Final

import msgspec

from scripts.simulate.case import Case, Outcome
from scripts.simulate.corpus import as_text
from scripts.simulate.pool import ROOT

#: Where runs are kept that are not told another place.
RUNS: Final = ROOT / "simulate"


class Chosen(msgspec.Struct, frozen=True):
    """Which seeds a run plays, and with which code."""

    kind: str
    seed: int
    seeds: int
    code: str


class Progress(msgspec.Struct, frozen=True):
    """What has become of some of them."""

    done: list[int]
    failures: list[Outcome]
    met: dict[str, int]
    simulated_s: float
    took_s: float


class Checkpoint(msgspec.Struct, frozen=True):
    """Both, as they are on disk."""

    chosen: Chosen
    progress: Progress


class OtherCode(Exception):
    """Rule 2."""


class Keeper:
    """The files of one run.

    Args:
        path: Of the checkpoint; failed cases are kept beside it.
    """

    def __init__(self, path: Path, chosen: Chosen) -> None:
        self.path = path
        self._chosen = chosen

    def save(self, progress: Progress) -> None:
        """Replace the checkpoint."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.path.with_suffix(".new")
        fresh.write_bytes(msgspec.json.encode(Checkpoint(self._chosen, progress)))
        fresh.replace(self.path)

    def keep(self, case: Case, broken: str) -> Path:
        """Write a failed case; the file of the same seed, if there is one, has more faults."""
        directory = self.path.parent / "found"
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"{case.kind}-{case.seed}.toml"
        path.write_text(as_text(case, broken), encoding="utf-8")
        return path


def load(path: Path, code: str) -> Checkpoint:
    """What was kept. Raises OtherCode, OSError, msgspec.DecodeError."""
    found = msgspec.json.decode(path.read_bytes(), type=Checkpoint)
    if found.chosen.code != code:
        msg = f"{path} was begun with {found.chosen.code}, and this is {code}"
        raise OtherCode(msg)
    return found


def code_here() -> str:
    """The commit that is checked out, and whether files differ from it."""
    git = shutil.which("git")
    if git is None:
        return "unknown"
    described = subprocess.run(
        [git, "describe", "--always", "--dirty", "--abbrev=12"],
        cwd=ROOT,
        capture_output=True,
        check=False,
        text=True,
    )
    return described.stdout.strip() or "unknown"
