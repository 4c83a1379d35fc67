"""What clients notice, at 200 requests a second, when a real node fails behind the edge."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from cluster.edge import SILENCE_S
from cluster.haproxy import TRY_S
from scripts.failover.balancers import ENVOY, HAPROXY, in_front_of, missing
from scripts.failover.clients import REPEATABLE, Seen
from scripts.failover.faults import strike
from scripts.local_cluster import LocalCluster

pytestmark = pytest.mark.cluster

PER_SECOND = 200
#: For a machine that is busy with other tests, on top of what the edge waits for a node.
LENIENCE_S = 1.5
Strike = Callable[[str, str], Seen]


@pytest.fixture(scope="module")
def struck(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Strike]:
    """``struck(fault, balancer)``: each fault happens once, to the clients of all balancers."""
    cluster = LocalCluster(tmp_path_factory.mktemp("edge"), edge=True)
    names = [name for name in (ENVOY, HAPROXY) if not missing(name)]
    seen: dict[str, dict[str, Seen]] = {}
    with ExitStack() as stack:
        stack.callback(cluster.close)
        if names:
            cluster.up()
        balancers = [stack.enter_context(in_front_of(cluster, name)) for name in names]

        def happen(fault: str, name: str) -> Seen:
            if fault not in seen:
                striking = strike(fault, "a2", cluster, balancers, per_second=PER_SECOND)
                seen[fault] = dict(zip(names, asyncio.run(striking), strict=True))
            return seen[fault][name]

        yield happen


def test_a_killed_node_costs_clients_nothing_that_may_be_repeated(
    struck: Strike, program: str
) -> None:
    """A create without a key may be lost with the node that had it: what was in flight, no more."""
    seen = struck("kill", program)

    assert seen.failures(*REPEATABLE) == []
    assert len(seen.failures("keyless")) <= 3
    assert all(one.status in {502, 503} for one in seen.failures("keyless"))
    assert seen.slowest_s(*REPEATABLE) < LENIENCE_S


def test_a_node_that_is_stopped_drains_and_no_client_notices(struck: Strike, program: str) -> None:
    """Not even a create without a key: the node is out of the rotation before it is gone."""
    seen = struck("drain", program)

    assert seen.failures(*REPEATABLE, "keyless") == []
    assert seen.slowest_s(*REPEATABLE, "keyless") < LENIENCE_S


def test_a_node_that_hangs_delays_clients_by_what_the_edge_waits_for_it(
    struck: Strike, program: str
) -> None:
    """A node that neither answers nor breaks its connections: the worst there is."""
    seen = struck("hang", program)

    waits_s = SILENCE_S if program == ENVOY else TRY_S
    assert seen.failures(*REPEATABLE, "keyless") == []
    assert seen.slowest_s(*REPEATABLE) < waits_s + LENIENCE_S
