"""Many operations in one request.

Rules
-----
1. Operations run side by side, so that what they write can share a group commit. Their effects are
   in no order among themselves; their results are in the order of the request.
2. Each succeeds or fails alone. There is no transaction.
3. They share the request's session: what it knew counts for each of them, and it knows in the end
   what came of those that were answered last.
4. A bounded number is under way. A create takes no task: one is started after the other, and the
   answers are awaited in order; a task for each would cost more than the create.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final

from cluster.ids import DocumentId, format_document_id, parse_document_id
from docservice.documents import Creation, DocumentService, Found, Quorums
from docservice.http.bodies import CreateOperation, DeleteOperation, GetOperation, Operation
from docservice.http.events import DocumentEvents
from docservice.http.headers import Headers
from docservice.http.problems import RequestRefused
from docservice.http.replies import ReplyWriter
from docservice.session import Session
from kvnode.results import Stored

#: Operations of one request that are under way at once.
CONCURRENT_MAX: Final = 256

#: The answer of an operation that was started, and what makes its result of it.
_UnderWay = tuple["asyncio.Future[Any]", Callable[[Any], bytes]]


class BulkRunner:
    """Carries out bulk requests."""

    def __init__(
        self, service: DocumentService, replies: ReplyWriter, events: DocumentEvents
    ) -> None:
        self._service = service
        self._replies = replies
        self._events = events
        self._representation = replies.representation

    async def run(
        self,
        operations: Sequence[Operation | RequestRefused],
        *,
        quorums: Quorums,
        deadline_s: float,
        session: Session,
        headers: Headers,
    ) -> bytes:
        """A ``BulkResponse``: one result an operation, in order; a refusal is its own result.

        ``deadline_s`` is one for all; ``headers`` are the request's.
        """
        results: list[bytes] = []
        failures = 0
        under_way: deque[_UnderWay] = deque()

        async def finish_oldest() -> None:
            nonlocal failures
            answer, result_of = under_way.popleft()
            try:
                results.append(result_of(await answer))
            except Exception as error:  # noqa: BLE001 - one operation fails alone; see answer
                failures += 1
                problem = self._replies.problem(error, headers)
                results.append(self._representation.bulk_failed(problem))

        try:
            for operation in operations:
                if len(under_way) == CONCURRENT_MAX:
                    await finish_oldest()
                under_way.append(self._start(operation, quorums, deadline_s, session, headers))
            while under_way:
                await finish_oldest()
        finally:  # nobody waits any more for what a cancellation left here
            for answer, _ in under_way:
                answer.cancel()
        return b'{"errors":%b,"results":[%b]}' % (
            b"true" if failures else b"false",
            b",".join(results),
        )

    def _start(
        self,
        operation: Operation | RequestRefused,
        quorums: Quorums,
        deadline_s: float,
        session: Session,
        headers: Headers,
    ) -> _UnderWay:
        """Start one operation; one that can't be started has its answer already."""
        service = self._service
        answer: Awaitable[Any]
        result_of: Callable[[Any], bytes]
        if isinstance(operation, RequestRefused):
            return _failed(operation), _fails
        try:
            match operation:
                case CreateOperation():
                    creation = service.begin_create(
                        operation.content,
                        ttl_s=operation.ttl_seconds or None,
                        idempotency_key=operation.idempotency_key or None,
                        quorums=quorums,
                        deadline_s=deadline_s,
                        session=session,
                    )
                    answer = creation.answer
                    result_of = partial(self._created, creation, headers)
                case GetOperation():
                    document_id = _parse_id(operation.id)
                    answer = service.read(
                        document_id, quorums=quorums, deadline_s=deadline_s, session=session
                    )
                    result_of = partial(self._got, operation.id)
                case DeleteOperation():
                    document_id = _parse_id(operation.id)
                    answer = service.delete(
                        document_id, quorums=quorums, deadline_s=deadline_s, session=session
                    )
                    result_of = partial(self._deleted, document_id, headers)
        except Exception as error:  # noqa: BLE001 - one operation fails alone; see answer
            return _failed(error), _fails
        return asyncio.ensure_future(answer), result_of

    def _created(self, creation: Creation, headers: Headers, stored: Stored) -> bytes:
        created = self._service.finish_create(creation, stored)
        self._events.created(created, headers, None)
        return self._representation.bulk_created(format_document_id(created.document_id), created)

    def _deleted(self, document_id: DocumentId, headers: Headers, stored: Stored) -> bytes:
        self._events.deleted(document_id, stored, headers, None)
        return b'{"status":204}'

    def _got(self, id_text: str, found: Found) -> bytes:
        return self._representation.bulk_got(id_text, found.create)


def _failed(error: Exception) -> "asyncio.Future[Any]":
    answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    answer.set_exception(error)
    return answer


def _fails(_: object) -> bytes:
    """What makes the result of an answer that never comes."""
    raise AssertionError("the answer was an exception")


def _parse_id(text: str) -> DocumentId:
    document_id = parse_document_id(text)
    if document_id is None:
        raise RequestRefused("invalid-id")
    return document_id
