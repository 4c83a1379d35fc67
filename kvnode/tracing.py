"""Traces: what became of one request, on which nodes, and how long each part of it took.

Rules
-----
1. Whether a request is traced is decided once, where it enters. One that is not pays nothing below
   that, neither a branch nor a byte on the wire: one that is has a store and ports of its own,
   which take notes (``kvnode.notedcalls``).
2. A span is a part of a trace on one node: a name, when it began, how long it took, what is worth
   knowing about it, and the span that caused it. Never content, never an idempotency key.
3. Ids come from Entropy and times from Clock, and nothing is drawn for a request that is not
   traced: a seed plays as it would without tracing.
4. A span began at the wall clock's time, told by the monotonic clock: within a process spans stand
   in their true order, to the microsecond. When the two have drifted apart, or the wall clock was
   set, the next trace knows.
5. A process remembers the spans of its own node that have ended, as far as there is room
   (``TraceStore``): the newest traces, and longer than those the ones that failed or were slow.

Source of the model: W3C Trace Context, OpenTelemetry's tracing API.
"""

from collections.abc import Callable, Sequence
from typing import Final, Literal

import msgspec

from cluster.settings import TraceSettings
from kvnode.ports import Clock, Entropy
from kvnode.sampling import Sampler

TRACE_ID_BYTES: Final = 16
SPAN_ID_BYTES: Final = 8
#: Of a trace and a span in it, as they travel.
CONTEXT_BYTES: Final = TRACE_ID_BYTES + SPAN_ID_BYTES
#: Contexts of one message: a batch may hold records of many traces.
CONTEXTS_MAX: Final = 256
#: The wall clock is read in whole milliseconds; a difference within that is none.
_EPOCH_ERROR_US: Final = 2000

#: What a span may say.
Value = str | int | float | bool
Kind = Literal["server", "client", "internal"]
#: The attribute by which a document's traces are found.
DOCUMENT: Final = "document"


