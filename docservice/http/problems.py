"""The catalogue of problems: every error answer of this server is one of these (RFC 9457).

Rules
-----
1. ``code`` is part of the API: clients branch on it, so it is never renamed or reused.
2. An answer never quotes its request. What it says is written here, or by the store about itself.
3. ``outcome`` is what decides a retry: ``not_applied``, ``unknown`` or ``applied``. It and
   ``retryable`` come from the error itself where the store raised one.
4. ``type`` is a path on this server, answered with the explanation that stands here.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from kvnode.errors import Outcome, StoreError

TYPE_PREFIX: Final = "/problems/"
MEDIA_TYPE: Final = "application/problem+json"


class ProblemKind(msgspec.Struct, frozen=True):
    """One entry of the catalogue."""

    code: str
    status: int
    title: str
    #: For the person who follows ``type``: what happened and what to do about it.
    explanation: str
    retryable: bool = False
    outcome: Outcome = "not_applied"


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """The body of an error answer, ``application/problem+json``."""

    #: Path on this server that explains this kind of problem.
    type: str
    title: str
    status: int
    #: What happened this time.
    detail: str
    #: Names this very answer; its last part is the X-Request-Id.
    instance: str
    code: str
    #: Whether the unchanged request may succeed later.
    retryable: bool
    outcome: Outcome
    #: Replicas that answered in time, of those that had to; null when none were asked.
    acks: int | None
    required: int | None
    trace_id: str


class RequestRefused(Exception):
    """The request can't be served as it is; raised before the store is called.

    Args:
        code: An entry of the catalogue.
        detail: What is wrong with this request, in words of ours.
        headers: More header lines, each ending in CRLF.
    """

    def __init__(self, code: str, detail: str = "", *, headers: str = "") -> None:
        super().__init__(code, detail)
        self.code, self.detail, self.headers = code, detail, headers


def kind_of(error: Exception) -> ProblemKind:
    """The entry for an error; one that nobody raised on purpose is ``internal``."""
    if isinstance(error, StoreError | RequestRefused):
        return CATALOGUE.get(error.code, CATALOGUE["internal"])
    return CATALOGUE["internal"]


def problem_of(error: Exception, *, instance: str, trace_id: str) -> Problem:
    """What the client is told about an error."""
    kind = kind_of(error)
    expected = isinstance(error, StoreError)
    detail = error.detail if isinstance(error, RequestRefused) else str(error) if expected else ""
    return Problem(
        type=TYPE_PREFIX + kind.code,
        title=kind.title,
        status=kind.status,
        detail=detail or kind.explanation,
        instance=instance,
        code=kind.code,
        retryable=error.retryable if isinstance(error, StoreError) else kind.retryable,
        outcome=error.outcome if isinstance(error, StoreError) else kind.outcome,
        acks=getattr(error, "acked", None) if expected else None,
        required=getattr(error, "required", None) if expected else None,
        trace_id=trace_id,
    )


_KINDS: Final = (
    ProblemKind(
        "malformed-request",
        400,
        "The request is not valid HTTP",
        "The bytes do not follow HTTP/1.1 (RFC 9112), or contradict themselves, for instance by "
        "naming two lengths. The connection was closed and nothing was done.",
    ),
    ProblemKind(
        "malformed-json",
        400,
        "The body is not valid JSON",
        "A body is one JSON value in UTF-8 (RFC 8259) without a byte order mark, with every object "
        "key at most once, every escaped surrogate in its pair, and no NaN or Infinity.",
    ),
    ProblemKind(
        "invalid-id",
        400,
        "The id is not a document id",
        "A document id is a UUID in its canonical form: 36 characters, lower-case hexadecimal "
        "digits in groups of 8-4-4-4-12, nothing percent-encoded.",
    ),
    ProblemKind(
        "invalid-query",
        400,
        "The query string is not understood",
        "Known parameters are consistency (one, two, quorum, all, local_quorum, each_quorum), or "
        "r and w (one, quorum, all or a count), and sloppy (true, false). Each at most once, "
        "consistency not together with r or w, and each_quorum not with sloppy=true.",
    ),
    ProblemKind(
        "invalid-consistency",
        400,
        "More replicas were asked for than there are",
        "r and w lie between 1 and the number of copies that the cluster keeps of a document.",
    ),
    ProblemKind(
        "invalid-header",
        400,
        "A request header is not understood",
        "Idempotency-Key is 1 to 255 printable ASCII characters, quoted or not. Stele-Timeout-Ms "
        "is a whole number of milliseconds, at least 1. Neither is repeated.",
    ),
    ProblemKind(
        "invalid-session",
        400,
        "The session token is not one of this cluster's",
        "Stele-Session brings back, unchanged, what an earlier answer of this cluster held; up to "
        "32 of these, separated by commas. Leave it out to begin a new session, which is promised "
        "nothing of what was seen before.",
    ),
    ProblemKind(
        "not-found",
        404,
        "There is no such document",
        "A majority of the nodes that would keep this document say that they have nothing. A "
        "single lagging node never leads to this answer.",
    ),
    ProblemKind(
        "no-such-page",
        404,
        "Nothing is served at this path",
        "See /docs for what this server answers, and /openapi.json for the same in a form for "
        "machines.",
    ),
    ProblemKind(
        "method-not-allowed",
        405,
        "The method is not allowed here",
        "The Allow header lists the methods of this path. Documents are created, read and "
        "deleted; they are never updated.",
    ),
    ProblemKind(
        "not-acceptable",
        406,
        "Only JSON is served here",
        "The Accept header excludes application/json, which is the only representation there is.",
    ),
    ProblemKind(
        "request-timeout",
        408,
        "The request did not arrive in time",
        "The header or the body took longer than this server waits. Nothing was done; the same "
        "request may be sent again.",
        retryable=True,
    ),
    ProblemKind(
        "deleted",
        410,
        "The document is deleted",
        "It was deleted, or its time to live has passed. It never comes back, and an idempotency "
        "key that made it can't make it again.",
    ),
    ProblemKind(
        "content-too-large",
        413,
        "The content is too long",
        "The content of a document is at most 2,048 bytes in UTF-8 (bytes, not characters).",
    ),
    ProblemKind(
        "body-too-large",
        413,
        "The request body is too long",
        "A body is at most 16 KiB, and 4 MiB for /documents/_bulk with at most 1,000 operations. "
        "The connection was closed instead of reading the rest.",
    ),
    ProblemKind(
        "target-too-long",
        414,
        "The request target is too long",
        "No path and query that this server knows is longer than a few hundred bytes.",
    ),
    ProblemKind(
        "unsupported-media-type",
        415,
        "The body has to be plain JSON",
        "Send Content-Type: application/json (charset=utf-8 may be added) and no Content-Encoding.",
    ),
    ProblemKind(
        "expectation-failed",
        417,
        "The expectation can't be met",
        "The only expectation that is understood is 100-continue.",
    ),
    ProblemKind(
        "invalid-document",
        422,
        "The body does not describe what was asked for",
        "It is JSON, but a field is missing, unknown or of the wrong type, or a value is out of "
        "range. See /docs for the fields.",
    ),
    ProblemKind(
        "key-reused",
        422,
        "The idempotency key belongs to another body",
        "A document was created with this key before, from a different content or time to live. "
        "Use a new key for a new document.",
    ),
    ProblemKind(
        "too-many-requests",
        429,
        "Too many requests are in flight",
        "This server serves a bounded number of requests at once. Nothing was done; send the "
        "request again after a moment.",
        retryable=True,
    ),
    ProblemKind(
        "overloaded",
        429,
        "The node has too much to do",
        "A bounded queue inside the node is full. Nothing was started; send the request again "
        "after a moment.",
        retryable=True,
    ),
    ProblemKind(
        "headers-too-large",
        431,
        "The request headers are too large",
        "A header line is at most 8 KiB and a request has at most 64 of them, 16 KiB together.",
    ),
    ProblemKind(
        "internal",
        500,
        "The server failed",
        "This is a fault of the server, and it has been logged with the trace id of this answer. "
        "Whether anything was written is not known.",
        outcome="unknown",
    ),
    ProblemKind(
        "not-implemented",
        501,
        "The method or transfer coding is unknown",
        "The request uses a method or a transfer coding that this server does not implement.",
    ),
    ProblemKind(
        "node-lost",
        502,
        "The connection to the node was lost",
        "The load balancer had sent the request to a node, and the connection broke before the "
        "answer. Whether anything was written is not known. Repeat it: a create with the same "
        "idempotency key, a delete just so.",
        retryable=True,
        outcome="unknown",
    ),
    ProblemKind(
        "unavailable",
        503,
        "Too few replicas can take part",
        "Fewer nodes than the request asks for can be reached. Nothing was written. Send it again "
        "after a moment, or ask for fewer replicas.",
        retryable=True,
    ),
    ProblemKind(
        "session-unreachable",
        503,
        "What this session has seen can't be reached",
        "The session token says that the document was there, and no replica that could be asked "
        "has it yet. It is on its way to them. An older answer is not given; send the request "
        "again after a moment, or without the token to take what there is.",
        retryable=True,
    ),
    ProblemKind(
        "too-many-connections",
        503,
        "Too many connections",
        "This server keeps a bounded number of connections. Nothing was read from this one.",
        retryable=True,
    ),
    ProblemKind(
        "corrupt-record",
        503,
        "No sound copy could be read",
        "The copies that could be reached fail their checksum. They are never served; they are "
        "repaired from sound ones.",
    ),
    ProblemKind(
        "write-timeout",
        504,
        "Too few replicas confirmed the write in time",
        "Some replicas may hold the write, so its outcome is unknown. Repeat it: a create with the "
        "same idempotency key, a delete just so.",
        retryable=True,
        outcome="unknown",
    ),
    ProblemKind(
        "read-timeout",
        504,
        "Too few replicas answered in time",
        "Not enough replicas answered before the deadline to say what the document is.",
        retryable=True,
    ),
    ProblemKind(
        "no-answer",
        504,
        "No node answered in time",
        "The load balancer waited for longer than any node should take. Whether anything was "
        "written is not known. Repeat it: a create with the same idempotency key, a delete just "
        "so.",
        retryable=True,
        outcome="unknown",
    ),
    ProblemKind(
        "http-version-not-supported",
        505,
        "Only HTTP/1.1 and HTTP/1.0 are spoken here",
        "Send the request as HTTP/1.1.",
    ),
    ProblemKind(
        "disk-low",
        507,
        "The disk is nearly full",
        "Creates are refused until space is freed; reads and deletes still work.",
        retryable=True,
    ),
)
CATALOGUE: Final[Mapping[str, ProblemKind]] = {kind.code: kind for kind in _KINDS}
