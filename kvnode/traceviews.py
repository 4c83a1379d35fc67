"""What a process shows of traces: ``/admin/traces``, as JSON.

``GET /admin/traces`` lists traces of this process's memory, without asking anybody::

    ?order=newest|slowest   default newest
    ?limit=N                1..500, default 50

    {"version": "...", "node": "a1", "traces": [TRACE, ...]}

``GET /admin/traces?document=ID`` lists those that have to do with a document, and
``GET /admin/traces/TRACEID`` is one trace, or none with 404: what all nodes remember, with spans::

    {"version": "...", "node": "a1", "silent": ["b2"], "traces": [{..., "spans": [SPAN, ...]}]}

``silent`` are the nodes that did not answer within 2 s: what they know is missing. ::

    TRACE = {"trace_id": 32 hexadecimal digits,
             "name": "POST /documents",        of its first span
             "node": "a1",                     of its first span
             "started_us": Unix time in microseconds,
             "duration_us": of its first span,
             "error": null or a code,          of the first span that failed, by time
             "span_count": 7, "nodes": ["a1", "a2", ...], "documents": ["019b...", ...]}
    SPAN  = {"span_id": 16 hexadecimal digits, "parent_id": the same or null,
             "name": "rpc.merge", "kind": "server" | "client" | "internal", "node": "a1",
             "started_us": ..., "duration_us": ..., "error": null or a code,
             "attributes": {"peer": "a2", ...}}

A trace whose name begins with ``rpc.`` is another node's, as far as this one took part in it.
Spans stand in the order in which they began. A span whose parent is not among them has one that a
client or another process has, or that was forgotten.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from cluster.ids import DocumentId, NodeId, format_document_id, parse_document_id
from kvnode.rpc.connection import Lost
from kvnode.rpc.operations import Fields, Op
from kvnode.services.asking import Asker
from kvnode.tracing import Span, Tracer

#: What an operator waits for a node that does not answer.
ASK_WITHIN_S: Final = 2.0
#: Spans in one node's answer to another; so it fits in a frame.
SPANS_MAX: Final = 1000
#: Traces that one node is asked for at once.
TRACES_MAX: Final = 200
_LIMIT_MAX: Final = 500
_LIMIT: Final = 50
_TRACE_ID = re.compile(r"[0-9a-f]{32}")


class BadQuery(Exception):
    """What was asked for can't be; the message is the one sentence that the client reads."""


class TraceViews:
    """See the module's docstring.

    Args:
        asker: Asks with a deadline of ``ASK_WITHIN_S``.
        peers: Tells the nodes that may know more of a trace.
    """

    def __init__(self, tracer: Tracer, asker: Asker, peers: Callable[[], Sequence[NodeId]]) -> None:
        self._tracer = tracer
        self._asker = asker
        self._peers = peers

    async def listed(self, query: Mapping[str, str]) -> dict[str, Any]:
        """``GET /admin/traces``. Raises BadQuery."""
        for name in query:
            if name not in ("order", "limit", "document"):
                raise BadQuery("there is order, limit and document")
        order, limit = query.get("order", "newest"), query.get("limit", str(_LIMIT))
        if order not in ("newest", "slowest"):
            raise BadQuery("order is newest or slowest")
        if not (limit.isascii() and limit.isdigit() and 1 <= int(limit) <= _LIMIT_MAX):
            raise BadQuery(f"limit is a number of 1 to {_LIMIT_MAX}")
        shown: dict[str, Any] = {"node": self._tracer.node}
        if "document" in query:
            document_id = parse_document_id(query["document"])
            if document_id is None:
                raise BadQuery("an id is a UUID in lower case with hyphens")
            found, shown["silent"] = await self._of_document(document_id)
            traces = [_whole(spans) for spans in found]
        else:
            traces = [summary(spans) for spans in self._tracer.store.traces()]
        traces.sort(key=lambda one: one["started_us" if order == "newest" else "duration_us"])
        return shown | {"traces": traces[::-1][: int(limit)]}

    async def trace(self, text: str) -> dict[str, Any]:
        """``GET /admin/traces/TRACEID``. Raises BadQuery."""
        trace_id = bytes.fromhex(text) if _TRACE_ID.fullmatch(text) else None
        if trace_id is None:
            raise BadQuery("a trace's id has 32 hexadecimal digits, in lower case")
        spans, silent = await self._gather(self._peers(), [[trace_id], b""])
        traces = [_whole(spans)] if spans else []
        return {"node": self._tracer.node, "silent": silent, "traces": traces}

    async def _of_document(self, document_id: DocumentId) -> tuple[list[list[Span]], list[NodeId]]:
        """In two rounds: who only took part in a trace may not know what it was about."""
        about, silent = await self._gather(self._peers(), [[], document_id])
        trace_ids = list(dict.fromkeys(span.trace_id for span in about))[:TRACES_MAX]
        answering = [peer for peer in self._peers() if peer not in silent]
        spans, silent_now = await self._gather(answering, [trace_ids, b""])
        by_trace: dict[bytes, list[Span]] = {}
        for span in spans:
            by_trace.setdefault(span.trace_id, []).append(span)
        return list(by_trace.values()), [*silent, *silent_now]

    async def _gather(
        self, peers: Sequence[NodeId], fields: Fields
    ) -> tuple[list[Span], list[NodeId]]:
        """What all of them remember, by when it began, and who did not answer."""
        answers = await self._asker.ask_all(peers, Op.TRACES, fields)
        silent = [peer for peer, answer in answers if isinstance(answer, Lost)]
        spans = spans_for(self._tracer, fields)
        for _, answer in answers:
            if not isinstance(answer, Lost):
                spans += spans_from_wire(answer)
        by_id = {span.span_id: span for span in spans}
        return sorted(by_id.values(), key=lambda span: (span.started_us, span.span_id)), silent


