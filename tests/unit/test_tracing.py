"""Traces: which requests leave some, what a process remembers of them, and how they are told."""

import asyncio
from collections.abc import Iterable
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.ids import NodeId, format_document_id
from cluster.settings import TraceSettings
from cluster.traces import SpanView, TracesView, by_cause, together, united
from kvnode.rpc.connection import Lost, Outcome
from kvnode.rpc.operations import Fields, Op
from kvnode.services.asking import Asker
from kvnode.traceviews import BadQuery, TraceViews, spans_for, spans_from_wire, spans_to_wire
from kvnode.tracing import CONTEXT_BYTES, CONTEXTS_MAX, Hops, Span, Tracer, TraceStore

#: A document, as bytes and as text.
DOCUMENT = bytes(range(16))
DOCUMENT_ID = format_document_id(DOCUMENT)


class Clocks:
    """Both stand still until a test moves them."""

    def __init__(self) -> None:
        self.wall = 1_767_225_600_000
        self.monotonic = 50.0

    def wall_ms(self) -> int:
        """See ``kvnode.ports.Clock``."""
        return self.wall

    def monotonic_s(self) -> float:
        """See ``kvnode.ports.Clock``."""
        return self.monotonic

    def advance(self, seconds: float) -> None:
        """Time passes on both."""
        self.wall += round(seconds * 1000)
        self.monotonic += seconds


class Draws:
    """An ``Entropy`` that counts, and gives the middle of every range."""

    def __init__(self) -> None:
        self.count = 0

    def random_bytes(self, count: int) -> bytes:
        """Never the same twice."""
        self.count += 1
        return self.count.to_bytes(count, "big")

    def uniform(self, low: float, high: float) -> float:
        """See ``kvnode.ports.Entropy``."""
        self.count += 1
        return (low + high) / 2


def new_tracer(node: str = "a1", **settings: Any) -> tuple[Tracer, Clocks, Draws]:
    """A process's tracer, and its ports."""
    clocks, draws = Clocks(), Draws()
    return Tracer(node, TraceSettings(**settings), clocks, draws), clocks, draws


def span(trace: int, number: int = 0, *, parent: int = 0, document: str = "", **rest: Any) -> Span:
    """One of a trace."""
    attributes = (("document", document),) if document else ()
    ids = {
        "trace_id": trace.to_bytes(16, "big"),
        "span_id": (trace * 1000 + number + 1).to_bytes(8, "big"),
        "parent_id": (trace * 1000 + parent).to_bytes(8, "big") if parent else b"",
    }
    plain: dict[str, Any] = {
        "name": "part", "kind": "internal", "node": "a1", "started_us": number, "duration_us": 1,
        "attributes": attributes, "error": "",
    }  # fmt: skip
    return Span(**(ids | plain | rest))


# Which requests are traced.


@given(ratio=st.floats(0.001, 1.0), requests=st.integers(1, 5000))
def test_about_as_many_are_traced_as_the_ratio_says(ratio: float, requests: int) -> None:
    """Over many requests; and nothing is drawn for one that is not traced."""
    tracer, _, draws = new_tracer(sample_ratio=ratio)
    taken = sum(tracer.is_next() for _ in range(requests))
    assert draws.count == taken
    assert requests * ratio * 0.6 - 1 <= taken <= requests * ratio * 1.5 + 1


def test_none_is_traced_at_ratio_0() -> None:
    """An operator may want that."""
    tracer, _, draws = new_tracer(sample_ratio=0)
    assert not any(tracer.is_next() for _ in range(3000))
    assert draws.count == 0


def test_clients_cannot_have_more_traced_than_a_node_allows_a_second() -> None:
    """Whatever their traceparent asks for."""
    tracer, clocks, _ = new_tracer(per_s_max=3)
    assert [tracer.admits() for _ in range(5)] == [True, True, True, False, False]
    clocks.advance(1.0)
    assert tracer.admits()


# Spans.


def test_a_span_says_when_it_began_though_the_wall_clock_is_set_meanwhile() -> None:
    """Durations are those of the monotonic clock, and parts begin behind the whole."""
    tracer, clocks, _ = new_tracer()
    whole = tracer.begin("whole", "server")
    clocks.advance(0.0004)
    clocks.wall -= 3_600_000
    part = whole.child("part", peer="a2")
    clocks.monotonic += 0.002
    part.end("timeout")
    part.end()
    whole.end()
    first, second = tracer.store.trace(whole.trace_id)
    assert (first.name, first.error, first.parent_id) == ("part", "timeout", second.span_id)
    assert first.attributes == (("peer", "a2"),)
    assert first.started_us - second.started_us == 400
    assert (first.duration_us, second.duration_us) == (2000, 2400)
    assert tracer.begin("next", "server")._epoch_us < whole._epoch_us


@pytest.mark.parametrize("contexts", [b"", b"x", bytes(CONTEXT_BYTES + 1), "text", None, 7])
def test_what_is_no_context_is_refused(contexts: object) -> None:
    """It came over the wire."""
    with pytest.raises(ValueError, match="not contexts"):
        new_tracer()[0].received(contexts, "rpc.merge")


