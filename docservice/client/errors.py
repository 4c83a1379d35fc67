"""What can go wrong, as exceptions: one class for each problem code of the server.

Rules
-----
1. ``outcome`` says what became of the request: ``not_applied``, ``unknown`` or ``applied``. With
   ``retryable`` it decides whether the client repeats it; what is raised was repeated in vain, or
   repeating it is no use.
2. The server's catalogue is the source: a test compares codes and classes.
"""

from collections.abc import Mapping
from typing import ClassVar, Final, Literal

import msgspec

Outcome = Literal["not_applied", "unknown", "applied"]


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """The body of an error answer, ``application/problem+json`` (RFC 9457)."""

    code: str
    status: int
    title: str = ""
    detail: str = ""
    retryable: bool = False
    outcome: Outcome = "unknown"
    acks: int | None = None
    required: int | None = None
    trace_id: str = ""


class SteleError(Exception):
    """Base of everything that the client raises."""

    outcome: Outcome = "unknown"
    retryable: bool = False
    #: For how long the server that answered asks to be left alone.
    retry_after_s: float = 0.0

    @property
    def is_transient(self) -> bool:
        """Whether repeating the request may end better. Every request here can be repeated."""
        return self.retryable or self.outcome == "unknown"


class NoAnswer(SteleError):
    """A server can't be reached, hung up, or took too long."""

    retryable = True

    def __init__(self, detail: str, outcome: Outcome) -> None:
        super().__init__(detail)
        self.outcome = outcome


class NotStele(SteleError):
    """What answers is not a document API."""

    outcome = "not_applied"


class ProblemError(SteleError):
    """The server says what is wrong. ``problem`` is all that it says."""

    code: ClassVar[str] = ""

    def __init__(self, problem: Problem) -> None:
        super().__init__(f"{problem.title}: {problem.detail} ({problem.code})")
        self.problem = problem
        self.outcome = problem.outcome
        self.retryable = problem.retryable


class MalformedRequest(ProblemError):
    """The request was not valid HTTP."""

    code = "malformed-request"


class MalformedJson(ProblemError):
    """The body was not valid JSON."""

    code = "malformed-json"


class InvalidId(ProblemError):
    """What was asked for is not a document id."""

    code = "invalid-id"


class InvalidQuery(ProblemError):
    """The query string is not understood."""

    code = "invalid-query"


class InvalidConsistency(ProblemError):
    """More replicas were asked for than there are."""

    code = "invalid-consistency"


class InvalidHeader(ProblemError):
    """A request header is not understood."""

    code = "invalid-header"


class InvalidSession(ProblemError):
    """The session token is not one of this cluster's."""

    code = "invalid-session"


class NotFound(ProblemError):
    """There is no such document."""

    code = "not-found"


class NoSuchPage(ProblemError):
    """Nothing is served at this path."""

    code = "no-such-page"


class MethodNotAllowed(ProblemError):
    """The method is not allowed at this path."""

    code = "method-not-allowed"


class NotAcceptable(ProblemError):
    """Only JSON is served."""

    code = "not-acceptable"


class RequestTimeout(ProblemError):
    """The request did not arrive in time."""

    code = "request-timeout"


class Deleted(ProblemError):
    """The document is deleted, or its time to live has passed; so is what the key had made."""

    code = "deleted"


class ContentTooLarge(ProblemError):
    """The content is longer than 2,048 bytes in UTF-8."""

    code = "content-too-large"


class BodyTooLarge(ProblemError):
    """The request's body is too long."""

    code = "body-too-large"


class TargetTooLong(ProblemError):
    """The request's path and query are too long."""

    code = "target-too-long"


class UnsupportedMediaType(ProblemError):
    """The body has to be plain JSON."""

    code = "unsupported-media-type"


class ExpectationFailed(ProblemError):
    """The expectation of the request can't be met."""

    code = "expectation-failed"


class InvalidDocument(ProblemError):
    """A field is missing, unknown, of the wrong type or out of range."""

    code = "invalid-document"


class KeyReused(ProblemError):
    """The idempotency key belongs to another body."""

    code = "key-reused"


class TooManyRequests(ProblemError):
    """Too many requests are in flight."""

    code = "too-many-requests"


class Overloaded(ProblemError):
    """The node has too much to do."""

    code = "overloaded"


class HeadersTooLarge(ProblemError):
    """The request's headers are too large."""

    code = "headers-too-large"


class Internal(ProblemError):
    """The server failed, and has logged it with the trace id."""

    code = "internal"


class MethodNotImplemented(ProblemError):
    """The method or the transfer coding is unknown."""

    code = "not-implemented"


class NodeLost(ProblemError):
    """The node that served the request was lost; what became of it is not known."""

    code = "node-lost"


class Unavailable(ProblemError):
    """Too few replicas can take part."""

    code = "unavailable"


class SessionUnreachable(ProblemError):
    """What this session has seen can't be reached; nothing older is shown."""

    code = "session-unreachable"


class TooManyConnections(ProblemError):
    """The server has too many connections."""

    code = "too-many-connections"


class CorruptRecord(ProblemError):
    """No sound copy could be read."""

    code = "corrupt-record"


class WriteTimeout(ProblemError):
    """Too few replicas confirmed the write in time."""

    code = "write-timeout"


class ReadTimeout(ProblemError):
    """Too few replicas answered in time."""

    code = "read-timeout"


class AnswerTimeout(ProblemError):
    """No node answered within the time that the balancer in front waits."""

    code = "no-answer"


class HttpVersionNotSupported(ProblemError):
    """Only HTTP/1.1 and HTTP/1.0 are spoken."""

    code = "http-version-not-supported"


class DiskLow(ProblemError):
    """The disk is nearly full; reads and deletes still work."""

    code = "disk-low"


PROBLEM_CLASSES: Final[Mapping[str, type[ProblemError]]] = {
    kind.code: kind for kind in ProblemError.__subclasses__()
}


def error_of(problem: Problem) -> ProblemError:
    """The exception of a problem; of a code that this version does not know, the base class."""
    return PROBLEM_CLASSES.get(problem.code, ProblemError)(problem)
