"""Stele-Session over HTTP: every answer gives it, and no answer is older than it."""

from typing import Final

import msgspec
import pytest

from cluster.ids import parse_document_id
from docservice.http.representation import BulkResponse, CreatedDocument
from docservice.session import SIGHTINGS_MAX, Known, Session, Tokens
from kvnode.errors import Unavailable
from kvnode.record import Record
from tests.support.http import NOW_MS, RETENTION_S, SECRET, Response, Served, one_loop

pytestmark = one_loop

TOKENS: Final = Tokens(SECRET)
ABSENT: Final = "00000000-0000-4000-8000-000000000000"


async def create(served: Served, **headers: str) -> tuple[str, Response]:
    """A new document's id, and the whole answer."""
    answer = await served.call("POST", "/documents", b'{"content":"text"}', **headers)
    return answer.json(CreatedDocument).id, answer


def session_of(answer: Response) -> Session:
    """What an answer's token knows."""
    return TOKENS.read(answer.headers["stele-session"])


def known_of(answer: Response, document_id: str) -> Known | None:
    """What an answer's token knows of a document."""
    raw = parse_document_id(document_id)
    assert raw is not None
    return session_of(answer).known(raw)


async def test_every_answer_to_a_document_call_carries_what_was_seen(served: Served) -> None:
    """Whatever the answer: a client keeps the last token that it got, and needs to know no more."""
    document_id, created = await create(served)
    path = f"/documents/{document_id}"
    etag = created.headers["etag"]
    read = await served.call("GET", path)
    head = await served.call("HEAD", path)
    unchanged = await served.call("GET", path, If_None_Match=etag)
    for answer in (created, read, head, unchanged):
        known = known_of(answer, document_id)
        assert known is not None
        assert not known.deleted

    deleted = await served.call("DELETE", path)
    gone = await served.call("GET", path)
    for answer in (deleted, gone):
        known = known_of(answer, document_id)
        assert known is not None
        assert known.deleted
        assert known.until_ms == NOW_MS + RETENTION_S * 1000
    assert gone.problem.code == "deleted"


async def test_an_answer_that_shows_nothing_gives_back_what_came(served: Served) -> None:
    """404, 503 and refusals neither add to a session nor lose it."""
    document_id, created = await create(served)
    token = created.headers["stele-session"]
    absent = await served.call("GET", f"/documents/{ABSENT}", Stele_Session=token)
    assert absent.problem.code == "not-found"
    bad = await served.call("GET", "/documents/x?r=0", Stele_Session=token)
    assert bad.status == 400
    served.store.failure = Unavailable("nobody is there")
    failed = await served.call("GET", f"/documents/{document_id}", Stele_Session=token)
    assert failed.status == 503
    assert {answer.headers["stele-session"] for answer in (absent, bad, failed)} == {token}


async def test_what_a_session_has_seen_is_never_absent(served: Served) -> None:
    """Its owners have nothing, though no purge can have taken it: retry, for 404 would be a lie."""
    document_id, created = await create(served)
    path, token = f"/documents/{document_id}", created.headers["stele-session"]
    served.store.records.clear()

    assert (await served.call("GET", path)).problem.code == "not-found"
    refused = (await served.call("GET", path, Stele_Session=token)).problem
    assert (refused.status, refused.code) == (503, "session-unreachable")
    assert refused.retryable

    served.clock.now_ms += int(RETENTION_S * 1000) + 5_001  # and the bound on clocks
    assert (await served.call("GET", path, Stele_Session=token)).problem.code == "not-found"


async def test_what_a_session_has_deleted_is_never_read(served: Served) -> None:
    """Nor asked for: the token itself is the proof, and costs no replica anything."""
    document_id, _ = await create(served)
    path = f"/documents/{document_id}"
    before = dict(served.store.records)
    token = (await served.call("DELETE", path)).headers["stele-session"]
    served.store.records.update(before)  # a replica that has missed the deletion

    assert (await served.call("GET", path)).status == 200
    asked = served.store.arrived
    gone = (await served.call("GET", path, Stele_Session=token)).problem
    assert (gone.code, gone.acks, gone.required) == ("deleted", None, None)
    assert served.store.arrived == asked

    served.clock.now_ms += int(RETENTION_S * 1000) + 5_001
    assert (await served.call("GET", path, Stele_Session=token)).problem.code == "deleted"
    assert served.store.arrived == asked + 1


