"""What clients notice, at 200 requests a second, when a real node fails behind the edge."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Final

import pytest

from cluster.edge import RETRIES_MAX, SILENCE_S, listeners
from cluster.haproxy import TRY_S
from scripts.failover.balancers import ENVOY, HAPROXY, Balancer, in_front_of, missing
from scripts.failover.clients import REPEATABLE, Seen
from scripts.failover.faults import strike
from scripts.local_cluster import LocalCluster, call

pytestmark = pytest.mark.cluster

PER_SECOND = 200
#: What is sent in 50 ms: an answer takes less, also on a busy machine.
IN_FLIGHT_MAX = 10
#: For a machine that is busy with other tests, on top of what the edge waits for a node.
LENIENCE_S = 1.5
#: What a client is told of a request that was lost with its node. None: HAProxy, which can't repeat
#: it, closes a connection that has had an answer before, and says nothing.
LOST: Final[dict[str, set[int | None]]] = {ENVOY: {502, 503}, HAPROXY: {502, 503, None}}
CONFIG = "[storage]\nballast_bytes = 0\n"


class Struck:
    """Each fault happens once, to the clients of all balancers.

    ``kill`` befalls one node of the clients' region, ``kill region`` all of them.
    """

    def __init__(self, cluster: LocalCluster, balancers: dict[str, Balancer]) -> None:
        self.balancers = balancers
        self._cluster = cluster
        self._seen: dict[str, dict[str, Seen]] = {}

    def __call__(self, fault: str, program: str) -> Seen:
        if fault not in self._seen:
            what, _, whole = fault.partition(" ")
            nodes = self._cluster.regions["a"] if whole else ["a2"]
            balancers = list(self.balancers.values())
            striking = strike(what, nodes, self._cluster, balancers, per_second=PER_SECOND)
            self._seen[fault] = dict(zip(self.balancers, asyncio.run(striking), strict=True))
        return self._seen[fault][program]


@pytest.fixture(scope="module")
def struck(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Struck]:
    """Two regions of three nodes behind each balancer that is installed."""
    cluster = LocalCluster(tmp_path_factory.mktemp("edge"), regions=2, config=CONFIG, edge=True)
    names = [name for name in (ENVOY, HAPROXY) if not missing(name)]
    with ExitStack() as stack:
        stack.callback(cluster.close)
        if names:
            cluster.up()
        balancers = {name: stack.enter_context(in_front_of(cluster, name)) for name in names}
        yield Struck(cluster, balancers)


def test_a_killed_node_costs_clients_nothing_that_may_be_repeated(
    struck: Struck, program: str
) -> None:
    """A create without a key may be lost with the node that had it: what was in flight, no more."""
    seen = struck("kill", program)

    assert seen.failures(*REPEATABLE) == []
    assert len(seen.failures("keyless")) <= 3
    assert {one.status for one in seen.failures("keyless")} <= LOST[program]
    assert seen.slowest_s(*REPEATABLE) < LENIENCE_S


def test_a_node_that_is_stopped_drains_and_no_client_notices(struck: Struck, program: str) -> None:
    """Not even a create without a key: the node is out of the rotation before it is gone."""
    seen = struck("drain", program)

    assert seen.failures(*REPEATABLE, "keyless") == []
    assert seen.slowest_s(*REPEATABLE, "keyless") < LENIENCE_S


def test_a_node_that_hangs_delays_clients_by_what_the_edge_waits_for_it(
    struck: Struck, program: str
) -> None:
    """A node that neither answers nor breaks its connections: the worst there is."""
    seen = struck("hang", program)

    waits_s = SILENCE_S if program == ENVOY else TRY_S
    assert seen.failures(*REPEATABLE, "keyless") == []
    assert seen.slowest_s(*REPEATABLE) < waits_s + LENIENCE_S


def test_where_a_client_is_says_the_port_or_the_header_and_the_answer(
    struck: Struck, program: str
) -> None:
    """As long as its region has a node; the header counts before the port."""
    balancer = struck.balancers[program]
    _, in_a, in_b = (listener.port for listener in listeners(balancer.settings))

    def answering(port: int, wish: str) -> set[str]:
        headers = {"Stele-Region": wish} if wish else {}
        url = f"http://127.0.0.1:{port}/documents"
        answers = [call("POST", url, {"content": "x"}, headers) for _ in range(6)]
        assert {one.status for one in answers} == {201}
        headers_of = (
            {name.lower(): value for name, value in one.headers.items()} for one in answers
        )
        return {one["stele-region"] for one in headers_of}

    assert (answering(in_a, ""), answering(in_b, "")) == ({"a"}, {"b"})
    assert (answering(in_a, "b"), answering(in_b, "a")) == ({"b"}, {"a"})


def test_a_region_that_is_killed_costs_at_most_what_was_in_flight(
    struck: Struck, program: str
) -> None:
    """The other region has all documents, and takes its clients until it is back."""
    seen = struck("kill region", program)

    if program == ENVOY:  # which sends the last attempt to another region
        assert seen.failures(*REPEATABLE) == []
    failures = seen.failures(*REPEATABLE, "keyless")
    assert len(failures) <= IN_FLIGHT_MAX, failures
    assert {one.status for one in failures} <= LOST[program], failures


def test_a_region_that_is_stopped_drains_and_no_client_notices(
    struck: Struck, program: str
) -> None:
    """All its nodes at once: for maintenance of a whole site."""
    seen = struck("drain region", program)

    assert seen.failures(*REPEATABLE, "keyless") == []
    assert seen.slowest_s(*REPEATABLE, "keyless") < LENIENCE_S


def test_a_region_that_hangs_delays_clients_until_it_is_left(struck: Struck, program: str) -> None:
    """Two nodes of it are tried before the third attempt, or the health check, leads elsewhere."""
    seen = struck("hang region", program)

    waits_s = SILENCE_S if program == ENVOY else TRY_S
    assert seen.failures(*REPEATABLE, "keyless") == []
    assert seen.slowest_s(*REPEATABLE) < RETRIES_MAX * waits_s + LENIENCE_S
