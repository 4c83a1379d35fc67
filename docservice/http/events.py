"""The life of documents in the log: a line for a create and a delete, as long as they are few.

Rules
-----
1. Of each kind at most so many lines a second are written ([log] documents_per_s). What was left
   out is counted, and the next line says how many: ``unlogged``. Metrics count all of them.
2. A line has the id, sizes and times, never content and never an idempotency key. It has the
   request's id, as the client saw it, and its trace id where the client sent one.
"""

from collections.abc import Callable

from cluster.ids import format_document_id
from docservice.documents import Created
from docservice.http.headers import Headers, trace_id
from kvnode.log import Log
from kvnode.ports import Clock
from kvnode.record import NEVER_MS
from kvnode.results import Stored
from kvnode.sampling import Sampler

#: Says which id the answer that was formatted last has.
RequestId = Callable[[], str]


class DocumentEvents:
    """The events of one listener."""

    def __init__(self, log: Log, clock: Clock, lines_per_s: int) -> None:
        self._log = log
        self._now_s = clock.monotonic_s
        self._creates = Sampler(lines_per_s)
        self._deletes = Sampler(lines_per_s)

    def created(self, created: Created, headers: Headers, request_id: RequestId | None) -> None:
        """A create has been answered. ``request_id``: None within a bulk request."""
        if created.replayed:
            return
        unlogged = self._creates.admit(self._now_s())
        if unlogged is not None:
            create = created.create
            fields: dict[str, object] = {"size_bytes": len(create.content)}
            if create.expires_at_ms != NEVER_MS:
                fields["expires_at_ms"] = create.expires_at_ms
            said = _fields(created.document_id, created.stored, headers, request_id, unlogged)
            self._log.info("document.created", **said, **fields)

    def deleted(
        self, document_id: bytes, stored: Stored, headers: Headers, request_id: RequestId | None
    ) -> None:
        """A delete has been answered; the document may never have been there."""
        unlogged = self._deletes.admit(self._now_s())
        if unlogged is not None:
            said = _fields(document_id, stored, headers, request_id, unlogged)
            self._log.info("document.deleted", **said)


def _fields(
    document_id: bytes,
    stored: Stored,
    headers: Headers,
    request_id: RequestId | None,
    unlogged: int,
) -> dict[str, object]:
    """What both kinds say. Only of lines that are written: looking at headers costs more."""
    fields: dict[str, object] = {
        "document": format_document_id(document_id),
        "acks": stored.acked,
        "hints": stored.hints,
    }
    if request_id is not None:
        fields["request_id"] = request_id()
    if trace := trace_id(headers):
        fields["trace_id"] = trace
    if unlogged:
        fields["unlogged"] = unlogged
    return fields
