"""Balancers for tests; one that this machine does not have is skipped, with the reason."""

import pytest

from scripts.failover.balancers import ENVOY, HAPROXY, missing


@pytest.fixture(scope="module", params=[ENVOY, HAPROXY])
def program(request: pytest.FixtureRequest) -> str:
    """Name of a balancer that is installed."""
    name: str = request.param
    if reason := missing(name):
        pytest.skip(reason)
    return name
