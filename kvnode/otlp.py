"""Sending spans to an OpenTelemetry collector, beside the requests that they are of.

Rules
-----
1. A span that has ended joins a queue, which is all that a request pays. The queue is bounded: a
   span that finds it full is dropped, and counted.
2. A batch leaves every INTERVAL_S, the next at once while there is more; one at a time, in a thread
   of its own that encodes and sends. The library repeats what a collector asks to have repeated,
   for SEND_WITHIN_S; what it gives up then is dropped, and counted.
3. The library (the extra ``otel``) is imported only where an endpoint is set. What certificates
   and headers to use it takes from its own environment variables (OTEL_EXPORTER_OTLP_...).
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from cluster.settings import TraceSettings
from kvnode.errors import CannotStart
from kvnode.log import Log
from kvnode.tracing import Span, Tracer

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan

INTERVAL_S: Final = 1.0
BATCH_SPANS: Final = 512
SEND_WITHIN_S: Final = 5.0
#: For what is left when the process stops.
LAST_WITHIN_S: Final = 2.0
_PATH: Final = "/v1/traces"
_MISSING: Final = (
    "trace.otlp_endpoint is set, and the library that sends traces is not installed: "
    "pip install 'stele[otel]', or leave it empty"
)

#: Sends a batch, whatever that takes; whether it arrived.
Send = Callable[[Sequence[Span]], bool]


class OtlpExporter:
    """See the module's rules. ``send`` is called in a thread."""

    def __init__(self, send: Send, *, queue_max: int, log: Log) -> None:
        self._send = send
        self._queue_max = queue_max
        self._log = log
        self._queue: deque[Span] = deque()
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        #: Whether the last batch was lost: told once, until one arrives.
        self._failing = False
        self.sent_count = 0
        self.overflow_count = 0
        self.lost_count = 0

    def put(self, span: Span) -> None:
        """Rule 1."""
        if len(self._queue) >= self._queue_max:
            self.overflow_count += 1
        else:
            self._queue.append(span)

    @property
    def waiting(self) -> int:
        """Spans in the queue."""
        return len(self._queue)

    def start(self) -> None:
        """From now on, until ``stop``."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="otlp")

    async def stop(self) -> None:
        """Send what is left, within LAST_WITHIN_S; what is not sent by then is lost."""
        self._stopping.set()
        if self._task is not None:
            await asyncio.wait([self._task], timeout=LAST_WITHIN_S)
            self._task.cancel()

    async def _run(self) -> None:
        stopping = False
        while not stopping:
            try:
                async with asyncio.timeout(INTERVAL_S):
                    stopping = await self._stopping.wait()
            except TimeoutError:
                pass
            while self._queue:
                await self._send_batch()

    async def _send_batch(self) -> None:
        batch = [self._queue.popleft() for _ in range(min(BATCH_SPANS, len(self._queue)))]
        arrived = await asyncio.get_running_loop().run_in_executor(None, self._send, batch)
        if arrived:
            self.sent_count += len(batch)
        else:
            self.lost_count += len(batch)
        if self._failing == arrived:
            self._failing = not arrived
            if arrived:
                self._log.info("trace.exported", spans=len(batch), lost=self.lost_count)
            else:
                self._log.warning("trace.dropped", spans=len(batch), reason="the collector")


@asynccontextmanager
async def exporting(
    tracer: Tracer, settings: TraceSettings, log: Log
) -> AsyncIterator[OtlpExporter | None]:
    """Send all of a process's spans where the settings say, until this is left.

    Raises:
        CannotStart: the library is missing.
    """
    if not settings.otlp_endpoint:
        yield None
        return
    send = _sender(settings.otlp_endpoint, tracer.node)
    exporter = OtlpExporter(send, queue_max=settings.otlp_queue_max, log=log)
    tracer.export = exporter.put
    exporter.start()
    try:
        yield exporter
    finally:
        await exporter.stop()


def _sender(endpoint: str, node: str) -> Send:
    try:
        from opentelemetry.exporter.otlp.proto.http import Compression  # noqa: PLC0415
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
            OTLPSpanExporter,
        )
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import SpanExportResult  # noqa: PLC0415
    except ImportError as error:
        raise CannotStart(_MISSING) from error
    # It would print to standard error, between the lines of the log; what it has to say is told
    # by the event ``trace.dropped``.
    logging.getLogger("opentelemetry").addHandler(logging.NullHandler())
    logging.getLogger("opentelemetry").propagate = False
    resource = Resource({"service.name": "stele", "service.instance.id": node})
    exporter = OTLPSpanExporter(
        endpoint.rstrip("/") + _PATH, timeout=SEND_WITHIN_S, compression=Compression.Gzip
    )

    def send(spans: Sequence[Span]) -> bool:
        result = exporter.export([_readable(span, resource) for span in spans])
        return result is SpanExportResult.SUCCESS

    return send


def _readable(span: Span, resource: "Resource") -> "ReadableSpan":
    """As the library takes it."""
    from opentelemetry.sdk.trace import ReadableSpan  # noqa: PLC0415
    from opentelemetry.trace import (  # noqa: PLC0415
        SpanContext,
        SpanKind,
        Status,
        StatusCode,
        TraceFlags,
    )

    def context(span_id: bytes) -> SpanContext:
        return SpanContext(
            int.from_bytes(span.trace_id, "big"),
            int.from_bytes(span_id, "big"),
            is_remote=span.kind == "server",
            trace_flags=TraceFlags(TraceFlags.SAMPLED),
        )

    return ReadableSpan(
        span.name,
        context(span.span_id),
        parent=context(span.parent_id) if span.parent_id else None,
        resource=resource,
        attributes=dict(span.attributes),
        kind=SpanKind[span.kind.upper()],
        status=Status(StatusCode.ERROR, span.error) if span.error else Status(StatusCode.UNSET),
        start_time=span.started_us * 1000,
        end_time=(span.started_us + span.duration_us) * 1000,
    )
