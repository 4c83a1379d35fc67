"""Random histories of random clusters, judged by what clients saw and what disks hold.

``STELE_SEEDS=1000 pytest tests/simulation/test_histories.py`` looks further.
"""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from kvnode.hints import Debt, HintBook
from kvnode.services.purge import Purge
from tests.simulation.histories import (
    random_history,
    random_layouts,
    random_lifetimes,
    random_regions,
)
from tests.simulation.run import seeds
from tests.simulation.sometimes import (
    met_in_changes,
    met_in_history,
    met_in_lifetimes,
    met_with_tokens,
    met_with_words,
)

ROOT = Path(__file__).parents[2]
_PRINT_DIGEST = (
    "from tests.simulation.histories import random_history;"
    "print(random_history(7).loop.trace.digest())"
)


@seeds(8)
def test_whatever_befalls_a_cluster_it_keeps_its_promises(seed: int) -> None:
    """I1-I5, I8-I12, I15, I18, I27, and all replicas agree in the end (I16)."""
    random_history(seed)


@seeds(6)
def test_whatever_befalls_disks_what_has_ended_stays_so(seed: int) -> None:
    """I1-I6, I8-I12, I15-I18, I27: lives that end, and one disk after the other that is lost."""
    random_lifetimes(seed)


@seeds(2)
def test_whatever_befalls_regions_they_end_alike(seed: int) -> None:
    """As above, and I20: regions cut off, far away, without power, and outboxes that overflow."""
    random_regions(seed)


@seeds(2)
def test_whatever_befalls_a_cluster_whose_owners_change_they_end_alike(seed: int) -> None:
    """As above, and I13, I14, I19, I23: nodes join and leave, and disks from before they did."""
    random_layouts(seed)


def test_the_layouts_meet_what_they_are_for() -> None:
    """As below, of what happens while owners change, and what clients bring along then."""
    met: Counter[str] = Counter()
    for seed in (9, 33):
        cluster = random_layouts(seed)
        met.update(met_in_changes(cluster))
        met.update(met_with_tokens(cluster))
    seldom = ("crash in RETIRE", "session answered from another region")
    assert [what for what, number in met.items() if not number and what not in seldom] == []


def test_the_regions_meet_operators_words() -> None:
    """As below, of a region that is given up, also wrongly, and comes back under writes."""
    met = met_with_words(random_regions(17))
    assert [what for what, number in met.items() if not number] == []


def test_the_lifetimes_meet_what_they_are_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """As below, of what makes documents end and disks be mistrusted."""
    met = Counter({"vetoed": 0, "debt paid by comparing": 0})
    veto, repay = Purge._veto, HintBook.repay

    def vetoed(*arguments: Any) -> None:
        met["vetoed"] += 1
        veto(*arguments)

    def repaid(self: HintBook, debt: Debt) -> bool:
        paid = repay(self, debt)
        met["debt paid by comparing"] += paid
        return paid

    monkeypatch.setattr(Purge, "_veto", vetoed)
    monkeypatch.setattr(HintBook, "repay", repaid)
    for seed in (16, 20, 116):
        cluster = random_lifetimes(seed)
        of_any_history = met_in_history(cluster)
        for what, number in met_in_lifetimes(cluster).items():
            met[what] += number if what not in of_any_history else 1
    assert [what for what, number in met.items() if not number] == []


def test_the_histories_meet_what_they_are_for() -> None:
    """A checker sees only what happens: each of these must, now and then."""
    met: Counter[str] = Counter()
    for seed in range(100, 106):
        met.update(met_in_history(random_history(seed)))
    never = [what for what, number in met.items() if not number]
    assert [what for what in never if what != "process stopped"] == []


def test_a_seed_determines_everything() -> None:
    """Two runs of a seed take the same steps, whatever ran before them (I28)."""
    assert random_history(7).loop.trace.digest() == random_history(7).loop.trace.digest()
    assert random_history(7).loop.trace.digest() != random_history(8).loop.trace.digest()


@pytest.mark.parametrize("hash_seed", ["0", "1"])
def test_a_seed_determines_everything_in_any_process(hash_seed: str) -> None:
    """No order comes from hashing, which differs from one interpreter to the next (I28)."""
    printed = subprocess.run(
        [sys.executable, "-c", _PRINT_DIGEST],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        check=True,
        text=True,
    )
    assert printed.stdout.strip() == random_history(7).loop.trace.digest()
