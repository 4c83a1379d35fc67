"""Random histories of random clusters, judged by what clients saw and what disks hold.

``STELE_SEEDS=1000 pytest tests/simulation/test_histories.py`` looks further.
"""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Final

import pytest

from docservice.documents import DocumentNotFound
from kvnode.errors import KeyReused, ReadTimeout, Unavailable, WriteTimeout
from kvnode.hints import Debt, HintBook
from kvnode.services.purge import Purge
from scripts.checker.history import NoAnswer
from tests.simulation.cluster import SimCluster
from tests.simulation.histories import random_history, random_lifetimes
from tests.simulation.run import seeds

#: Seeds of lifetimes, by what was wrong.
FOUND: Final = {
    "read repair on a low disk": 2,
    "promise taken for a floor": 3,
    "minority purges": 105,
    "deletions counted below zero": 1095,
    "sweep of what is on its way to the disk": 1105,
    "read that waits for nobody": 1384,
    "read that waits for its own slow disk": 1388,
}
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


@pytest.mark.parametrize("seed", FOUND.values(), ids=FOUND)
def test_what_a_history_once_found_stays_found(seed: int) -> None:
    """Each of these seeds broke a promise before what it is named after was mended."""
    random_lifetimes(seed)


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
    for seed in (20, 21, 105):
        met.update(_met_in_lifetimes(random_lifetimes(seed)))
    assert [what for what, count in met.items() if not count] == []


def _met_in_lifetimes(cluster: SimCluster) -> Counter[str]:
    met: Counter[str] = Counter()
    for machine in cluster.nodes.values():
        background, replica = machine.serving.background, machine.serving.replica
        met["purged"] += background.sweep.purged_count
        met["expired"] += background.sweep.expired_count
        met["verified"] += background.verify.verified_count
        met["repaired by comparing"] += background.antientropy.totals.pulled
        met["fenced"] += len(machine.events("node.fenced"))
        met["rebuilt"] += len(machine.events("node.rebuilt"))
        met["healed"] += len(machine.events("record.healed"))
        met["copy in quarantine"] += sum(replica.quarantine.counts.values())
        met["hint over its age"] += sum(
            line.fields["reason"] == "expired" for line in machine.events("hint.dropped")
        )
    met["restored"] = sum("put back" in fault.what for fault in cluster.faults)
    met["wiped"] = sum("wiped" in fault.what for fault in cluster.faults)
    return met


def test_the_histories_meet_what_they_are_for() -> None:
    """A checker sees only what happens: each of these must, now and then."""
    met: Counter[str] = Counter()
    for seed in range(100, 106):
        met.update(_met(random_history(seed)))
    never = [what for what in _met_names() if not met[what]]
    assert not never


def _met_names() -> list[str]:
    errors = [NoAnswer, WriteTimeout, ReadTimeout, Unavailable, KeyReused, DocumentNotFound]
    return [error.__name__ for error in errors] + [
        "hint acknowledged",
        "hint delivered",
        "hint superseded",
        "hint over the cap",
        "read repaired",
        "read hedged",
        "key replayed",
        "bodies in conflict",
    ]


def _met(cluster: SimCluster) -> Counter[str]:
    met = Counter(type(op.answer).__name__ for op in cluster.history)
    for machine in cluster.nodes.values():
        coordinator, replica = machine.serving.coordinator, machine.serving.replica
        met["hint delivered"] += replica.hints.delivered
        met["hint superseded"] += replica.hints.superseded
        met["hint over the cap"] += replica.hints.dropped["overflow"]
        met["read repaired"] += coordinator.read_repair_count
        met["read hedged"] += coordinator.hedged_count
        met["key replayed"] += coordinator.replay_count
        met["bodies in conflict"] += replica.conflict_count
    met["hint acknowledged"] = sum(op.hints > 0 for op in cluster.history)
    return met


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
