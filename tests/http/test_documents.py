"""Create, read and delete over HTTP: what a well-behaved client sees."""

import hashlib
import json
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.ids import parse_document_id, uuid8_of_key
from docservice.documents import TTL_SECONDS_MAX
from docservice.http.representation import CreatedDocument, Document
from kvnode.record import CONTENT_BYTES_MAX
from tests.support.http import CLUSTER_ID, NOW_MS, RETENTION_S, Served, one_loop

UNKNOWN = "/documents/01890a5d-ac96-774b-bcce-b302099a8057"

#: Astral, combining, control, private and unassigned characters alike; only surrogates are none.
contents = st.text(st.characters(exclude_categories=["Cs"]), max_size=600).filter(
    lambda text: len(text.encode()) <= CONTENT_BYTES_MAX
)


def body(content: str, **more: object) -> bytes:
    """The body of a create."""
    return json.dumps({"content": content, **more}).encode()


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(content=contents, ascii_only=st.booleans())
async def test_content_comes_back_byte_for_byte(
    served: Served, content: str, ascii_only: bool
) -> None:
    """Escaped or not on the way in, nothing normalises, trims or replaces a character."""
    sent = json.dumps({"content": content}, ensure_ascii=ascii_only).encode()

    created = await served.call("POST", "/documents", sent)
    read = await served.call("GET", created.headers["location"])

    assert read.json(Document).content == content
    assert read.json(Document).checksum == hashlib.sha256(content.encode()).hexdigest()


async def test_a_create_answers_where_the_document_is_and_what_it_became(served: Served) -> None:
    """Everything that a client needs later, without the content it has already."""
    created = await served.call("POST", "/documents", body("hello"))

    checksum = hashlib.sha256(b"hello").hexdigest()
    document = created.json(CreatedDocument)
    assert created.status == 201
    assert document == CreatedDocument(
        id=document.id,
        status="ACTIVE",
        created_at="2026-01-01T00:00:00.000Z",
        delete_at=None,
        checksum=checksum,
    )
    assert b"hello" not in created.body
    assert created.headers["location"] == f"/documents/{document.id}"
    assert created.headers["etag"] == f'"{checksum}"'
    assert created.headers["stele-acks"] == "1/1; n=3; hints=0"
    assert created.headers["content-type"] == "application/json"
    assert parse_document_id(document.id) in served.store.records


async def test_a_read_answers_the_whole_document(served: Served) -> None:
    """And lets a cache keep it, as long as it asks again before using it."""
    served.clock.now_ms = NOW_MS + 12_345
    created = await served.call("POST", "/documents", body("hello", ttl_seconds=60))

    read = await served.call("GET", created.headers["location"])

    assert read.status == 200
    assert read.json(Document) == Document(
        id=created.json(CreatedDocument).id,
        content="hello",
        status="ACTIVE",
        created_at="2026-01-01T00:00:12.345Z",
        delete_at="2026-01-01T00:01:12.345Z",
        checksum=hashlib.sha256(b"hello").hexdigest(),
    )
    assert read.headers["etag"] == created.headers["etag"]
    assert read.headers["cache-control"] == "private, no-cache"
    assert read.headers["stele-acks"] == "1/1; n=3; hints=0"


