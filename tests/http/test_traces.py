"""Which requests are traced, what they leave, and what their clients hear of it."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from cluster.settings import TraceSettings
from kvnode.errors import WriteTimeout
from kvnode.tracing import Span
from tests.support.http import Served, serving

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{CALLER}-01", f"00-{TRACE}-{CALLER}-00"
BODY = b'{"content":"secret words"}'


def traces(served: Served) -> Sequence[Sequence[Span]]:
    """What is remembered, the newest first."""
    return served.traces.traces()


def said(span: Span) -> dict[str, Any]:
    """A span's attributes."""
    return dict(span.attributes)


async def test_a_create_a_read_and_a_delete_are_found_by_their_document(served: Served) -> None:
    """Each with a span for the request and one for the store: the level, and who acknowledged."""
    created = await served.call("POST", "/documents?w=2", BODY, traceparent=SAMPLED)
    document_id = created.json(dict)["id"]
    for method in ("GET", "DELETE"):
        answer = await served.call(method, f"/documents/{document_id}", traceparent=SAMPLED)
    (spans,) = served.traces.of_document(document_id)
    assert [span.name for span in spans] == [
        "coordinator.create", "POST /documents",
        "coordinator.read", "GET /documents/{id}",
        "coordinator.delete", "DELETE /documents/{id}",
    ]  # fmt: skip
    assert {span.trace_id.hex() for span in spans} == {TRACE}
    store, request = spans[:2]
    assert (request.parent_id.hex(), store.parent_id) == (CALLER, request.span_id)
    assert said(request)["request_id"] == created.headers["x-request-id"]
    assert said(request)["http.response.status_code"] == 201
    assert (said(store)["write_quorum"], said(store)["acked"], said(store)["copies"]) == (2, 2, 3)
    assert all(span.document == document_id for span in spans)
    assert created.headers["traceparent"] == f"00-{TRACE}-{request.span_id.hex()}-01"
    assert answer.headers["traceparent"].startswith(f"00-{TRACE}-")
    assert "secret" not in str(spans)


@pytest.mark.parametrize("ratio", [0, 1])
async def test_a_client_that_says_so_decides_and_the_ratio_for_the_others(ratio: int) -> None:
    """What is no valid traceparent says nothing."""
    async with serving(trace=TraceSettings(sample_ratio=ratio)) as served:
        for traceparent, traced in (
            (SAMPLED, True),
            (UNSAMPLED, False),
            (f"cc-{TRACE}-{CALLER}-00-of-the-future", False),
            ("nonsense", bool(ratio)),
        ):
            before = len(traces(served))
            answer = await served.call("POST", "/documents", BODY, traceparent=traceparent)
            assert ("traceparent" in answer.headers, len(traces(served)) - before) == (
                traced,
                int(traced),
            )
        await served.call("POST", "/documents", BODY)
        assert len(traces(served)) == (3 if ratio else 1)


async def test_a_repeated_traceparent_is_none(served: Served) -> None:
    """Nobody can say which of the two to believe."""
    answer = await served.ask(
        b"GET /docs HTTP/1.1\r\nHost: x\r\ntraceparent: %b\r\ntraceparent: %b\r\n\r\n"
        % (SAMPLED.encode(), SAMPLED.encode())
    )
    assert (answer.status, "traceparent" in answer.headers) == (200, False)


async def test_a_trace_that_began_here_is_named_in_the_problem_and_in_the_log() -> None:
    """So the three can be brought together, whichever a client sends to its operator."""
    async with serving(trace=TraceSettings(sample_ratio=1)) as served:
        await served.call("POST", "/documents", BODY)
        refused = await served.call("GET", "/documents/x")
        (problem,), (created,) = traces(served)[0], traces(served)[1][1:]
        assert refused.problem.trace_id == problem.trace_id.hex()
        (line,) = [line for line in served.logged if line["event"] == "document.created"]
        assert line["trace_id"] == created.trace_id.hex()
        assert (said(problem)["code"], problem.error) == ("invalid-id", "")


