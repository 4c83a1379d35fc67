"""What the edge does with a request, as ``cluster.edge`` says, with nodes that fail to order."""

import asyncio
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path

import msgspec
import pytest

from cluster.edge import (
    FAILURES_MAX,
    PROBLEM_TYPE,
    READY_PATH,
    SILENCE_S,
    listeners,
    patience_s,
)
from cluster.haproxy import TRY_S
from docservice.http.problems import CATALOGUE, Problem
from scripts.failover.balancers import ENVOY, Balancer, balancing
from scripts.failover.clients import REPEATABLE as REPEATABLE_KINDS
from scripts.failover.clients import Seen, prepare, watch
from scripts.local_cluster import Answer, call, wait_until
from tests.edge.fakes import Behaviour, FakeNode, fake_cluster

pytestmark = pytest.mark.cluster

KEY = {"Idempotency-Key": "k"}
#: More than a balancer needs to come to every node.
MANY = 12
PER_SECOND = 200
#: What is sent in 50 ms: an answer takes less, also on a busy machine.
IN_FLIGHT_MAX = 10
LENIENCE_S = 1.5
Nodes = dict[str, FakeNode]
#: Method, and headers; whether it may be repeated.
REPEATABLE = [("GET", {}), ("DELETE", {}), ("POST", KEY)]
Request = tuple[str, dict[str, str]]


@pytest.fixture(scope="module")
def running(
    program: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Balancer, Nodes]]:
    """Two regions of two nodes behind a balancer."""
    with (
        fake_cluster("a1", "a2", "b1", "b2") as (settings, nodes),
        balancing(program, settings, tmp_path_factory.mktemp(program)) as balancer,
    ):
        yield balancer, nodes


@pytest.fixture
def nodes(running: tuple[Balancer, Nodes]) -> Iterator[Nodes]:
    """By name; all serve, and the edge knows, before each test."""
    balancer, nodes = running
    for node in nodes.values():
        node.behaviour, node.ready = "serves", True
        node.released.clear()
    balancer.wait_for(list(nodes))
    for node in nodes.values():
        node.received.clear()
    yield nodes
    for node in nodes.values():
        node.released.set()


@pytest.fixture
def balancer(running: tuple[Balancer, Nodes], nodes: Nodes) -> Balancer:
    """In front of ``nodes``."""
    return running[0]


def _send(balancer: Balancer, request: Request, *, port: int | None = None) -> Answer:
    method, headers = request
    url = f"http://127.0.0.1:{port or balancer.settings.edge.port}/documents"
    return call(method, url, {"content": "x"} if method == "POST" else None, headers)


def _answering(balancer: Balancer, request: Request, *, port: int | None = None) -> set[str]:
    """Nodes that answer when it is sent many times."""
    return {_send(balancer, request, port=port).json["node"] for _ in range(MANY)}


def _behave(nodes: Nodes, behaviour: Behaviour, *names: str) -> None:
    for name in names:
        nodes[name].behaviour = behaviour


def _out(balancer: Balancer, nodes: Nodes, *names: str) -> None:
    """Nodes say that they are not ready, and the edge has heard so."""
    for name in names:
        nodes[name].ready = False
    balancer.wait_for([name for name in nodes if name not in names])


def _sent(nodes: Nodes) -> int:
    """Requests that reached any node."""
    return sum(sum(node.received.values()) for node in nodes.values())


def test_a_client_is_served_by_its_region_and_where_it_is_says_the_port_or_the_header(
    balancer: Balancer, nodes: Nodes
) -> None:
    """The header counts before the port; a region that does not exist is no wish."""
    everyone, in_a, in_b = (listener.port for listener in listeners(balancer.settings))

    assert _answering(balancer, ("GET", {}), port=everyone) == {"a1", "a2"}
    assert _answering(balancer, ("GET", {}), port=in_a) == {"a1", "a2"}
    assert _answering(balancer, ("GET", {}), port=in_b) == {"b1", "b2"}
    assert _answering(balancer, ("POST", {"Stele-Region": "b"}), port=everyone) == {"b1", "b2"}
    assert _answering(balancer, ("POST", {"Stele-Region": "a"}), port=in_b) == {"a1", "a2"}
    assert _answering(balancer, ("GET", {"Stele-Region": "x"}), port=in_b) == {"b1", "b2"}