async def test_a_key_that_a_session_knows_to_be_deleted_creates_nothing(served: Served) -> None:
    """Whatever the replica that is asked has missed."""
    document_id, _ = await create(served, Idempotency_Key="k")
    before = dict(served.store.records)
    token = (await served.call("DELETE", f"/documents/{document_id}")).headers["stele-session"]
    served.store.records.clear()
    body = b'{"content":"text"}'
    again = await served.call("POST", "/documents", body, Idempotency_Key="k", Stele_Session=token)
    assert again.problem.code == "deleted"
    assert served.store.records == {}
    served.store.records.update(before)


async def test_a_create_that_meets_its_deleted_document_is_remembered(served: Served) -> None:
    """410 to a create is 410 to every later read of the session."""
    document_id, _ = await create(served, Idempotency_Key="k")
    raw = parse_document_id(document_id)
    assert raw is not None
    alive = served.store.records[raw]
    await served.call("DELETE", f"/documents/{document_id}")
    body = b'{"content":"text"}'
    met = await served.call("POST", "/documents", body, Idempotency_Key="k")
    assert met.problem.code == "deleted"
    assert alive.create is not None
    served.store.records[raw] = Record(alive.create)

    token = met.headers["stele-session"]
    read = await served.call("GET", f"/documents/{document_id}", Stele_Session=token)
    assert read.problem.code == "deleted"


async def test_a_bulk_request_has_one_session_for_all(served: Served) -> None:
    """It remembers what was answered last, as many as fit."""
    count = SIGHTINGS_MAX + 3
    operations = [{"op": "create", "content": f"text {n}"} for n in range(count)]
    body = msgspec.json.encode({"operations": operations})
    answer = await served.call("POST", "/documents/_bulk", body)
    ids = [result.id for result in answer.json(BulkResponse).results]
    known = [known_of(answer, str(document_id)) is not None for document_id in ids]
    assert known == [False] * 3 + [True] * SIGHTINGS_MAX

    token = answer.headers["stele-session"]
    served.store.records.clear()
    gets = [{"op": "get", "id": ids[0]}, {"op": "get", "id": ids[-1]}]
    body = msgspec.json.encode({"operations": gets})
    answer = await served.call("POST", "/documents/_bulk", body, Stele_Session=token)
    codes = [result.problem.code for result in answer.json(BulkResponse).results if result.problem]
    assert codes == ["not-found", "session-unreachable"]


async def test_tokens_of_several_answers_count_together(served: Served) -> None:
    """On one line or on several, as a client that works on many connections has them."""
    first, one = await create(served)
    second, other = await create(served)
    tokens = [one.headers["stele-session"], other.headers["stele-session"]]
    lines = "\r\nStele-Session: ".join(tokens)
    for header in (", ".join(tokens), lines):
        both = await served.call("GET", f"/documents/{first}", Stele_Session=header)
        assert known_of(both, first) is not None
        assert known_of(both, second) is not None


@pytest.mark.parametrize(
    "change",
    [
        lambda token: token[:-4],
        lambda token: token[4:],
        lambda token: token[:30] + ("A" if token[30] != "A" else "B") + token[31:],
        lambda token: f"{token},",
        lambda _: "",
        lambda _: "not a token",
        lambda _: Tokens(b"another cluster's secret........").write(Session()),
    ],
)
async def test_a_token_that_is_not_ours_is_refused(served: Served, change: object) -> None:
    """Forged, cut off, of another cluster: 400, and it says what to do; nothing was looked at."""
    assert callable(change)
    document_id, created = await create(served)
    token = change(created.headers["stele-session"])
    asked = served.store.arrived
    for method, target, body in (
        ("GET", f"/documents/{document_id}", None),
        ("DELETE", f"/documents/{document_id}", None),
        ("POST", "/documents", b'{"content":"text"}'),
        ("POST", "/documents/_bulk", b'{"operations":[]}'),
    ):
        refused = await served.call(method, target, body, Stele_Session=token)
        assert refused.problem.code == "invalid-session"
        assert "Leave it out" in refused.problem.detail
        assert "stele-session" not in refused.headers
    assert served.store.arrived == asked
