"""Requests and answers as bytes, without a connection: what is sent, and what an answer means."""

from collections.abc import Sequence
from datetime import datetime
from math import isfinite
from typing import Any, Final, TypeVar
from urllib.parse import quote

import msgspec

from docservice.client.errors import Deleted, NoAnswer, NotStele, Problem, SteleError, error_of
from docservice.client.model import CreatedDocument, Document, How, NewDocument

T = TypeVar("T")

#: What an operation of a bulk request became.
Result = CreatedDocument | Document | None | SteleError
#: In the API's form.
Operation = dict[str, Any]

#: Of one bulk request: contents of 2,048 bytes, escaped to six times that, stay below its limit.
BULK_OPERATIONS: Final = 200
_BULK_BYTES: Final = 3 * 1024 * 1024
_PROBLEM: Final = "application/problem+json"


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One request, the same at every try."""

    method: str
    target: str
    body: bytes | None = None
    #: Documents that it is about, as far as they have ids.
    document_ids: tuple[str, ...] = ()
    is_bulk: bool = False
    key: str | None = None


class Answer(msgspec.Struct, frozen=True):
    """What came back. Names of headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes
    #: The session tokens that its request had brought along.
    brought: str = ""


class _BulkResult(msgspec.Struct, frozen=True):
    status: int
    id: str = ""
    created_at: datetime | None = None
    delete_at: datetime | None = None
    checksum: str = ""
    replayed: bool = False
    document: Document | None = None
    problem: Problem | None = None


class _BulkAnswer(msgspec.Struct, frozen=True):
    results: list[_BulkResult]


def create_request(document: NewDocument, how: How) -> Request:
    """A create of a document that has a key."""
    body: Operation = {"content": document.content}
    if document.ttl_seconds is not None:
        body["ttl_seconds"] = document.ttl_seconds
    return Request(
        method="POST",
        target=f"/documents{_query(how)}",
        body=msgspec.json.encode(body),
        key=document.key,
    )


def document_request(method: str, document_id: str, how: How) -> Request:
    """A read or a delete."""
    target = f"/documents/{quote(document_id, safe='')}{_query(how)}"
    return Request(method=method, target=target, document_ids=(document_id,))


def bulk_request(operations: Sequence[Operation], how: How) -> Request:
    """Many operations."""
    return Request(
        method="POST",
        target=f"/documents/_bulk{_query(how)}",
        body=msgspec.json.encode({"operations": operations}),
        document_ids=tuple(one["id"] for one in operations if "id" in one),
        is_bulk=True,
    )


def create_operation(document: NewDocument, key: str) -> Operation:
    """A create within a bulk request."""
    operation: Operation = {"op": "create", "content": document.content, "idempotency_key": key}
    if document.ttl_seconds is not None:
        operation["ttl_seconds"] = document.ttl_seconds
    return operation


def headers_of(request: Request) -> dict[str, str]:
    """What is sent with a request, whoever sends it."""
    headers = {"Accept": "application/json"}
    if request.body is not None:
        headers["Content-Type"] = "application/json"
    if request.key is not None:
        escaped = request.key.replace("\\", "\\\\").replace('"', '\\"')
        headers["Idempotency-Key"] = f'"{escaped}"'
    return headers


def share(operation: Operation) -> float:
    """The share of a bulk request that an operation takes, of 1."""
    return max(1 / BULK_OPERATIONS, len(operation.get("content", "")) * 6 / _BULK_BYTES)


def created_in(answer: Answer) -> CreatedDocument:
    """The document that an answer to a create tells of."""
    document = _decoded(answer, CreatedDocument)
    if answer.headers.get("idempotency-replayed") != "true":
        return document
    return msgspec.structs.replace(document, replayed=True)


def document_in(answer: Answer) -> Document:
    """The document in an answer to a read."""
    return _decoded(answer, Document)


def results_in(answer: Answer, count: int) -> list[Result]:
    """What became of each operation of a bulk request."""
    results = _decoded(answer, _BulkAnswer).results
    if len(results) != count:
        raise NotStele(f"{len(results)} results came for {count} operations")
    return [_result(result) for result in results]


def shows(result: Result) -> bool:
    """Whether it says what a document is, so that its answer's session token knows that."""
    return not isinstance(result, SteleError) or isinstance(result, Deleted)


def id_of(operation: Operation, result: Result) -> str:
    """The document that an operation was about; its result says it of a create."""
    document_id: str = result.id if isinstance(result, CreatedDocument) else operation["id"]
    return document_id


def error_in(answer: Answer) -> SteleError:
    """What an answer says that it failed with."""
    error: SteleError
    if answer.headers.get("content-type", "").startswith(_PROBLEM):
        error = error_of(_decoded(answer, Problem))
    elif answer.status >= 500 or answer.status == 429:  # a balancer in front of the server
        error = NoAnswer(f"status {answer.status}, by whoever is in between", "unknown")
    else:
        error = NotStele(f"status {answer.status} without a problem: this is no document API")
    error.retry_after_s = _seconds(answer.headers.get("retry-after", ""))
    return error


def _result(result: _BulkResult) -> Result:
    if result.problem is not None:
        return error_of(result.problem)
    if result.created_at is None:
        return result.document
    return CreatedDocument(
        id=result.id,
        created_at=result.created_at,
        delete_at=result.delete_at,
        checksum=result.checksum,
        replayed=result.replayed,
    )


def _query(how: How) -> str:
    """With its question mark, if there is any."""
    parts = []
    if how.consistency is not None:
        parts.append(f"consistency={how.consistency}")
    if how.sloppy is not None:
        parts.append(f"sloppy={str(how.sloppy).lower()}")
    return "?" + "&".join(parts) if parts else ""


def _seconds(text: str) -> float:
    """Of Retry-After; a date, which this server never sends, is taken for nothing."""
    try:
        seconds = float(text)
    except ValueError:
        return 0.0
    return max(seconds, 0.0) if isfinite(seconds) else 0.0


def _decoded(answer: Answer, shape: type[T]) -> T:
    try:
        return msgspec.json.decode(answer.body, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise NotStele(f"what answers is not a document API: {error}") from error
