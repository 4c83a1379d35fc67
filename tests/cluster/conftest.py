"""Fixtures for tests with real processes; whatever happens, none of them outlives its test."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.local_cluster import LocalCluster

MakeCluster = Callable[..., LocalCluster]


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


@pytest.fixture
def cluster(make_cluster: MakeCluster) -> LocalCluster:
    """Three nodes, ready."""
    cluster = make_cluster()
    cluster.up()
    return cluster
