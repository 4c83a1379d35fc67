"""Traces as nodes show them (``/admin/traces``), put together and in order for people."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec


class SpanView(msgspec.Struct):
    """A part of a trace on one node."""

    span_id: str
    parent_id: str | None
    name: str
    kind: str
    node: str
    started_us: int
    duration_us: int
    error: str | None
    attributes: dict[str, str | int | float | bool]


class TraceView(msgspec.Struct):
    """One trace, as far as whoever was asked knows it."""

    trace_id: str
    name: str
    node: str
    started_us: int
    duration_us: int
    error: str | None
    span_count: int
    nodes: list[str]
    documents: list[str]
    #: Of a list of traces: none.
    spans: list[SpanView] = []


class TracesView(msgspec.Struct):
    """Answer of ``GET /admin/traces``."""

    node: str
    traces: list[TraceView]
    #: Nodes that were asked as well, and did not answer.
    silent: list[str] = []


def together(answers: Mapping[str, TracesView]) -> list[TraceView]:
    """What several nodes have listed: of one trace, each its own spans."""
    by_id: dict[str, list[TraceView]] = {}
    for answer in answers.values():
        for trace in answer.traces:
            by_id.setdefault(trace.trace_id, []).append(trace)
    return [_joined(parts) for parts in by_id.values()]


def united(answers: Iterable[TracesView]) -> list[TraceView]:
    """Whole traces as several processes have told them: every span that any of them knows."""
    by_id: dict[str, list[TraceView]] = {}
    for answer in answers:
        for trace in answer.traces:
            by_id.setdefault(trace.trace_id, []).append(trace)
    return [_united(parts) for parts in by_id.values()]


def _united(parts: Sequence[TraceView]) -> TraceView:
    spans = {span.span_id: span for part in parts for span in part.spans}
    return msgspec.structs.replace(
        _joined(parts),
        span_count=len(spans),
        spans=sorted(spans.values(), key=lambda span: (span.started_us, span.span_id)),
    )


def _joined(parts: Sequence[TraceView]) -> TraceView:
    """Named after the part that a client waited for; those of other nodes are called ``rpc.``."""
    longest = max(parts, key=lambda part: (not part.name.startswith("rpc."), part.duration_us))
    return msgspec.structs.replace(
        longest,
        span_count=sum(part.span_count for part in parts),
        error=longest.error or next((part.error for part in parts if part.error), None),
        nodes=_each(node for part in (longest, *parts) for node in part.nodes),
        documents=_each(document for part in parts for document in part.documents),
    )


def _each(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def by_cause(spans: Iterable[SpanView]) -> Iterator[tuple[int, SpanView]]:
    """Each span behind the one that caused it, with how deep it is; siblings by their start."""
    ordered = sorted(spans, key=lambda span: span.started_us)
    known = {span.span_id for span in ordered}
    children: dict[str | None, list[SpanView]] = {}
    for span in ordered:
        parent = span.parent_id if span.parent_id in known else None
        children.setdefault(parent, []).append(span)

    waiting = [(0, span) for span in reversed(children.get(None, []))]
    while waiting:
        depth, span = waiting.pop()
        yield depth, span
        below = children.pop(span.span_id, [])
        waiting += [(depth + 1, child) for child in reversed(below)]
