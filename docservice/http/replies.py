"""Answers as bytes.

Rules
-----
1. A head is one formatted string: status line and headers, in a fixed order, without a dictionary
   in between. Nothing of the request is ever put into one.
2. Connection and Date are left to the connection that sends the answer; so is leaving out the body
   when HEAD was asked.
3. Every answer carries its own X-Request-Id, never the client's; a problem's ``instance`` ends
   with it.
"""

from http import HTTPStatus
from typing import Final

import msgspec

from docservice.documents import Created, Found
from docservice.http.headers import Headers, trace_id
from docservice.http.problems import MEDIA_TYPE, Problem, RequestRefused, problem_of
from docservice.http.representation import Representation
from docservice.session import Session, Tokens
from kvnode.log import Log
from kvnode.ports import Entropy
from kvnode.results import Fetched, Stored

_INSTANCE: Final = "urn:stele:request:"
_JSON: Final = "Content-Type: application/json\r\n"
_DOCUMENT: Final = f"{_JSON}Cache-Control: private, no-cache\r\n"
_REPLAYED: Final = "Idempotency-Replayed: true\r\n"
_REPRESENTATION: Final = "Preference-Applied: return=representation\r\n"
_PROBLEM: Final = f"Content-Type: {MEDIA_TYPE}\r\nCache-Control: no-store\r\n"
_RETRY_AFTER: Final = {429: "Retry-After: 1\r\n", 503: "Retry-After: 1\r\n"}


class Reply(msgspec.Struct, gc=False):
    """An answer, ready to be written."""

    status: int
    #: Status line and header lines, each ending in CRLF.
    head: bytes
    body: bytes = b""
    #: For the metrics: the pattern of the path; set by who routed the request.
    route: str = ""
    #: Of a problem: its code, and the trace that it names.
    code: str = ""
    trace_id: str = ""
    #: Whether it has a span already.
    traced: bool = False


class ReplyWriter:
    """Formats answers for one listener."""

    def __init__(self, *, region: str, tokens: Tokens, entropy: Entropy, log: Log) -> None:
        self._token = tokens.write
        self.representation = Representation()
        self._entropy = entropy
        self._log = log
        self._encode = msgspec.json.Encoder().encode
        # Unique over processes and restarts: a random prefix, then a count.
        self._id_prefix = f"{entropy.random_bytes(6).hex()}-"
        self._id_count = 0
        # The name of a region is checked by the settings: it can't hold a line break.
        always = f"Server: stele\r\nStele-Region: {region}\r\nX-Request-Id: "
        self._starts = {
            status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n{always}"
            for status in HTTPStatus
        }

    def document(self, id_text: str, etag: str, found: Found, session: Session) -> Reply:
        """200 with the whole document."""
        body = self.representation.document(id_text, found.create)
        head = (
            f"{self._start(200)}{_DOCUMENT}ETag: {etag}\r\n"
            f"{_answers(found.fetched)}{self._session(session)}"
            f"Content-Length: {len(body)}\r\n"
        )
        return Reply(200, head.encode(), body)

    def not_modified(self, etag: str, found: Found, session: Session) -> Reply:
        """304: the client has these bytes already."""
        head = (
            f"{self._start(304)}Cache-Control: private, no-cache\r\nETag: {etag}\r\n"
            f"{_answers(found.fetched)}{self._session(session)}"
        )
        return Reply(304, head.encode())

    def created(
        self, id_text: str, created: Created, session: Session, *, representation: bool
    ) -> Reply:
        """201. A replay gets the same body and a header that says so."""
        write = self.representation.document if representation else self.representation.created
        body = write(id_text, created.create)
        head = (
            f"{self._start(201)}{_JSON}Location: /documents/{id_text}\r\n"
            f'ETag: "{created.create.checksum.hex()}"\r\n'
            f"{_REPLAYED if created.replayed else ''}{_REPRESENTATION if representation else ''}"
            f"{_acks(created.stored)}{self._session(session)}Content-Length: {len(body)}\r\n"
        )
        return Reply(201, head.encode(), body)

    def deleted(self, stored: Stored, session: Session) -> Reply:
        """204."""
        head = f"{self._start(204)}{_acks(stored)}{self._session(session)}"
        return Reply(204, head.encode())

    def bulk(self, body: bytes, session: Session) -> Reply:
        """200 with the results of many operations."""
        return self.ok(body, "application/json", self._session(session))

    def ok(self, body: bytes, media_type: str, headers: str = "") -> Reply:
        """200 with anything; ``headers`` are more lines, each ending in CRLF."""
        head = (
            f"{self._start(200)}Content-Type: {media_type}\r\n{headers}"
            f"Content-Length: {len(body)}\r\n"
        )
        return Reply(200, head.encode(), body)

    def found(self, location: str) -> Reply:
        """302 to a path of this server."""
        head = f"{self._start(302)}Location: {location}\r\nContent-Length: 0\r\n"
        return Reply(302, head.encode())

    def problem(self, error: Exception, headers: Headers | None) -> Problem:
        """What the client is told of an error; one that nobody raised on purpose is logged.

        ``headers`` are those of the request, None when it had not got that far.
        """
        trace = trace_id(headers) if headers is not None else None
        problem = problem_of(
            error,
            instance=f"{_INSTANCE}{self._next_id()}",
            trace_id=trace or self._entropy.random_bytes(16).hex(),
        )
        if problem.code == "internal":
            self._log.error("request.failed", trace_id=problem.trace_id, exc_info=error)
        return problem

    def refused(
        self, error: Exception, headers: Headers | None, session: Session | None = None
    ) -> Reply:
        """The answer to a request that failed; ``session`` is what its client has seen, if known.

        So a client keeps the token of its last answer, whatever that was.
        """
        problem = self.problem(error, headers)
        body = self._encode(problem)
        more = error.headers if isinstance(error, RequestRefused) else ""
        if session is not None:
            more += self._session(session)
        head = (
            f"{self._starts[problem.status]}{problem.instance.removeprefix(_INSTANCE)}\r\n"
            f"{_PROBLEM}{_RETRY_AFTER.get(problem.status, '')}{more}"
            f"Content-Length: {len(body)}\r\n"
        )
        return Reply(
            problem.status, head.encode(), body, code=problem.code, trace_id=problem.trace_id
        )

    def _session(self, session: Session) -> str:
        return f"Stele-Session: {self._token(session)}\r\n"

    def request_id(self) -> str:
        """The X-Request-Id of the answer that was formatted last."""
        return f"{self._id_prefix}{self._id_count:x}"

    def _start(self, status: int) -> str:
        return f"{self._starts[status]}{self._next_id()}\r\n"

    def _next_id(self) -> str:
        self._id_count += 1
        return self.request_id()


def _answers(fetched: Fetched) -> str:
    return f"Stele-Acks: {fetched.answered}/{fetched.required}; n={fetched.copies}; hints=0\r\n"


def _acks(stored: Stored) -> str:
    return (
        f"Stele-Acks: {stored.acked}/{stored.required}; n={stored.copies}; hints={stored.hints}\r\n"
    )
