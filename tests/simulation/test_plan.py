"""Sparing faults of a random history."""

from collections.abc import Callable

import pytest

from tests.simulation.cluster import SimCluster
from tests.simulation.histories import random_history, random_lifetimes
from tests.simulation.plan import Plan

_PLAY = [(random_history, 1), (random_lifetimes, 3)]


@pytest.mark.parametrize(("play", "seed"), _PLAY)
def test_a_spared_fault_leaves_everything_before_it_as_it_was(
    play: Callable[[int, Plan], SimCluster], seed: int
) -> None:
    """Or leaving one out would play another history."""
    whole = Plan()
    before = play(seed, whole)
    names = [fault.name for fault in whole.faults]
    half = len(names) // 2
    some = Plan(names[:half])
    after = play(seed, some)
    assert some.faults == whole.faults[:half]
    spared_s = whole.faults[half].at_s
    assert _until(before, spared_s) == _until(after, spared_s)
    assert before.loop.trace.digest() != after.loop.trace.digest()


def test_a_spared_fault_draws_and_waits_as_if_it_happened() -> None:
    """So those that are left strike as they did, at the same times."""
    whole = Plan()
    random_history(1, whole)
    left = whole.faults[1::2]
    some = Plan([fault.name for fault in left])
    random_history(1, some)
    assert some.faults == left


@pytest.mark.parametrize(("play", "seed"), _PLAY)
def test_nothing_befalls_a_cluster_whose_faults_are_all_spared(
    play: Callable[[int, Plan], SimCluster], seed: int
) -> None:
    """Each fault asks whether it happens."""
    cluster = play(seed, Plan(()))
    assert [fault.what for fault in cluster.faults] == ["every fault is over"]
    assert all(process.epoch == 1 for process in cluster.loop.processes.values())


def _until(cluster: SimCluster, end_s: float) -> list[str]:
    faults = [str(fault) for fault in cluster.faults if fault.at_s < end_s]
    operations = [op for op in cluster.history if op.answered_s and op.answered_s < end_s]
    return [*faults, *map(str, operations)]