def test_a_request_belongs_to_a_bounded_number_of_traces() -> None:
    """Each makes a span."""
    tracer = new_tracer()[0]
    assert len(tracer.received(bytes(CONTEXT_BYTES * CONTEXTS_MAX), "rpc.merge")) == CONTEXTS_MAX
    with pytest.raises(ValueError, match="too many"):
        tracer.received(bytes(CONTEXT_BYTES * (CONTEXTS_MAX + 1)), "rpc.merge")


@given(st.lists(st.integers(1, 50), unique=True))
def test_the_latest_hops_are_remembered_and_no_more(sequences: list[int]) -> None:
    """A region that is away for a day must not fill the memory."""
    hops = Hops(kept_max=5)
    for sequence in sequences:
        hops.note(sequence, sequence.to_bytes(24, "big"))
    assert all(hops.of(one) == one.to_bytes(24, "big") for one in sequences[-5:])
    assert not any(hops.of(one) for one in sequences[:-5])


# What is remembered.

_spans = st.lists(st.tuples(st.integers(1, 12), st.booleans()), max_size=120)


@given(_spans)
def test_a_store_never_holds_more_than_it_may_and_forgets_the_oldest_first(
    added: list[tuple[int, bool]],
) -> None:
    """Whatever is added: both shelves and each trace are bounded, and nothing is there twice."""
    store = TraceStore(recent_spans_max=8, kept_spans_max=6, trace_spans_max=3)
    for number, (trace, keep) in enumerate(added):
        store.add(span(trace, number), keep=keep)
        held = [one for spans in store.traces() for one in spans]
        assert len(held) == len(store) <= 14
        assert len({one.span_id for one in held}) == len(held)
        assert all(len(spans) <= 3 for spans in store.traces())
        assert all(store.trace(spans[0].trace_id) == spans for spans in store.traces())


def test_traces_that_failed_or_were_slow_are_remembered_longer() -> None:
    """They are what somebody will ask for; the others push out each other only."""
    tracer, clocks, _ = new_tracer(slow_ms=100)
    tracer.store = TraceStore(recent_spans_max=5, kept_spans_max=5)
    slow, failed = tracer.begin("slow", "server"), tracer.begin("failed", "server")
    clocks.advance(0.1)
    slow.end()
    failed.end("unavailable")
    for _ in range(50):
        tracer.begin("ordinary", "server").end()
    assert len(tracer.store.trace(slow.trace_id)) == len(tracer.store.trace(failed.trace_id)) == 1
    assert len(tracer.store) <= 10
    for _ in range(50):
        tracer.begin("other", "server").end("unavailable")
    assert tracer.store.trace(slow.trace_id) == []


# How they are told.


class OtherNodes:
    """An ``Asker`` that asks tracers; a node without one does not answer."""

    def __init__(self, **tracers: Tracer | None) -> None:
        self.tracers = tracers

    async def ask_all(
        self, nodes: Iterable[NodeId], op: Op, fields: Fields
    ) -> list[tuple[NodeId, Outcome]]:
        """See ``kvnode.services.asking.Asker``."""
        assert op is Op.TRACES
        return [(node, self._answer(node, fields)) for node in nodes]

    def _answer(self, node: str, fields: Fields) -> Outcome:
        tracer = self.tracers[node]
        if tracer is None:
            return Lost("timeout", "", sent=True)
        return spans_to_wire(spans_for(tracer, fields))


def views(own: Tracer, **others: Tracer | None) -> TraceViews:
    """Of a process among others."""
    names = list(map(NodeId, others))
    return TraceViews(own, cast("Asker", OtherNodes(**others)), lambda: names)


def shown(view: Any) -> TracesView:
    """As the command line reads it."""
    return msgspec.json.decode(msgspec.json.encode(view), type=TracesView)


def test_all_spans_of_a_documents_traces_are_found_on_all_nodes_that_answer() -> None:
    """Also those of nodes that don't know which document they had to do with."""
    tracers = [new_tracer(name)[0] for name in ("a1", "a2", "b1")]
    tracers[1].store.add(span(7, 1, document=DOCUMENT_ID, node="a2"), keep=False)
    tracers[2].store.add(span(7, 2, parent=2, node="b1"), keep=False)
    tracers[0].store.add(span(8, 3, document="another"), keep=False)
    view = views(tracers[0], a2=tracers[1], a3=None, b1=tracers[2])
    found = shown(asyncio.run(view.listed({"document": DOCUMENT_ID})))
    assert found.silent == ["a3"]
    ((trace),) = found.traces
    assert [(one.node, one.parent_id) for one in trace.spans] == [
        ("a2", None),
        ("b1", trace.spans[0].span_id),
    ]
    assert (trace.nodes, trace.documents) == (["a2", "b1"], [DOCUMENT_ID])
    assert shown(asyncio.run(view.trace(trace.trace_id))).traces[0].spans == trace.spans
    assert shown(asyncio.run(view.trace("0" * 31 + "9"))).traces == []