async def test_what_was_not_traced_and_failed_leaves_a_span(served: Served) -> None:
    """With the trace that the problem names; nobody had asked for one in time."""
    served.store.failure = WriteTimeout("1 of 2", acked=1, required=2)
    for headers in ({}, {"traceparent": UNSAMPLED}):
        failed = await served.call("POST", "/documents", BODY, **headers)
        ((span,), *_) = traces(served)
        assert failed.problem.trace_id == span.trace_id.hex()
        assert (span.name, span.error) == ("POST /documents", "write-timeout")
        assert said(span)["http.response.status_code"] == failed.status == 504
        assert span.parent_id.hex() == (CALLER if headers else "")
    assert len(traces(served)) == 2


async def test_what_was_not_traced_and_took_long_leaves_a_span_too() -> None:
    """How long, and of which document."""
    async with serving(trace=TraceSettings(sample_ratio=0, slow_ms=1)) as served:
        gate = served.store.gate = asyncio.Event()
        call = asyncio.create_task(served.call("POST", "/documents", BODY))
        while not served.store.arrived:  # noqa: ASYNC110 (it tells nobody)
            await asyncio.sleep(0.001)
        asyncio.get_running_loop().call_later(0.002, gate.set)
        created = await call
        ((span,),) = traces(served)
        assert span.duration_us >= 1000
        assert (span.document, span.error) == (created.json(dict)["id"], "")
        assert said(span)["sampled"] is False


async def test_a_traced_request_that_fails_has_both_spans_once(served: Served) -> None:
    """It is not noted a second time for having failed."""
    served.store.failure = WriteTimeout("1 of 2", acked=1, required=2)
    await served.call("POST", "/documents", BODY, traceparent=SAMPLED)
    ((store, request),) = traces(served)
    assert store.error == request.error == "write-timeout"
    assert (said(store)["acked"], said(store)["outcome"]) == (1, "unknown")


async def test_no_more_than_so_many_a_second_are_traced_or_noted() -> None:
    """Neither what clients ask for nor an outage may cost a node its time."""
    async with serving(trace=TraceSettings(per_s_max=2)) as served:
        served.store.failure = WriteTimeout("1 of 2", acked=1, required=2)
        for _ in range(10):
            await served.call("POST", "/documents", BODY, traceparent=SAMPLED)
            await served.call("POST", "/documents", BODY)
        assert 2 <= sum(len(spans) // 2 for spans in traces(served)) <= 6
        assert len([spans for spans in traces(served) if len(spans) == 1]) <= 6


async def test_the_operations_of_a_traced_bulk_request_are_parts_of_it(served: Served) -> None:
    """Each with its document."""
    operations = (
        b'{"operations":[{"op":"create","content":"a"},{"op":"create","content":"b"},'
        b'{"op":"get","id":"01932c07-4f52-7cb8-8b3f-000000000000"}]}'
    )
    answer = await served.call("POST", "/documents/_bulk", operations, traceparent=SAMPLED)
    (spans,) = traces(served)
    *parts, request = spans
    assert (request.name, len(parts)) == ("POST /documents/_bulk", 3)
    assert all(part.parent_id == request.span_id for part in parts)
    created = [result["id"] for result in answer.json(dict)["results"][:2]]
    assert {part.document for part in parts} >= set(created)


async def test_a_client_that_leaves_in_the_middle_of_its_body_ends_its_span(
    served: Served,
) -> None:
    """A trace without its first part would tell nothing."""
    async with await served.connect() as wire:
        wire.send(
            b"POST /documents HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100\r\ntraceparent: %b\r\n\r\n{" % SAMPLED.encode()
        )
        await wire.drain()
        await asyncio.sleep(0.01)
        wire.half_close()
        await wire.ends()
    ((span,),) = traces(served)
    assert span.error == "client-gone"
