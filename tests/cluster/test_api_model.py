"""The HTTP API of three real nodes against a small model of what it may answer.

The model knows of each document what clients were told, and on how many of its three replicas
that must be. So it says exactly which answers are right: one, where quorums overlap, and where they
don't the few that another replica may give. Requests are made one after the other; no node is ill.
"""

import hashlib
import time
import uuid
from datetime import datetime
from itertools import count
from math import inf
from typing import Any, ClassVar, Final

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, rule, run_state_machine_as_test

from kvnode.record import CONTENT_BYTES_MAX
from scripts.local_cluster import Answer, LocalCluster, call

pytestmark = pytest.mark.cluster

COPIES: Final = 3
TIMEOUT_MS: Final = "10000"
_MS: Final = 0.001
#: What a request may ask for, and how many replicas that means.
LEVELS: Final = {
    "consistency=one": 1,
    "consistency=two": 2,
    "consistency=quorum": 2,
    "consistency=local_quorum": 2,
    "consistency=each_quorum": 2,
    "consistency=all": 3,
}
READS: Final = {"": 1, "r=one": 1, "r=1": 1, "r=2": 2, "r=quorum": 2, "r=3": 3, "r=all": 3} | LEVELS
WRITES: Final = {query.replace("r=", "w="): number for query, number in READS.items()}
STRONG: Final = [query for query, number in WRITES.items() if number > COPIES // 2]
BAD_QUERIES: Final = {
    "r=4": "invalid-consistency",
    "w=0": "invalid-consistency",
    "r=some": "invalid-query",
    "consistency=most": "invalid-query",
    "consistency=one&r=1": "invalid-query",
    "r=1&r=1": "invalid-query",
    "level=one": "invalid-query",
}
BAD_IDS: Final = [
    "x",
    "01936F5E-7B7C-7000-8000-0000000000FF",
    "01936f5e7b7c700080000000000000ff",
    "{01936f5e-7b7c-7000-8000-0000000000ff}",
    "01936f5e-7b7c-7000-8000-0000000000f%66",
    "01936f5e-7b7c-7000-8000-0000000000ff/",
]

contents = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.sampled_from(
    ["", "x" * CONTENT_BYTES_MAX, "\u00e9" * (CONTENT_BYTES_MAX // 2)]
)
nodes = st.sampled_from(["a1", "a2", "a3"])
reads, writes, levels = (st.sampled_from(list(one)) for one in (READS, WRITES, LEVELS))
lives = st.sampled_from([None, None, 3600])


class Document(msgspec.Struct):
    """What is known of one id."""

    document_id: str
    #: None: nobody has created it.
    content: str | None = None
    #: What its create was answered with.
    created: dict[str, Any] = {}
    key: str | None = None
    #: On how many replicas the create, and the tombstone, must be at least.
    known_by: int = 0
    deleted_by: int = 0

    def statuses(self, read: int, first_s: float, last_s: float) -> set[int]:
        """What a read by so many replicas, between two times, may be answered with."""
        allowed: set[int] = set()
        if COPIES - max(self.known_by, self.deleted_by) >= max(read, 2):
            allowed.add(404)
        if self.deleted_by or last_s >= self.expires_s:
            allowed.add(410)
        live = self.content is not None and first_s < self.expires_s
        if live and self.deleted_by + read <= COPIES:
            allowed.add(200)
        return allowed

    @property
    def expires_s(self) -> float:
        """Unix time."""
        delete_at = self.created.get("delete_at")
        return datetime.fromisoformat(delete_at).timestamp() if delete_at else inf

    def was_found(self, read: int, status: int) -> None:
        """A document that was shown is on so many replicas; a tombstone is believed from one."""
        if status == 200:
            self.known_by = max(self.known_by, read)


class Api(RuleBasedStateMachine):
    """Clients that ask any node, at any level."""

    cluster: ClassVar[LocalCluster]
    #: Documents of all examples that live for a moment only.
    short_lived: ClassVar[list[Document]]
    examples: ClassVar[Any]

    documents = Bundle("documents")

    def __init__(self) -> None:
        super().__init__()
        self.prefix = f"example {next(self.examples)}"
        #: By key, the document that it gives.
        self.keyed: dict[str, Document] = {}

    def ask(
        self, method: str, node: str, path: str, query: str = "", body: object = None, **more: str
    ) -> Answer:
        """One request; ``more`` are headers."""
        url = f"{self.cluster.http_url(node)}/documents{path}" + (f"?{query}" if query else "")
        headers = {"Stele-Timeout-Ms": TIMEOUT_MS}
        headers |= {name.replace("_", "-"): value for name, value in more.items()}
        return call(method, url, body, headers)

    # Create -------------------------------------------------------------------------------------

    @rule(target=documents, node=nodes, query=writes, content=contents, ttl_s=lives | st.just(1))
    def create(self, node: str, query: str, content: str, ttl_s: int | None) -> Document:
        """A document of its own, whatever its content."""
        before_s = time.time()
        answer = self.ask("POST", node, "", query, _body(content, ttl_s))
        document = _created(answer, content, ttl_s, before_s, time.time())
        _acknowledged(answer, WRITES[query])
        document.known_by = WRITES[query]
        if ttl_s == 1:
            self.short_lived.append(document)
        return document

    @rule(
        target=documents,
        node=nodes,
        query=st.sampled_from(STRONG),
        number=st.integers(0, 2),
        content=st.sampled_from(["one body", "another body"]),
        ttl_s=lives,
    )
    def create_with_key(
        self, node: str, query: str, number: int, content: str, ttl_s: int | None
    ) -> Document:
        """In the strong mode: the first body has the key, and who repeats it gets its answer."""
        key, write, before_s = f"{self.prefix}, key {number}", WRITES[query], time.time()
        answer = self.ask("POST", node, "", query, _body(content, ttl_s), Idempotency_Key=key)
        known = self.keyed.get(key)
        if known is None:
            document = _created(answer, content, ttl_s, before_s, time.time())
            assert "Idempotency-Replayed" not in answer.headers
            document.known_by = write
            self.keyed[key] = document
            return document
        same = known.content == content and _ttl_s(known) == ttl_s
        allowed = {410} if known.deleted_by else set()
        if same and known.deleted_by + write <= COPIES:
            allowed.add(201)
        if not same and known.deleted_by < COPIES:
            allowed.add(422)  # the first replica that knows the other body is believed
        assert answer.status in allowed, (answer, known)
        if answer.status == 201:
            assert answer.json == known.created
            assert answer.headers["Idempotency-Replayed"] == "true"
            known.known_by = max(known.known_by, write)
        else:
            _is_problem(answer, answer.status, "deleted" if answer.status == 410 else "key-reused")
        return known

    # Read ---------------------------------------------------------------------------------------

    @rule(document=documents, query=reads, method=st.sampled_from(["GET", "HEAD"]))
    def read(self, document: Document, query: str, method: str) -> None:
        """Through each node: what the quorums allow, and nothing else."""
        for node in self.cluster.nodes:
            before_s = time.time()
            answer = self.ask(method, node, f"/{document.document_id}", query)
            head = method == "HEAD"
            _is_right(document, READS[query], answer, before_s, time.time(), head=head)

    @rule(document=documents, node=nodes)
    def read_again(self, document: Document, node: str) -> None:
        """With the checksum that is known: not the content once more."""
        etag = f'"{document.created.get("checksum", "none")}"'
        before_s = time.time()
        answer = self.ask("GET", node, f"/{document.document_id}", "r=3", If_None_Match=etag)
        if answer.status != 304:
            assert answer.status != 200
            _is_right(document, 3, answer, before_s, time.time())
            return
        assert 200 in document.statuses(3, before_s, time.time())
        assert (answer.headers["ETag"], answer.body) == (etag, b"")

    # Delete -------------------------------------------------------------------------------------

    @rule(document=documents, node=nodes, query=writes)
    def delete(self, document: Document, node: str, query: str) -> None:
        """Once or many times."""
        answer = self.ask("DELETE", node, f"/{document.document_id}", query)
        assert (answer.status, answer.body) == (204, b"")
        _acknowledged(answer, WRITES[query])
        document.deleted_by = max(document.deleted_by, WRITES[query])

    @rule(target=documents, number=st.integers(0, (1 << 74) - 1))
    def think_of(self, number: int) -> Document:
        """An id that nobody has created; it may be read, and deleted."""
        drawn = uuid.uuid5(uuid.NAMESPACE_URL, f"{self.prefix}, {number}").int
        return Document(str(uuid.UUID(int=drawn & ~(0xF << 76) | 0x7 << 76)))

    # Many at once -------------------------------------------------------------------------------

    @rule(
        target=documents,
        node=nodes,
        query=levels,
        content=contents,
        gone=st.lists(documents, max_size=2, unique_by=id),
        kept=st.lists(documents, max_size=3, unique_by=id),
    )
    def do_many(
        self, node: str, query: str, content: str, gone: list[Document], kept: list[Document]
    ) -> Document:
        """Each as if it were alone, with results in order; a document is touched once."""
        read = [one for one in kept if all(one is not other for other in gone)]
        operations: list[dict[str, Any]] = [{"op": "get", "id": "no id"}]
        operations += [{"op": "get", "id": one.document_id} for one in read]
        operations += [{"op": "delete", "id": one.document_id} for one in gone]
        operations += [{"op": "create", "content": content}]
        before_s = time.time()
        answer = self.ask("POST", node, "/_bulk", query, {"operations": operations})
        after_s = time.time()
        assert (answer.status, answer.json["errors"]) == (200, True)
        refused, *results, created = answer.json["results"]
        assert (refused["status"], refused["problem"]["code"]) == (400, "invalid-id")
        for one, result in zip(read, results[: len(read)], strict=True):
            _is_right_in_bulk(one, LEVELS[query], result, before_s, after_s)
        for one, result in zip(gone, results[len(read) :], strict=True):
            assert result == {"status": 204}
            one.deleted_by = max(one.deleted_by, LEVELS[query])
        assert created.pop("status") == 201
        document = Document(created["id"], content, created | {"status": "ACTIVE"})
        _is_described(document, None, before_s, after_s)
        document.known_by = LEVELS[query]
        return document

    # What is wrong ------------------------------------------------------------------------------

    @rule(
        document=documents,
        node=nodes,
        method=st.sampled_from(["GET", "DELETE"]),
        bad_id=st.sampled_from(BAD_IDS),
        query=st.sampled_from(list(BAD_QUERIES)),
    )
    def ask_wrongly(
        self, document: Document, node: str, method: str, bad_id: str, query: str
    ) -> None:
        """Nothing is done: a refused delete deletes nothing, as later reads show."""
        _is_problem(self.ask(method, node, f"/{bad_id}"), 400, "invalid-id")
        answer = self.ask(method, node, f"/{document.document_id}", query)
        _is_problem(answer, 400, BAD_QUERIES[query])
        too_long = _body("x" * (CONTENT_BYTES_MAX + 1), None)
        _is_problem(self.ask("POST", node, "", "", too_long), 413, "content-too-large")


def _body(content: str, ttl_s: int | None) -> dict[str, Any]:
    return {"content": content} | ({"ttl_seconds": ttl_s} if ttl_s is not None else {})


def _created(
    answer: Answer, content: str, ttl_s: int | None, before_s: float, after_s: float
) -> Document:
    assert answer.status == 201, answer
    document = Document(answer.json["id"], content, answer.json)
    assert answer.headers["Location"] == f"/documents/{document.document_id}"
    assert answer.headers["ETag"] == f'"{answer.json["checksum"]}"'
    _is_described(document, ttl_s, before_s, after_s)
    return document


def _is_described(document: Document, ttl_s: int | None, before_s: float, after_s: float) -> None:
    """Whether the body of a create's answer is what it must be, every field of it."""
    assert document.content is not None
    created_at = document.created["created_at"]
    created_s = datetime.fromisoformat(created_at).timestamp()
    assert before_s - _MS <= created_s <= after_s
    assert _ttl_s(document) == ttl_s
    assert document.created == {
        "id": document.document_id,
        "status": "ACTIVE",
        "created_at": created_at,
        "delete_at": document.created["delete_at"],
        "checksum": hashlib.sha256(document.content.encode()).hexdigest(),
    }


def _ttl_s(document: Document) -> float | None:
    if document.created["delete_at"] is None:
        return None
    created_s = datetime.fromisoformat(document.created["created_at"]).timestamp()
    return round(document.expires_s - created_s, 3)


def _is_right(
    document: Document,
    read: int,
    answer: Answer,
    before_s: float,
    after_s: float,
    *,
    head: bool = False,
) -> None:
    """Whether a read's answer is one that may be."""
    assert answer.status in document.statuses(read, before_s, after_s), (answer, document)
    if answer.status == 200:
        assert answer.headers["ETag"] == f'"{document.created["checksum"]}"'
        assert head or answer.json == document.created | {"content": document.content}
    elif not head:
        _is_problem(answer, answer.status, "deleted" if answer.status == 410 else "not-found")
    document.was_found(read, answer.status)


def _is_right_in_bulk(
    document: Document, read: int, result: dict[str, Any], before_s: float, after_s: float
) -> None:
    assert result["status"] in document.statuses(read, before_s, after_s), (result, document)
    if result["status"] == 200:
        assert result["document"] == document.created | {"content": document.content}
    else:
        code = "deleted" if result["status"] == 410 else "not-found"
        assert result["problem"]["code"] == code
    document.was_found(read, result["status"])


def _is_problem(answer: Answer, status: int, code: str) -> None:
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert (answer.status, answer.json["status"], answer.json["code"]) == (status, status, code)
    assert answer.json["outcome"] == "not_applied"


def _acknowledged(answer: Answer, write: int) -> None:
    acked, _, rest = answer.headers["Stele-Acks"].partition("/")
    assert rest == f"{write}; n={COPIES}; hints=0"
    assert write <= int(acked) <= COPIES


def test_the_api_answers_as_the_model_does(cluster: LocalCluster) -> None:
    """Any sequence of requests to any nodes; and in the end what lived for a moment is gone."""
    short_lived: list[Document] = []
    around = {"cluster": cluster, "short_lived": short_lived, "examples": count()}
    bound: type[Api] = type("BoundApi", (Api,), around)
    run_state_machine_as_test(bound, settings=settings(max_examples=60, stateful_step_count=25))
    assert short_lived
    time.sleep(max(0.0, max(one.expires_s for one in short_lived) - time.time()))
    for number, document in enumerate(short_lived):
        node = cluster.nodes[number % COPIES]
        url = f"{cluster.http_url(node)}/documents/{document.document_id}?r=3"
        _is_problem(call("GET", url), 410, "deleted")