async def test_head_answers_the_headers_of_get_and_no_body(served: Served) -> None:
    """Also the length: a client may ask how much there would be."""
    created = await served.call("POST", "/documents", body("hello"))
    async with await served.connect() as wire:
        wire.send(f"HEAD {created.headers['location']} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        head = await wire.receive(head=True)
        wire.send(f"GET {created.headers['location']} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        get = await wire.receive()

    varying = {"x-request-id": "", "date": ""}
    assert head.headers | varying == get.headers | varying


async def test_prefer_return_representation_adds_the_content(served: Served) -> None:
    """RFC 7240: the server says that it honoured the preference."""
    created = await served.call("POST", "/documents", body("hi"), Prefer="return=representation")

    assert created.json(Document).content == "hi"
    assert created.headers["preference-applied"] == "return=representation"


async def test_a_document_is_gone_from_the_instant_its_time_to_live_has_passed(
    served: Served,
) -> None:
    """Whether or not a sweep has removed it: status is derived when it is read."""
    created = await served.call("POST", "/documents", body("soon gone", ttl_seconds=2))
    target = created.headers["location"]

    served.clock.now_ms = NOW_MS + 1_999
    assert (await served.call("GET", target)).status == 200
    served.clock.now_ms = NOW_MS + 2_000
    assert (await served.call("GET", target)).problem.code == "deleted"


async def test_the_longest_time_to_live_can_be_shown(served: Served) -> None:
    """A date needs its four-digit year."""
    created = await served.call("POST", "/documents", body("long", ttl_seconds=TTL_SECONDS_MAX))

    assert created.json(CreatedDocument).delete_at == "2126-03-18T00:00:00.000Z"


async def test_a_deleted_document_is_gone_and_its_tombstone_stays(served: Served) -> None:
    """The content stays in the store until delete_at, but no call shows it."""
    created = await served.call("POST", "/documents", body("hello"))
    target = created.headers["location"]
    served.clock.now_ms = NOW_MS + 5

    deleted = await served.call("DELETE", target)
    read = await served.call("GET", target)

    assert deleted.status == 204
    assert deleted.body == b""
    assert "content-length" not in deleted.headers
    assert deleted.headers["stele-acks"] == "1/1; n=3; hints=0"
    assert (read.problem.code, read.problem.status) == ("deleted", 410)
    assert (read.problem.acks, read.problem.required) == (1, 1)
    record = served.store.records[parse_document_id(target.rpartition("/")[2]) or b""]
    assert record.tombstone is not None
    assert record.tombstone.delete_at_ms == NOW_MS + 5 + int(RETENTION_S * 1000)


async def test_deleting_what_is_unknown_or_deleted_is_no_error(served: Served) -> None:
    """Its create may be on the way; and a client that lost the answer may repeat freely."""
    assert [(await served.call("DELETE", UNKNOWN)).status for _ in range(2)] == [204, 204]
    assert (await served.call("GET", UNKNOWN)).problem.code == "deleted"


async def test_an_unknown_document_is_not_found_and_nothing_is_written(served: Served) -> None:
    """Row 32. The answer says how many replicas it rests on."""
    problem = (await served.call("GET", UNKNOWN)).problem

    assert (problem.code, problem.status) == ("not-found", 404)
    assert (problem.acks, problem.required) == (1, 1)
    assert (problem.retryable, problem.outcome) == (False, "not_applied")
    assert served.store.writes == []


# Idempotency keys.


async def test_a_repeated_key_gives_the_first_answer_again(served: Served) -> None:
    """The same 201 and body, with a header that says so, whatever the clock says by now."""
    first = await served.call("POST", "/documents", body("once"), Idempotency_Key="order-1")
    served.clock.now_ms = NOW_MS + 60_000
    again = await served.call("POST", "/documents", body("once"), Idempotency_Key='"order-1"')

    assert (first.status, again.status) == (201, 201)
    assert first.body == again.body
    assert first.headers["location"] == again.headers["location"]
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert list(served.store.records) == [uuid8_of_key(CLUSTER_ID, "", "order-1")]


@pytest.mark.parametrize(
    "other", [body("twice"), body("once", ttl_seconds=60)], ids=["content", "time to live"]
)
async def test_a_key_with_another_body_is_refused(served: Served, other: bytes) -> None:
    """Row 59. The first document stays as it was."""
    first = await served.call("POST", "/documents", body("once"), Idempotency_Key="k")
    problem = (await served.call("POST", "/documents", other, Idempotency_Key="k")).problem

    assert (problem.code, problem.status) == ("key-reused", 422)
    assert (await served.call("GET", first.headers["location"])).json(Document).content == "once"


async def test_a_key_whose_document_was_deleted_makes_no_new_one(served: Served) -> None:
    """Row 61. A late retry must not undo a delete, with the same body or another."""
    first = await served.call("POST", "/documents", body("once"), Idempotency_Key="k")
    await served.call("DELETE", first.headers["location"])

    for content in ("once", "other"):
        again = await served.call("POST", "/documents", body(content), Idempotency_Key="k")
        assert (again.problem.code, again.problem.status) == ("deleted", 410)
    assert (await served.call("GET", first.headers["location"])).status == 410


async def test_a_key_whose_document_has_expired_makes_no_new_one(served: Served) -> None:
    """Expiry is a deletion like any other."""
    once = body("once", ttl_seconds=1)
    await served.call("POST", "/documents", once, Idempotency_Key="k")
    served.clock.now_ms = NOW_MS + 1000

    assert (await served.call("POST", "/documents", once, Idempotency_Key="k")).status == 410


# Conditional reads.

ETAG = f'"{hashlib.sha256(b"hello").hexdigest()}"'


@one_loop
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("if_none_match", "status"),
    [
        (ETAG, 304),
        (f"W/{ETAG}", 304),
        (f'"other", {ETAG}', 304),
        (f'W/"other" ,, {ETAG} ,', 304),
        ("*", 304),
        ('"other"', 200),
        (ETAG.strip('"'), 200),
        (f"{ETAG} garbage", 200),
        (f'"unclosed, {ETAG}', 200),
        ("", 200),
    ],
)
async def test_a_read_of_what_the_client_has_is_not_modified(
    served: Served, method: str, if_none_match: str, status: int
) -> None:
    """Row 72. Weak comparison, lists and the star; a header that makes no sense is ignored."""
    created = await served.call("POST", "/documents", body("hello"))

    read = await served.call(method, created.headers["location"], If_None_Match=if_none_match)

    assert read.status == status
    assert read.headers["etag"] == ETAG
    assert read.headers["cache-control"] == "private, no-cache"
    assert ("content-length" in read.headers) == (status == 200)


async def test_a_condition_does_not_hide_that_a_document_is_gone(served: Served) -> None:
    """A cache that asks again must learn of the delete."""
    created = await served.call("POST", "/documents", body("hello"))
    target = created.headers["location"]
    await served.call("DELETE", target)

    assert (await served.call("GET", target, If_None_Match=ETAG)).status == 410
    assert (await served.call("GET", UNKNOWN, If_None_Match="*")).status == 404


# What is told about requests.


async def test_every_answer_has_an_id_of_its_own(served: Served) -> None:
    """Also when the client sends one: two clients' ids may be the same."""
    answers = [
        await served.call("GET", UNKNOWN, X_Request_Id="mine"),
        await served.call("GET", UNKNOWN, X_Request_Id="mine"),
        await served.call("GET", "/docs"),
    ]

    ids = [answer.headers["x-request-id"] for answer in answers]
    assert len(set(ids)) == 3
    assert all(re.fullmatch("[0-9a-f]{12}-[0-9a-f]+", text) for text in ids)


async def test_a_problem_carries_the_trace_it_belongs_to(served: Served) -> None:
    """That of a valid traceparent, else one of its own."""
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    valid = await served.call("GET", UNKNOWN, traceparent=f"00-{trace}-00f067aa0ba902b7-01")
    invalid = await served.call("GET", UNKNOWN, traceparent=f"00-{trace}-0000000000000000-01")

    assert valid.problem.trace_id == trace
    assert invalid.problem.trace_id not in (trace, "0" * 32)


async def test_requests_are_counted_by_route_and_never_by_id(served: Served) -> None:
    """A label with a document's id in it would make a time series of every document."""
    created = await served.call("POST", "/documents", body("hello"))
    await served.call("GET", created.headers["location"])
    await served.call("DELETE", created.headers["location"])
    await served.call("GET", "/documents/no-id")
    await served.call("PUT", "/nowhere")
    await served.call("PROPFIND", "/problems/deleted")
    await served.ask(b"nonsense\r\n\r\n")

    assert served.metrics.observed == [
        ("POST", "/documents", 201),
        ("GET", "/documents/{id}", 200),
        ("DELETE", "/documents/{id}", 204),
        ("GET", "/documents/{id}", 400),
        ("PUT", "unmatched", 404),
        ("_OTHER", "/problems/{code}", 405),
        ("_OTHER", "unmatched", 400),
    ]
