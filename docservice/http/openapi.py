"""The API as an OpenAPI 3.1 document.

The schemas are generated from the types that bodies are decoded into and answers are tested
against; the responses of each call name the codes of the problem catalogue. What is left to write
here is which call takes and gives what.

Source: OpenAPI Specification 3.1.1.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from docservice.http.bodies import BulkRequest, CreateRequest
from docservice.http.problems import CATALOGUE, MEDIA_TYPE, Problem
from docservice.http.representation import BulkResponse, CreatedDocument, Document

_JSON: Final = "application/json"
_Object = dict[str, Any]

#: Problems that any call can end in, by code.
_ANY_CALL: Final = (
    "malformed-request",
    "invalid-session",
    "invalid-query",
    "invalid-consistency",
    "invalid-header",
    "method-not-allowed",
    "request-timeout",
    "target-too-long",
    "expectation-failed",
    "too-many-requests",
    "overloaded",
    "headers-too-large",
    "internal",
    "unavailable",
    "too-many-connections",
)
_ANY_BODY: Final = ("malformed-json", "body-too-large", "unsupported-media-type")
_ANY_READ: Final = (
    "invalid-id",
    "not-acceptable",
    "not-found",
    "deleted",
    "read-timeout",
    "session-unreachable",
)
_EVERY_ANSWER: Final = (
    "Stele-Session",
    "Stele-Acks",
    "Stele-Region",
    "X-Request-Id",
    "traceparent",
)
_ANY_WRITE: Final = ("write-timeout",)


def openapi_json() -> bytes:
    """The document, encoded."""
    return msgspec.json.encode(_openapi())


def _openapi() -> _Object:
    _, schemas = msgspec.json.schema_components(
        [CreateRequest, BulkRequest, CreatedDocument, BulkResponse, Document, Problem],
        ref_template="#/components/schemas/{name}",
    )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Stele",
            "version": "1",
            "summary": "Small documents, written once, read anywhere, deleted for good.",
            "description": "Documents are created, read and deleted; they are never updated. "
            "Errors are application/problem+json (RFC 9457); `outcome` decides retries.",
        },
        "paths": {
            "/documents": {"post": _create()},
            "/documents/{id}": {
                "parameters": [_ID],
                "get": _read("readDocument", "Read a document"),
                "head": _read("headDocument", "Read a document's headers"),
                "delete": _delete(),
            },
            "/documents/_bulk": {"post": _bulk()},
        },
        "components": {"schemas": schemas, "headers": _HEADERS, "parameters": _PARAMETERS},
    }


def _create() -> _Object:
    return {
        "operationId": "createDocument",
        "summary": "Create a document",
        "parameters": [*_CONSISTENCY, _ref("parameters", "idempotencyKey"), _PREFER],
        "requestBody": _body(CreateRequest),
        "responses": {
            "201": {
                "description": "Created; or, for a repeated key, the answer of the first time.",
                "headers": _headers(
                    "Location", "ETag", "Idempotency-Replayed", *_EVERY_ANSWER
                ),
                "content": {
                    _JSON: {"schema": {"anyOf": [_schema(CreatedDocument), _schema(Document)]}}
                },
            },
            **_problems(
                *_ANY_CALL, *_ANY_BODY, *_ANY_WRITE, "not-acceptable", "invalid-document",
                "content-too-large", "key-reused", "deleted", "disk-low",
            ),
        },
    }  # fmt: skip


def _read(operation_id: str, summary: str) -> _Object:
    headers = _headers("ETag", "Cache-Control", *_EVERY_ANSWER)
    return {
        "operationId": operation_id,
        "summary": summary,
        "parameters": [*_CONSISTENCY, _IF_NONE_MATCH],
        "responses": {
            "200": {
                "description": "The document.",
                "headers": headers,
                "content": {_JSON: {"schema": _schema(Document)}},
            },
            "304": {"description": "If-None-Match names its ETag.", "headers": headers},
            **_problems(*_ANY_CALL, *_ANY_READ),
        },
    }


def _delete() -> _Object:
    return {
        "operationId": "deleteDocument",
        "summary": "Delete a document",
        "description": "Also when it is unknown or deleted already. Repeat freely.",
        "parameters": list(_CONSISTENCY),
        "responses": {
            "204": {
                "description": "Deleted.",
                "headers": _headers(*_EVERY_ANSWER),
            },
            **_problems(*_ANY_CALL, *_ANY_WRITE, "invalid-id"),
        },
    }


def _bulk() -> _Object:
    return {
        "operationId": "bulk",
        "summary": "Create, read and delete many documents",
        "description": "Operations run side by side and succeed or fail alone; results are in the "
        "order of the operations.",
        "parameters": list(_CONSISTENCY),
        "requestBody": _body(BulkRequest),
        "responses": {
            "200": {
                "description": "One result an operation.",
                "headers": _headers("Stele-Session", "Stele-Region", "X-Request-Id", "traceparent"),
                "content": {_JSON: {"schema": _schema(BulkResponse)}},
            },
            **_problems(*_ANY_CALL, *_ANY_BODY, "not-acceptable", "invalid-document"),
        },
    }


def _schema(of: type) -> _Object:
    return {"$ref": f"#/components/schemas/{of.__name__}"}


def _ref(section: str, name: str) -> _Object:
    return {"$ref": f"#/components/{section}/{name}"}


def _body(of: type) -> _Object:
    return {"required": True, "content": {_JSON: {"schema": _schema(of)}}}


def _headers(*names: str) -> _Object:
    return {name: _ref("headers", name) for name in names}


def _problems(*codes: str) -> _Object:
    """Responses by status, each naming the codes that it can carry."""
    by_status: dict[int, list[str]] = {}
    for code in codes:
        by_status.setdefault(CATALOGUE[code].status, []).append(code)
    return {
        str(status): {
            "description": "; ".join(f"`{code}`: {CATALOGUE[code].title}" for code in at_status),
            "content": {MEDIA_TYPE: {"schema": _schema(Problem)}},
        }
        for status, at_status in sorted(by_status.items())
    }


def _header(description: str, example: str) -> _Object:
    return {"description": description, "schema": {"type": "string"}, "example": example}


def _query(name: str, description: str, schema: _Object) -> _Object:
    return {"name": name, "in": "query", "description": description, "schema": schema}


_HEADERS: Final[Mapping[str, _Object]] = {
    "Location": _header("The document's path.", "/documents/01890a5d-ac96-774b-bcce-b302099a8057"),
    "ETag": _header("The checksum, quoted.", f'"{"0" * 64}"'),
    "Cache-Control": _header("Revalidate before use.", "private, no-cache"),
    "Idempotency-Replayed": _header("The key had been used before.", "true"),
    "X-Request-Id": _header("Names this answer, also in the log.", "89e0de94b33f-1"),
    "traceparent": _header(
        "Of a request that is traced: its trace, and the server's part of it (W3C).",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-bf8c9af91b251676-01",
    ),
    "Stele-Region": _header("The region that answered.", "a"),
    "Stele-Session": _header(
        "What the client has seen. Sent back with later requests, to any node, it keeps their "
        "answers from being older.",
        "XgF7KbHVyMYzqSgZfU8nVKX2",
    ),
    "Stele-Acks": _header(
        "Replicas that acknowledged / had to; copies kept; how many acknowledged with a hint.",
        "2/2; n=3; hints=0",
    ),
}
_REPLICAS: Final = {
    "anyOf": [{"enum": ["one", "quorum", "all"]}, {"type": "integer", "minimum": 1}]
}
_PARAMETERS: Final[Mapping[str, _Object]] = {
    "consistency": _query(
        "consistency",
        "Replicas to ask, for reads and writes alike. Excludes r and w.",
        {"enum": ["one", "two", "quorum", "all", "local_quorum", "each_quorum"]},
    ),
    "r": _query("r", "Replicas that must answer a read.", _REPLICAS),
    "w": _query("w", "Replicas that must have a write on disk.", _REPLICAS),
    "sloppy": _query(
        "sloppy", "Whether a stand-in for a replica that is down counts.", {"type": "boolean"}
    ),
    "timeout": {
        "name": "Stele-Timeout-Ms",
        "in": "header",
        "description": "Deadline in milliseconds; capped by the server.",
        "schema": {"type": "integer", "minimum": 1},
    },
    "traceparent": {
        "name": "traceparent",
        "in": "header",
        "description": "W3C trace context.",
        "schema": {"type": "string"},
    },
    "session": {
        "name": "Stele-Session",
        "in": "header",
        "description": "The token of an earlier answer, or up to 32 of them separated by commas: "
        "no answer is older than what they have seen.",
        "schema": {"type": "string"},
    },
    "idempotencyKey": {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "1 to 255 printable ASCII characters, quoted or not. A create repeated with "
        "its key makes no second document.",
        "schema": {"type": "string"},
    },
}
_CONSISTENCY: Final = tuple(
    _ref("parameters", name)
    for name in ("consistency", "r", "w", "sloppy", "timeout", "traceparent", "session")
)
_ID: Final[_Object] = {
    "name": "id",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "format": "uuid"},
}
_PREFER: Final[_Object] = {
    "name": "Prefer",
    "in": "header",
    "description": "return=representation puts the content into the answer.",
    "schema": {"type": "string"},
}
_IF_NONE_MATCH: Final[_Object] = {
    "name": "If-None-Match",
    "in": "header",
    "description": "ETags that the client has already.",
    "schema": {"type": "string"},
}