def spans_for(tracer: Tracer, fields: Fields) -> list[Span]:
    """The answer to TRACES: [trace ids, document id or empty], of this process.

    Raises TypeError, ValueError: the fields are none.
    """
    trace_ids, document_id = fields
    if not (isinstance(document_id, bytes) and isinstance(trace_ids, list)):
        raise TypeError("ids are bytes")
    if len(trace_ids) > TRACES_MAX or not all(isinstance(one, bytes) for one in trace_ids):
        raise TypeError("not ids of traces, or too many")
    found = [tracer.store.trace(trace_id) for trace_id in trace_ids]
    if document_id:
        found += tracer.store.of_document(format_document_id(document_id))
    return [span for spans in found for span in spans][:SPANS_MAX]


def spans_to_wire(spans: Iterable[Span]) -> Fields:
    """In plain types."""
    plain: Fields = list(msgspec.to_builtins(list(spans), builtin_types=(bytes,)))
    return [plain]


def spans_from_wire(fields: Fields) -> list[Span]:
    """The inverse; of an answer that is none, nothing."""
    try:
        return msgspec.convert(fields, tuple[list[Span]])[0]
    except msgspec.ValidationError:
        return []


def summary(spans: Sequence[Span]) -> dict[str, Any]:
    """A trace in a line: TRACE of the module's docstring, of at least one span."""
    known = {span.span_id for span in spans}
    by_start = sorted(spans, key=lambda span: span.started_us)
    first = next((span for span in by_start if span.parent_id not in known), by_start[0])
    documents = dict.fromkeys(span.document for span in by_start if span.document is not None)
    return {
        "trace_id": first.trace_id.hex(),
        "name": first.name,
        "node": first.node,
        "started_us": first.started_us,
        "duration_us": first.duration_us,
        "error": next((span.error for span in by_start if span.error), None),
        "span_count": len(spans),
        "nodes": list(dict.fromkeys(span.node for span in by_start)),
        "documents": list(documents),
    }


def _whole(spans: Sequence[Span]) -> dict[str, Any]:
    return summary(spans) | {"spans": [_span(span) for span in spans]}


def _span(span: Span) -> dict[str, Any]:
    return {
        "span_id": span.span_id.hex(),
        "parent_id": span.parent_id.hex() or None,
        "name": span.name,
        "kind": span.kind,
        "node": span.node,
        "started_us": span.started_us,
        "duration_us": span.duration_us,
        "error": span.error or None,
        "attributes": dict(span.attributes),
    }
