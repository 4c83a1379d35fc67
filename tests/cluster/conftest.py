"""Fixtures for tests with real processes; whatever happens, none of them outlives the tests.

A start takes seconds, so most tests share a cluster that is whole when they get it, whatever the
one before has done to it. They count what they do themselves, never what is there.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.local_cluster import LocalCluster, wait_until

MakeCluster = Callable[..., LocalCluster]
QUICK = '[storage]\nballast_bytes = 0\nfsync = "os"\n'


@pytest.fixture
def make_cluster(tmp_path: Path) -> Iterator[MakeCluster]:
    """``make_cluster(nodes=3, regions=1, config=TOML, edge=False)``; ``up`` starts the result."""
    made: list[LocalCluster] = []

    def make(**options: Any) -> LocalCluster:
        directory = tmp_path / f"cluster{len(made)}"
        directory.mkdir()
        made.append(LocalCluster(directory, **options))
        return made[-1]

    yield make
    for cluster in made:
        cluster.close()


@pytest.fixture(scope="package")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeCluster]:
    """``shared(regions=2)``: whoever asks for the same gets the same, started and whole."""
    made: dict[str, LocalCluster] = {}

    def get(**options: Any) -> LocalCluster:
        name = repr(sorted(options.items()))
        if name not in made:
            made[name] = LocalCluster(tmp_path_factory.mktemp("shared"), **options)
        cluster = made[name]
        if len(cluster.running()) < len(cluster.nodes):
            cluster.up()
        cluster.wait_connected()
        wait_until(lambda: not any(cluster.status(node)["hints"] for node in cluster.nodes))
        return cluster

    yield get
    for cluster in made.values():
        cluster.close()


@pytest.fixture
def cluster(shared: MakeCluster) -> LocalCluster:
    """Three nodes, ready."""
    return shared()


@pytest.fixture
def two(shared: MakeCluster) -> LocalCluster:
    """Regions a and b of three nodes each."""
    return shared(regions=2, config=QUICK)