def test_the_newest_or_the_slowest_are_listed() -> None:
    """Of this process alone: a list must not ask everybody each second."""
    tracer = new_tracer()[0]
    for number, duration_us in enumerate([30, 10, 20]):
        tracer.store.add(span(number + 1, number, duration_us=duration_us), keep=False)
    view = views(tracer, a2=None)
    newest = shown(asyncio.run(view.listed({})))
    slowest = shown(asyncio.run(view.listed({"order": "slowest", "limit": "2"})))
    assert [trace.duration_us for trace in newest.traces] == [20, 10, 30]
    assert [trace.duration_us for trace in slowest.traces] == [30, 20]
    assert (newest.traces[0].spans, newest.silent) == ([], [])


@pytest.mark.parametrize(
    "query",
    [
        {"limit": "0"},
        {"limit": "²"},
        {"limit": "501"},
        {"order": "x"},
        {"document": "x"},
        {"a": ""},
    ],
)
def test_a_query_that_means_nothing_is_refused(query: dict[str, str]) -> None:
    """Rather than answered with something else."""
    with pytest.raises(BadQuery):
        asyncio.run(views(new_tracer()[0]).listed(query))


@pytest.mark.parametrize("trace_id", ["", "x" * 32, "A" * 32, "a" * 31, "a" * 33, "a " * 16])
def test_a_trace_is_asked_for_by_its_id_only(trace_id: str) -> None:
    """In the form in which answers and logs have it."""
    with pytest.raises(BadQuery):
        asyncio.run(views(new_tracer()[0]).trace(trace_id))


@given(st.recursive(st.none() | st.binary() | st.integers() | st.text(), st.lists))
def test_whatever_another_node_answers_is_read_or_left_out(answer: object) -> None:
    """A view must not fail because one node is of another version."""
    assert spans_from_wire([answer]) == [] or isinstance(answer, list)
    with pytest.raises((TypeError, ValueError)):
        spans_for(new_tracer()[0], [answer, None])


def test_spans_travel_whole() -> None:
    """Everything but their order is a matter of the view."""
    sent = [span(1, 2, parent=1, document=DOCUMENT_ID, error="timeout", duration_us=7)]
    assert spans_from_wire(msgspec.msgpack.decode(msgspec.msgpack.encode(spans_to_wire(sent)))) == (
        sent
    )


# As people see them.


@given(st.lists(st.integers(-1, 20), max_size=20))
def test_every_span_is_shown_once_and_behind_its_cause(parents: list[int]) -> None:
    """Whatever is missing; a ring of causes can't come from honest nodes, and shows nothing."""
    spans = [
        SpanView(
            str(number), str(parent) if parent >= 0 else None, "", "internal", "a1", number, 1,
            None, {},
        )
        for number, parent in enumerate(parents)
        if parent < number or parent >= len(parents)
    ]  # fmt: skip
    order = list(by_cause(spans))
    assert sorted(int(one.span_id) for _, one in order) == [int(one.span_id) for one in spans]
    depths: dict[str | None, int] = {}
    for depth, one in order:
        assert depth == depths.get(one.parent_id, -1) + 1
        depths[one.span_id] = depth


def test_what_several_nodes_list_of_one_trace_is_one_trace() -> None:
    """Named after the request; what took longer in the background does not stand for it."""
    tracers = {name: new_tracer(name)[0] for name in ("a1", "b1")}
    request = span(5, 1, name="POST /documents", duration_us=10, document="d")
    tracers["a1"].store.add(request, keep=False)
    tracers["b1"].store.add(span(5, 2, name="rpc.ship", duration_us=99, node="b1"), keep=False)
    listed = {name: shown(asyncio.run(views(one).listed({}))) for name, one in tracers.items()}
    (trace,) = together(listed)
    assert (trace.name, trace.duration_us, trace.span_count) == ("POST /documents", 10, 2)
    assert (trace.nodes, trace.documents) == (["a1", "b1"], ["d"])


@given(st.lists(st.lists(st.integers(1, 12), max_size=12), min_size=1, max_size=3))
def test_whoever_knows_a_part_of_a_trace_it_is_put_together_again(known: list[list[int]]) -> None:
    """Each span once, in its order, named after what the client waited for."""
    answers = []
    for number, ids in enumerate(known):
        tracer = new_tracer(f"p{number}")[0]
        for one in dict.fromkeys(ids):
            name = "POST /documents" if one == 1 else "rpc.merge"
            tracer.store.add(span(5, one, name=name, started_us=one), keep=False)
        answers.append(shown(asyncio.run(views(tracer).trace(span(5, 1).trace_id.hex()))))
    expected = sorted({one for ids in known for one in ids})
    traces = united(answers)
    assert [one.span_count for one in traces] == ([len(expected)] if expected else [])
    for trace in traces:
        assert [one.started_us for one in trace.spans] == expected
        assert trace.name == ("POST /documents" if 1 in expected else "rpc.merge")
