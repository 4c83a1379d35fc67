"""Requests that go from node to node: settled as soon as can be, honest about what is unknown."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster import requests
from cluster.requests import Answer, NotAnswered, Outcome, Problem, _Silent, send
from cluster.topology import plan_cluster

NODES = plan_cluster(cluster_id="ab" * 16, nodes=3, regions=1, port_base=8000, config=None).node
#: What a node does with a request, and whether it may have carried it out.
CARRIED_OUT: dict[str, bool] = {
    "refuses the connection": False,
    "takes it and is silent": True,
    "stores it": True,
    "is overloaded": False,
    "does not know": True,
    "says it is wrong": False,
}
_acts = st.sampled_from(list(CARRIED_OUT))


class Nodes:
    """Does what is written down, one after the other; then all connections are refused."""

    def __init__(self, acts: list[str]) -> None:
        self._acts: Iterator[str] = iter(acts)
        self.done: list[str] = []

    def __call__(self, node: object, *_: object) -> Answer:
        """See ``requests._send_once``."""
        act = next(self._acts, "refuses the connection")
        self.done.append(act)
        outcome: Outcome = "unknown" if CARRIED_OUT[act] else "not_applied"
        match act:
            case "refuses the connection":
                raise _Silent(sent=False)
            case "takes it and is silent":
                raise _Silent(sent=True)
            case "stores it":
                return Answer("a1", 201, {}, b"", None)
            case "says it is wrong":
                return Answer("a1", 422, {}, b"", Problem("wrong"))
        return Answer("a1", 503, {}, b"", Problem(act, retryable=True, outcome=outcome))


def ask(acts: list[str], monkeypatch: pytest.MonkeyPatch) -> Nodes:
    """Send one request to nodes that act so."""
    nodes = Nodes(acts)
    monkeypatch.setattr(requests, "_send_once", nodes)
    monkeypatch.setattr(requests, "_AGAIN_AFTER_S", 0.0)
    return nodes


@given(st.lists(_acts, max_size=8), st.booleans())
def test_nothing_is_said_to_be_undone_that_a_node_may_have_done(
    acts: list[str], patient: bool
) -> None:
    """Whatever other nodes say of their own tries; and a success ends it at once."""
    with pytest.MonkeyPatch.context() as patch:
        nodes = ask(acts, patch)
        try:
            answer = send(NODES, "POST", "/documents", patience_s=60.0 if patient else 0.0)
        except NotAnswered as error:
            claims_nothing_was_done = error.outcome == "not_applied"
        else:
            problem = answer.problem
            assert (problem is None) == (nodes.done[-1] == "stores it")
            claims_nothing_was_done = problem is not None and problem.outcome == "not_applied"
    settled = nodes.done[-1] in ("stores it", "says it is wrong")
    assert "stores it" not in nodes.done[:-1]
    if claims_nothing_was_done and not settled:
        assert not any(CARRIED_OUT[act] for act in nodes.done)


def test_a_cluster_that_is_down_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody takes a connection: one round, however patient."""
    nodes = ask([], monkeypatch)
    with pytest.raises(NotAnswered) as caught:
        send(NODES, "GET", "/documents/x", patience_s=3600.0)
    assert (caught.value.outcome, len(nodes.done)) == ("not_applied", 3)


def test_an_overloaded_cluster_is_asked_again_while_patience_lasts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And then told about as it is."""
    nodes = ask(["is overloaded"] * 7 + ["stores it"], monkeypatch)
    assert send(NODES, "POST", "/documents", patience_s=3600.0).status == 201
    assert len(nodes.done) == 8
    ask(["is overloaded"] * 9, monkeypatch)
    answer = send(NODES, "POST", "/documents", patience_s=0.0)
    assert answer.problem == Problem("is overloaded", retryable=True)


def test_what_a_silent_node_may_have_done_is_not_settled_by_another_ones_refusal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The sentence that a user reads depends on it."""
    ask(["takes it and is silent", "is overloaded", "is overloaded"], monkeypatch)
    answer = send(NODES, "POST", "/documents", patience_s=0.0)
    assert answer.problem is not None
    assert answer.problem.outcome == "unknown"
