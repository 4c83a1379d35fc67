"""Every promise is checked on each of the engines."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.engines import BENCHES, Bench


@pytest.fixture(params=BENCHES)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    """One of the engines, empty but for LevelDB's identity."""
    bench = BENCHES[request.param](tmp_path)
    yield bench
    bench.close()
    assert bench.failures == []
