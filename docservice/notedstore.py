"""Taking notes of a traced request's calls to the store: what was asked for, what came of it."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from cluster.ids import format_document_id
from docservice.store import DocumentStore
from kvnode.errors import StoreError, Unavailable
from kvnode.record import Record, Sighting
from kvnode.results import Fetched, Stored
from kvnode.tracing import OpenSpan, Value

#: The store of one call: what it does becomes parts of the call's span.
Noting = Callable[[OpenSpan], DocumentStore]


class NotedStore:
    """A ``DocumentStore`` for one request, with a span for each call.

    Args:
        noting: The store behind it.
        request: The request's span.
    """

    def __init__(self, noting: Noting, request: OpenSpan) -> None:
        self._noting = noting
        self._request = request

    def mint_partition(self) -> int | None:
        """See ``DocumentStore``."""
        return self._noting(self._request).mint_partition()

    def create(
        self,
        document_id: bytes,
        record: Record,
        *,
        keyed: bool,
        write_quorum: int,
        sloppy: bool,
        deadline_s: float,
        each_region: bool = False,
    ) -> Awaitable[Stored]:
        """See ``DocumentStore``."""
        how = {"write_quorum": write_quorum, "sloppy": sloppy, "each_region": each_region}
        span = self._span("coordinator.create", document_id, **how, keyed=keyed)
        with _failures_of(span):
            answer = self._noting(span).create(
                document_id,
                record,
                keyed=keyed,
                write_quorum=write_quorum,
                sloppy=sloppy,
                deadline_s=deadline_s,
                each_region=each_region,
            )
        return _stored(span, answer)

    async def read(
        self,
        document_id: bytes,
        *,
        read_quorum: int,
        sloppy: bool,
        deadline_s: float,
        seen: Sighting | None = None,
        each_region: bool = False,
    ) -> Fetched:
        """See ``DocumentStore``."""
        how = {"read_quorum": read_quorum, "sloppy": sloppy, "each_region": each_region}
        span = self._span("coordinator.read", document_id, **how, session=seen is not None)
        with _failures_of(span):
            fetched = await self._noting(span).read(
                document_id,
                read_quorum=read_quorum,
                sloppy=sloppy,
                deadline_s=deadline_s,
                seen=seen,
                each_region=each_region,
            )
        span.note(answered=fetched.answered, required=fetched.required)
        span.note(copies=fetched.copies, found=fetched.record is not None)
        span.end()
        return fetched

    async def delete(
        self,
        document_id: bytes,
        record: Record,
        *,
        write_quorum: int,
        sloppy: bool,
        deadline_s: float,
        each_region: bool = False,
    ) -> Stored:
        """See ``DocumentStore``."""
        how = {"write_quorum": write_quorum, "sloppy": sloppy, "each_region": each_region}
        span = self._span("coordinator.delete", document_id, **how)
        with _failures_of(span):
            answer = self._noting(span).delete(
                document_id,
                record,
                write_quorum=write_quorum,
                sloppy=sloppy,
                deadline_s=deadline_s,
                each_region=each_region,
            )
        return await _stored(span, answer)

    def _span(self, name: str, document_id: bytes, **attributes: Value) -> OpenSpan:
        span = self._request.child(name)
        span.note(document=format_document_id(document_id), **attributes)
        return span


async def _stored(span: OpenSpan, answer: Awaitable[Stored]) -> Stored:
    with _failures_of(span):
        stored = await answer
    span.note(acked=stored.acked, required=stored.required)
    span.note(copies=stored.copies, hints=stored.hints)
    span.end()
    return stored


@contextmanager
def _failures_of(span: OpenSpan) -> Iterator[None]:
    """What is raised ends the span. What the client has to answer for is no failure of the call."""
    try:
        yield
    except StoreError as error:
        span.note(code=error.code, outcome=error.outcome)
        if isinstance(error, Unavailable):
            span.note(acked=error.acked, required=error.required)
        span.end(error.code if error.retryable else "")
        raise
    except BaseException:
        span.end("abandoned")
        raise
