"""The queue before a collector: bounded, counted, and never in a request's way."""

import asyncio
import threading
from collections.abc import Sequence

import pytest
import structlog
from structlog.testing import LogCapture

from cluster.settings import TraceSettings
from kvnode import otlp
from kvnode.errors import CannotStart
from kvnode.otlp import OtlpExporter, exporting
from kvnode.tracing import Span
from tests.unit.test_tracing import new_tracer, span


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch leaves as soon as there is one."""
    monkeypatch.setattr(otlp, "INTERVAL_S", 0.001)
    monkeypatch.setattr(otlp, "BATCH_SPANS", 4)


class Receiver:
    """A collector that takes a batch, or loses it."""

    def __init__(self) -> None:
        self.batches: list[Sequence[Span]] = []
        self.up = True
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.logged = LogCapture()

    def send(self, spans: Sequence[Span]) -> bool:
        """See ``kvnode.otlp.Send``."""
        self.may_answer.wait()
        self.batches.append(spans)
        return self.up

    def exporter(self, queue_max: int = 100) -> OtlpExporter:
        """Not started yet."""
        log = structlog.wrap_logger(
            None,
            processors=[self.logged],
            wrapper_class=structlog.make_filtering_bound_logger("info"),
        )
        return OtlpExporter(self.send, queue_max=queue_max, log=log)

    @property
    def spans(self) -> list[Span]:
        """All that came, in order."""
        return [one for batch in self.batches for one in batch]

    @property
    def events(self) -> list[str]:
        """Of the log."""
        return [line["event"] for line in self.logged.entries]


async def until_sent(exporter: OtlpExporter) -> None:
    """Nothing waits any more."""
    async with asyncio.timeout(10):
        while exporter.waiting:  # noqa: ASYNC110 (it tells nobody)
            await asyncio.sleep(0)


async def test_spans_leave_in_batches_in_their_order() -> None:
    """And what is left when the process stops leaves then."""
    receiver = Receiver()
    exporter = receiver.exporter()
    exporter.start()
    sent = [span(1, number) for number in range(10)]
    for one in sent[:9]:
        exporter.put(one)
    await until_sent(exporter)
    exporter.put(sent[9])
    await exporter.stop()
    assert receiver.spans == sent
    assert max(map(len, receiver.batches)) <= 4
    assert (exporter.sent_count, exporter.lost_count, exporter.overflow_count) == (10, 0, 0)


async def test_a_collector_that_hangs_costs_spans_and_no_memory() -> None:
    """The queue is full at some time; from then on spans are counted and forgotten."""
    receiver = Receiver()
    receiver.may_answer.clear()
    exporter = receiver.exporter(queue_max=6)
    exporter.start()
    for number in range(50):
        exporter.put(span(1, number))
        assert exporter.waiting <= 6
    receiver.may_answer.set()
    await exporter.stop()
    assert len(receiver.spans) + exporter.overflow_count == 50
    assert exporter.overflow_count >= 40


async def test_a_collector_that_is_away_is_told_of_once_and_its_return_too() -> None:
    """A line for each batch would fill the log of a node that is otherwise well."""
    receiver = Receiver()
    receiver.up = False
    exporter = receiver.exporter()
    exporter.start()
    for number in range(12):
        exporter.put(span(1, number))
    await until_sent(exporter)
    receiver.up = True
    for number in range(12, 16):
        exporter.put(span(1, number))
    await exporter.stop()
    assert receiver.events == ["trace.dropped", "trace.exported"]
    assert exporter.sent_count + exporter.lost_count == 16
    assert exporter.lost_count >= 8


async def test_without_an_endpoint_nothing_is_exported() -> None:
    """Nor the library needed."""
    tracer, _, _ = new_tracer()
    async with exporting(tracer, TraceSettings(), structlog.get_logger()) as exporter:
        assert exporter is None
        assert tracer.export is None


async def test_a_missing_library_is_named_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the start, and not with the first trace."""
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.sdk.resources", None)
    settings = TraceSettings(otlp_endpoint="http://127.0.0.1:1")
    with pytest.raises(CannotStart, match=r"pip install 'stele\[otel\]'"):
        async with exporting(new_tracer()[0], settings, structlog.get_logger()):
            pass