class Span(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A part of a trace that has ended. Field order is the wire's."""

    trace_id: bytes
    span_id: bytes
    #: Of the span that caused it, here or elsewhere; empty for a trace's first one.
    parent_id: bytes
    name: str
    kind: Kind
    #: Where it took place: a node's id, or the name of a document service.
    node: str
    #: Unix time.
    started_us: int
    duration_us: int
    attributes: tuple[tuple[str, Value], ...]
    #: A code of what failed; empty: nothing did.
    error: str

    @property
    def document(self) -> Value | None:
        """The document that it is about, if it is about one."""
        return next((value for name, value in self.attributes if name == DOCUMENT), None)


class OpenSpan:
    """A span under way. Made by ``Tracer.begin`` or by another one's ``child``."""

    __slots__ = (
        "_attributes",
        "_ended",
        "_epoch_us",
        "_kind",
        "_parent_id",
        "_started_s",
        "_tracer",
        "context",
        "name",
    )

    def __init__(
        self,
        tracer: "Tracer",
        context: bytes,
        parent_id: bytes,
        epoch_us: int,
        name: str,
        kind: Kind,
        attributes: dict[str, Value],
        started_s: float | None = None,
    ) -> None:
        self._tracer = tracer
        #: Ids of the trace and of this span.
        self.context = context
        self._parent_id = parent_id
        self._epoch_us = epoch_us
        #: May be told better later.
        self.name = name
        self._kind: Kind = kind
        self._attributes = attributes
        self._started_s = tracer.clock.monotonic_s() if started_s is None else started_s
        self._ended = False

    @property
    def trace_id(self) -> bytes:
        """Of its trace."""
        return self.context[:TRACE_ID_BYTES]

    @property
    def span_id(self) -> bytes:
        """Its own."""
        return self.context[TRACE_ID_BYTES:]

    def child(self, name: str, kind: Kind = "internal", **attributes: Value) -> "OpenSpan":
        """A part of this span, on this node; it may end later than this one."""
        context = self.trace_id + self._tracer.entropy.random_bytes(SPAN_ID_BYTES)
        return OpenSpan(self._tracer, context, self.span_id, self._epoch_us, name, kind, attributes)

    def note(self, **attributes: Value) -> None:
        """Add what is known only now."""
        self._attributes |= attributes

    def end(self, error: str = "", *, seconds: float | None = None) -> None:
        """It is over; only the first time counts. ``seconds``: how long it took, if known."""
        if self._ended:
            return
        self._ended = True
        if seconds is None:
            seconds = self._tracer.clock.monotonic_s() - self._started_s
        span = Span(
            self.trace_id,
            self.span_id,
            self._parent_id,
            self.name,
            self._kind,
            self._tracer.node,
            self._epoch_us + round(self._started_s * 1e6),
            max(0, round(seconds * 1e6)),
            tuple(self._attributes.items()),
            error,
        )
        self._tracer.ended(span)


class Hops:
    """Which trace an entry of the outbox belongs to, for as long as it may have to be shipped.

    In memory only, and the latest only: what is forgotten is shipped all the same.
    """

    def __init__(self, kept_max: int = 1024) -> None:
        self._kept_max = kept_max
        self._contexts: dict[int, bytes] = {}

    def note(self, sequence: int, context: bytes) -> None:
        """An entry was appended on behalf of a span."""
        if len(self._contexts) >= self._kept_max:
            del self._contexts[next(iter(self._contexts))]
        self._contexts[sequence] = context

    def of(self, sequence: int) -> bytes:
        """The span on whose behalf an entry was appended; empty: none that is remembered."""
        return self._contexts.get(sequence, b"") if self._contexts else b""


class Tracer:
    """One process's traces.

    Args:
        node: What spans of this process say where they took place.
    """

    def __init__(self, node: str, settings: TraceSettings, clock: Clock, entropy: Entropy) -> None:
        self.node = node
        self.clock = clock
        self.entropy = entropy
        self.store = TraceStore()
        self.hops = Hops()
        #: Told of every span that has ended.
        self.export: Callable[[Span], None] | None = None
        self.slow_s = settings.slow_ms / 1000
        #: When the monotonic clock was 0.
        self._epoch_us = 0
        self._ratio = settings.sample_ratio
        #: Requests until one is traced: the first after as many as the ratio says.
        self._until_next = round(1 / self._ratio) if self._ratio else 0
        self._begun = Sampler(settings.per_s_max)
        self._told_late = Sampler(settings.per_s_max)
        self.span_count = 0

    def is_next(self) -> bool:
        """Whether a request that says nothing about tracing is one of those that are traced.

        After each one that is, the next comes after a random number of requests: no rhythm of the
        clients can hide from it. Only that is drawn, not something for each request.
        """
        self._until_next -= 1
        if self._until_next:
            return False
        low, high = 0.5 / self._ratio, 1.5 / self._ratio
        self._until_next = max(1, round(self.entropy.uniform(low, high)))
        return True

    def admits(self) -> bool:
        """Whether one more request may be traced: clients can't have all of them traced."""
        return self._begun.admit(self.clock.monotonic_s()) is not None

    def admits_late(self) -> bool:
        """Whether one more that was slow or failed may leave a span, though it was not traced."""
        return self._told_late.admit(self.clock.monotonic_s()) is not None

    def begin(
        self,
        name: str,
        kind: Kind,
        *,
        parent: bytes = b"",
        trace_id: bytes = b"",
        started_s: float | None = None,
        attributes: dict[str, Value] | None = None,
    ) -> OpenSpan:
        """A trace's first span on this node.

        Args:
            parent: Context of the span that caused it, on another node; empty: there is none.
            trace_id: Of the trace, when it has an id and no span yet.
            started_s: A reading of ``Clock.monotonic_s``; None: now.
        """
        trace_id = parent[:TRACE_ID_BYTES] or trace_id or self.entropy.random_bytes(TRACE_ID_BYTES)
        context = trace_id + self.entropy.random_bytes(SPAN_ID_BYTES)
        epoch_us = self.clock.wall_ms() * 1000 - round(self.clock.monotonic_s() * 1e6)
        if not 0 <= self._epoch_us - epoch_us <= _EPOCH_ERROR_US:
            self._epoch_us = epoch_us  # readings are rounded down: the latest one seen is nearest
        parent_id = parent[TRACE_ID_BYTES:]
        return OpenSpan(
            self, context, parent_id, self._epoch_us, name, kind, attributes or {}, started_s
        )

    def received(self, contexts: object, name: str) -> list[OpenSpan]:
        """Spans of a request from another node, one for each trace that it belongs to.

        Raises:
            ValueError: these are no contexts.
        """
        if not isinstance(contexts, bytes) or not contexts or len(contexts) % CONTEXT_BYTES:
            raise ValueError("not contexts of traces")
        if len(contexts) > CONTEXTS_MAX * CONTEXT_BYTES:
            raise ValueError("contexts of too many traces")
        starts = range(0, len(contexts), CONTEXT_BYTES)
        parents = (contexts[start : start + CONTEXT_BYTES] for start in starts)
        return [self.begin(name, "server", parent=parent) for parent in parents]

    def ended(self, span: Span) -> None:
        """Remember a span, and export it."""
        self.span_count += 1
        slow = span.duration_us >= self.slow_s * 1e6
        self.store.add(span, keep=slow or bool(span.error))
        if self.export is not None:
            self.export(span)


class _Shelf:
    """Traces in the order in which they came, with a bound on all their spans together."""

    def __init__(self, spans_max: int) -> None:
        self._spans_max = spans_max
        self.traces: dict[bytes, list[Span]] = {}
        self.span_count = 0

    def put(self, trace_id: bytes, spans: Sequence[Span]) -> None:
        """Add spans to a trace, which may be new."""
        self.traces.setdefault(trace_id, []).extend(spans)
        self.span_count += len(spans)

    def take_oldest(self) -> tuple[bytes, list[Span]] | None:
        """The trace that has to leave, if one has to."""
        if self.span_count <= self._spans_max:
            return None
        trace_id = next(iter(self.traces))
        spans = self.traces.pop(trace_id)
        self.span_count -= len(spans)
        return trace_id, spans


class TraceStore:
    """The traces that a process remembers, by the spans of its own node.

    Bounded by spans: about 0.5 KB each. A trace that has to leave goes if nothing in it failed or
    was slow, else to a second shelf, where only its like can push it out. Of one trace at most
    ``trace_spans_max`` spans are kept; a bulk request may have more.
    """

    def __init__(
        self,
        *,
        recent_spans_max: int = 8192,
        kept_spans_max: int = 8192,
        trace_spans_max: int = 512,
    ) -> None:
        self._recent = _Shelf(recent_spans_max)
        self._kept = _Shelf(kept_spans_max)
        self._trace_spans_max = trace_spans_max
        #: Ids of traces on the first shelf that are to go to the second.
        self._worth_keeping: set[bytes] = set()
        #: Spans of which there were too many in one trace.
        self.left_out_count = 0

    def __len__(self) -> int:
        return self._recent.span_count + self._kept.span_count

    def add(self, span: Span, *, keep: bool) -> None:
        """Remember a span; ``keep`` its trace for longer."""
        trace_id = span.trace_id
        shelf = self._kept if trace_id in self._kept.traces else self._recent
        if keep and shelf is self._recent:
            self._worth_keeping.add(trace_id)
        if len(shelf.traces.get(trace_id, ())) >= self._trace_spans_max:
            self.left_out_count += 1
            return
        shelf.put(trace_id, [span])
        while (oldest := self._recent.take_oldest()) is not None:
            trace_id = oldest[0]
            if trace_id in self._worth_keeping:
                self._worth_keeping.remove(trace_id)
                self._kept.put(*oldest)
        while self._kept.take_oldest() is not None:
            pass

    def trace(self, trace_id: bytes) -> list[Span]:
        """The spans of one trace, in the order in which they ended."""
        shelf = self._kept if trace_id in self._kept.traces else self._recent
        return list(shelf.traces.get(trace_id, ()))

    def traces(self) -> list[list[Span]]:
        """All traces, the newest first, those that are kept for longer last."""
        shelves = (self._recent, self._kept)
        return [list(spans) for shelf in shelves for spans in reversed(shelf.traces.values())]

    def of_document(self, document_id: str) -> list[list[Span]]:
        """The traces with a span about a document."""
        return [
            spans for spans in self.traces() if any(span.document == document_id for span in spans)
        ]