def test_one_node_keeps_a_region_to_itself_and_none_hands_it_to_the_next(
    balancer: Balancer, nodes: Nodes
) -> None:
    """And when its own nodes are back, so are its clients."""
    _out(balancer, nodes, "a1")
    assert _answering(balancer, ("GET", {})) == {"a2"}

    _out(balancer, nodes, "a1", "a2")
    assert _answering(balancer, ("POST", {})) == {"b1", "b2"}
    assert call("GET", balancer.url + READY_PATH).status == 200

    nodes["a1"].ready = True
    balancer.wait_for(["a1", "b1", "b2"])
    assert _answering(balancer, ("GET", {})) == {"a1"}


def test_a_node_that_drains_is_sent_nothing_more_within_the_time_that_it_serves_on(
    balancer: Balancer, nodes: Nodes
) -> None:
    """Otherwise a stop would cost requests."""
    nodes["a1"].ready = False
    said_s = time.monotonic()

    balancer.wait_for(["a2", "b1", "b2"])

    assert time.monotonic() - said_s < balancer.settings.edge.drain_s
    nodes["a1"].received.clear()
    assert _answering(balancer, ("GET", {})) == {"a2"}
    assert nodes["a1"].received.total() == 0


@pytest.mark.parametrize("behaviour", ["refuses", "breaks"])
@pytest.mark.parametrize("request_", REPEATABLE, ids=["read", "delete", "keyed create"])
def test_what_may_be_repeated_is_answered_by_another_node(
    balancer: Balancer, nodes: Nodes, behaviour: Behaviour, request_: Request
) -> None:
    """The client sees one answer, and no error; with half of a region out, also of the next one."""
    _behave(nodes, behaviour, "a1")

    while not nodes["a1"].received:
        assert _send(balancer, request_).json["node"] != "a1"


@pytest.mark.parametrize("behaviour", ["refuses", "breaks"])
def test_a_create_without_a_key_is_never_sent_twice(
    balancer: Balancer, nodes: Nodes, behaviour: Behaviour
) -> None:
    """A second document would come of it, which nobody knows of."""
    _behave(nodes, behaviour, "a1", "a2", "b1", "b2")

    answer = _send(balancer, ("POST", {}))

    assert _sent(nodes) == 1
    assert answer.status == (503 if behaviour == "refuses" else 502)
    if behaviour == "breaks":
        assert _problem(answer).outcome == "unknown"


def test_a_node_that_says_nothing_is_not_waited_for(balancer: Balancer, nodes: Nodes) -> None:
    """Envoy asks a second node as well, HAProxy gives the first one up and asks anew."""
    _behave(nodes, "hangs", "a1")
    waits_s = SILENCE_S if balancer.name == ENVOY else TRY_S

    while not nodes["a1"].received:
        sent_s = time.monotonic()
        assert _send(balancer, ("POST", KEY)).json["node"] != "a1"

    assert time.monotonic() - sent_s < waits_s + LENIENCE_S


def test_a_create_without_a_key_is_waited_for_and_then_its_outcome_is_unknown(
    balancer: Balancer, nodes: Nodes
) -> None:
    """The node's own deadline comes first; only a node that hangs lets the edge's pass."""
    _behave(nodes, "hangs", "a1", "a2")

    sent_s = time.monotonic()
    answer = _send(balancer, ("POST", {}))

    waited_s = time.monotonic() - sent_s
    assert (answer.status, _problem(answer).outcome, _sent(nodes)) == (504, "unknown", 1)
    patient_s = patience_s(balancer.settings)
    assert patient_s - 0.1 < waited_s < patient_s + LENIENCE_S


