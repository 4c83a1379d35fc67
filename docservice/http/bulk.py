"""Many operations in one request.

Rules
-----
1. Operations run side by side, so that what they write can share a group commit. Their effects are
   in no order among themselves; their results are in the order of the request.
2. Each succeeds or fails alone. There is no transaction.
3. A bounded number of tasks takes operations one after the other: a task for each would cost more
   than many of the operations.
"""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Final

from cluster.ids import DocumentId, format_document_id, parse_document_id
from docservice.documents import DocumentService, Quorums
from docservice.http.bodies import CreateOperation, DeleteOperation, GetOperation, Operation
from docservice.http.headers import Headers
from docservice.http.problems import RequestRefused
from docservice.http.replies import ReplyWriter

#: Operations of one request that are under way at once.
CONCURRENT_MAX: Final = 256


class BulkRunner:
    """Carries out bulk requests."""

    def __init__(self, service: DocumentService, replies: ReplyWriter) -> None:
        self._service = service
        self._replies = replies
        self._representation = replies.representation

    async def run(
        self,
        operations: Sequence[Operation | RequestRefused],
        *,
        quorums: Quorums,
        deadline_s: float,
        headers: Headers,
    ) -> bytes:
        """A ``BulkResponse``: one result an operation, in order; a refusal is its own result.

        ``deadline_s`` is one for all; ``headers`` are the request's.
        """
        results = [b""] * len(operations)
        failures = 0
        pending = iter(enumerate(operations))

        async def work(pending: Iterator[tuple[int, Operation | RequestRefused]]) -> None:
            nonlocal failures
            for index, operation in pending:
                try:
                    results[index] = await self._run_one(operation, quorums, deadline_s)
                except Exception as error:  # noqa: BLE001 - one operation fails alone; see answer
                    failures += 1
                    problem = self._replies.problem(error, headers)
                    results[index] = self._representation.bulk_failed(problem)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(min(len(operations), CONCURRENT_MAX)):
                tasks.create_task(work(pending))
        return b'{"errors":%b,"results":[%b]}' % (
            b"true" if failures else b"false",
            b",".join(results),
        )

    async def _run_one(
        self, operation: Operation | RequestRefused, quorums: Quorums, deadline_s: float
    ) -> bytes:
        match operation:
            case RequestRefused():
                raise operation
            case CreateOperation():
                created = await self._service.create(
                    operation.content,
                    ttl_s=operation.ttl_seconds or None,
                    idempotency_key=operation.idempotency_key or None,
                    quorums=quorums,
                    deadline_s=deadline_s,
                )
                return self._representation.bulk_created(
                    format_document_id(created.document_id), created
                )
            case GetOperation():
                found = await self._service.read(
                    _parse_id(operation.id), quorums=quorums, deadline_s=deadline_s
                )
                return self._representation.bulk_got(operation.id, found.create)
            case DeleteOperation():
                await self._service.delete(
                    _parse_id(operation.id), quorums=quorums, deadline_s=deadline_s
                )
                return b'{"status":204}'


def _parse_id(text: str) -> DocumentId:
    document_id = parse_document_id(text)
    if document_id is None:
        raise RequestRefused("invalid-id")
    return document_id