def test_answers_never_count_against_a_node(balancer: Balancer, nodes: Nodes) -> None:
    """503 may be all that can be said of a document, while the node serves all others.

    With half of a region out, some requests go to the next one, as above.
    """
    _behave(nodes, "refuses", "a1")

    while nodes["a1"].received.total() < 2 * FAILURES_MAX:
        assert _send(balancer, ("GET", {})).json["node"] != "a1"

    assert balancer.rotation() == list(nodes)


def test_without_any_node_the_edge_answers_as_a_node_would(
    balancer: Balancer, nodes: Nodes
) -> None:
    """A problem of the catalogue, with its outcome; and it is no place to send clients to."""
    assert call("GET", balancer.url + READY_PATH).status == 200
    _out(balancer, nodes, "a1", "a2", "b1", "b2")

    read, created = _send(balancer, ("GET", {})), _send(balancer, ("POST", {}))
    keyed, deleted = _send(balancer, ("POST", KEY)), _send(balancer, ("DELETE", {}))

    for answer in (read, created):
        assert _problem(answer).outcome == "not_applied"
    for answer in (keyed, deleted):  # an attempt before the last one may have reached a node
        assert _problem(answer).outcome == "unknown"
    assert call("GET", balancer.url + READY_PATH).status == 503


def test_a_node_whose_connections_fail_is_left_out_though_it_says_that_it_is_ready(
    balancer: Balancer, nodes: Nodes
) -> None:
    """As when its data listener fails and its operations listener does not."""
    if balancer.name != ENVOY:
        pytest.skip("HAProxy takes a node back as soon as it says that it is ready")
    _behave(nodes, "breaks", "a1")

    wait_until(lambda: _sent_to_a1(balancer, nodes) == 0)


def _sent_to_a1(balancer: Balancer, nodes: Nodes) -> int:
    nodes["a1"].received.clear()
    for _ in range(MANY):
        _send(balancer, ("GET", {}))
    return nodes["a1"].received.total()


def test_the_loss_of_a_region_costs_at_most_what_was_in_flight(
    program: str, tmp_path: Path
) -> None:
    """All its nodes at once, at 200 requests a second."""
    with (
        fake_cluster("a1", "a2", "a3", "b1", "b2", "b3") as (settings, nodes),
        balancing(program, settings, tmp_path) as balancer,
    ):
        balancer.wait_for(list(nodes))

        async def lose_region() -> None:
            await asyncio.sleep(0.3)
            for node in nodes.values():
                if node.region == "a":
                    await asyncio.to_thread(node.vanish)
            await asyncio.sleep(1.2)

        seen = asyncio.run(_watched(balancer, lose_region()))

    assert len(seen.failures(*REPEATABLE_KINDS, "keyless")) <= IN_FLIGHT_MAX
    if program == ENVOY:  # which sends the last attempt to another region
        assert seen.failures(*REPEATABLE_KINDS) == []


async def _watched(balancer: Balancer, meanwhile: Coroutine[None, None, None]) -> Seen:
    documents = await prepare(balancer.url)
    during = asyncio.ensure_future(meanwhile)
    return await watch(balancer.url, documents, per_second=PER_SECOND, meanwhile=during)


def _problem(answer: Answer) -> Problem:
    """Checked against the API's catalogue."""
    headers = {name.lower(): value for name, value in answer.headers.items()}
    assert headers["content-type"] == PROBLEM_TYPE
    assert headers["cache-control"] == "no-store"
    raw = msgspec.json.decode(answer.body)
    assert set(raw) == set(Problem.__struct_fields__) | {"detail"}
    kind = CATALOGUE[raw["code"]]
    known = (raw["type"], raw["title"], raw["status"], raw["retryable"])
    assert known == (f"/problems/{kind.code}", kind.title, answer.status, kind.retryable)
    return msgspec.convert(raw | {"instance": "", "trace_id": ""}, Problem)
