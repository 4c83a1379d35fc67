"""The asynchronous client; the synchronous one (``sync``) runs this one on a thread of its own.

A request goes to a server that ``endpoints`` chooses. When it fails and ``retrying`` says so, it
goes, the same in every byte, to the next one, until it succeeds, its error is final, its deadline
is near or the budget of retries is spent.
"""

import asyncio
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from random import Random
from types import TracebackType
from typing import Final, Self, TypedDict, Unpack

import msgspec

from docservice.client import wire
from docservice.client.endpoints import Endpoint, Endpoints
from docservice.client.errors import NoAnswer, SessionUnreachable, SteleError
from docservice.client.model import CreatedDocument, Document, How, NewDocument
from docservice.client.retrying import Budget, Retrying
from docservice.client.session import BULK_KNOWN, Session
from docservice.client.transport import HttpTransport, Transport
from docservice.client.wire import Answer, Operation, Request, Result

#: Of a try's time, what the server is told: its own refusal comes within the rest.
_TOLD_SHARE: Final = 0.9
_KEY_BYTES: Final = 16
#: Where all servers are, when no region is named.
_SOMEWHERE: Final = "default"

Progress = Callable[[int], None]


class Options(TypedDict, total=False):
    """How a client is to behave; what is left out is as its comment says."""

    #: The region to prefer; the first one.
    region: str
    #: For a whole request, with all its retries; 10.
    deadline_s: float
    #: For requests that ask for nothing else; as the cluster is set.
    how: How
    #: How requests are repeated; see its fields.
    retrying: Retrying
    #: To one server; 32.
    connections_max: int
    #: Called for each request, in its context: the W3C trace context to pass on; none.
    traceparent: Callable[[], str | None]


class AsyncClient:
    """Creates, reads and deletes documents. ``async with AsyncClient([...]) as client:``.

    Args:
        endpoints: URLs of servers, such as ``http://127.0.0.1:8101``; by region if there are more
            than one, the nearest first.
        options: See ``Options``.
    """

    def __init__(
        self,
        endpoints: Sequence[str] | Mapping[str, Sequence[str]],
        **options: Unpack[Options],
    ) -> None:
        by_region = endpoints if isinstance(endpoints, Mapping) else {_SOMEWHERE: endpoints}
        self._random = Random(secrets.randbits(64))  # noqa: S311 it spreads load
        self._region = options.get("region")
        self._endpoints = Endpoints(by_region, self._region, self._random)
        self._deadline_s = options.get("deadline_s", 10.0)
        self._how = options.get("how", How())
        self._retrying = options.get("retrying", Retrying())
        self._budget = Budget(self._retrying)
        self._connections_max = options.get("connections_max", 32)
        self._traceparent = options.get("traceparent")
        self._session: ContextVar[Session | None] = ContextVar("session", default=None)
        self._transport: Transport

    async def __aenter__(self) -> Self:
        self._transport = HttpTransport(self._connections_max)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        await self._transport.close()

    @property
    def retry_count(self) -> int:
        """Requests that were sent again, since the client was made."""
        return self._budget.spent_count

    @contextmanager
    def session(self, token: str = "") -> Iterator[Session]:
        """Within this, no answer is older than what earlier ones have shown.

        Tasks that are started within it take part. ``token`` is that of a session to go on with.
        """
        session = Session(token)
        before = self._session.set(session)
        try:
            yield session
        finally:
            self._session.reset(before)

    async def create(
        self,
        content: str,
        *,
        ttl_seconds: int | None = None,
        key: str | None = None,
        how: How | None = None,
    ) -> CreatedDocument:
        """Create a document.

        Args:
            content: At most 2,048 bytes in UTF-8.
            ttl_seconds: After this the document deletes itself.
            key: Names the create: another one with it, at any time, gives the same document. None:
                a new one, so that at least the retries of this call make no second document.
            how: How many replicas are asked.

        Raises:
            KeyReused, Deleted: the key is that of another, or of a deleted document.
            SteleError: see ``docservice.client.errors``.
        """
        document = NewDocument(content, ttl_seconds, key or _new_key())
        answer = await self._call(wire.create_request(document, how or self._how))
        created = wire.created_in(answer)
        self._note((created.id,), answer)
        return created

    async def get(self, document_id: str, *, how: How | None = None) -> Document:
        """Read a document.

        Raises:
            NotFound, Deleted: there is none, or none any more.
            SteleError: see ``docservice.client.errors``.
        """
        request = wire.document_request("GET", document_id, how or self._how)
        return wire.document_in(await self._call(request))

    async def delete(self, document_id: str, *, how: How | None = None) -> None:
        """Delete a document, also when it is unknown or deleted already.

        Raises:
            SteleError: see ``docservice.client.errors``.
        """
        await self._call(wire.document_request("DELETE", document_id, how or self._how))

    # Many at once: as many as fit are one request, and ``concurrency`` of these are under way.

    async def create_many(
        self,
        documents: Iterable[str | NewDocument],
        *,
        progress: Progress | None = None,
        concurrency: int = 4,
        how: How | None = None,
    ) -> list[CreatedDocument | SteleError]:
        """Create documents; what became of each, in order. ``progress`` hears how many more are."""
        news = (NewDocument(one) if isinstance(one, str) else one for one in documents)
        creates = (wire.create_operation(new, new.key or _new_key()) for new in news)
        results = await self._many(creates, progress, concurrency, how)
        return [one for one in results if isinstance(one, CreatedDocument | SteleError)]

    async def get_many(
        self,
        document_ids: Iterable[str],
        *,
        progress: Progress | None = None,
        concurrency: int = 4,
        how: How | None = None,
    ) -> list[Document | SteleError]:
        """Read documents; what became of each, in order. ``progress`` hears how many more are."""
        gets = ({"op": "get", "id": one} for one in document_ids)
        results = await self._many(gets, progress, concurrency, how)
        return [one for one in results if isinstance(one, Document | SteleError)]

    async def delete_many(
        self,
        document_ids: Iterable[str],
        *,
        progress: Progress | None = None,
        concurrency: int = 4,
        how: How | None = None,
    ) -> list[SteleError | None]:
        """Delete documents; for each, in order, None or what went wrong."""
        deletes = ({"op": "delete", "id": one} for one in document_ids)
        results = await self._many(deletes, progress, concurrency, how)
        return [one for one in results if one is None or isinstance(one, SteleError)]

    async def _many(
        self,
        operations: Iterator[Operation],
        progress: Progress | None,
        concurrency: int,
        how: How | None,
    ) -> list[Result]:
        results: dict[int, list[Result]] = {}
        batches = enumerate(self._batches(operations))

        async def take_turns() -> None:
            for number, batch in batches:
                results[number] = await self._bulk(batch, how or self._how)
                if progress is not None:
                    progress(len(batch))

        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(concurrency):
                    tasks.create_task(take_turns())
        except* Exception as errors:  # noqa: BLE001 what the caller's documents or progress raise
            raise errors.exceptions[0] from None
        return [result for number in range(len(results)) for result in results[number]]

    def _batches(self, operations: Iterator[Operation]) -> Iterator[list[Operation]]:
        """As many operations as one request takes, and as its session can speak for."""
        session = self._session.get()
        batch: list[Operation] = []
        filled = 0.0
        for operation in operations:
            filled += wire.share(operation)
            full = filled > 1.0
            if session is not None:
                ids = [one["id"] for one in (*batch, operation) if "id" in one]
                full = full or len(batch) == BULK_KNOWN or not session.has_room_for(ids)
            if batch and full:
                yield batch
                batch, filled = [], wire.share(operation)
            batch.append(operation)
        if batch:
            yield batch

    async def _bulk(self, operations: list[Operation], how: How) -> list[Result]:
        """One request, and again what may end better, until the deadline."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self._deadline_s
        results: list[Result] = [None] * len(operations)
        pending = list(range(len(operations)))
        retries = 0
        while pending:
            request = wire.bulk_request([operations[index] for index in pending], how)
            try:
                answer = await self._call(request, deadline_s)
                found = wire.results_in(answer, len(pending))
            except SteleError as error:
                for index in pending:
                    results[index] = error
                break
            for index, result in zip(pending, found, strict=True):
                results[index] = result
            shown = [index for index in pending if wire.shows(results[index])]
            self._note([wire.id_of(operations[i], results[i]) for i in shown], answer)
            errors = {index: results[index] for index in pending}
            pending = [
                index
                for index, error in errors.items()
                if isinstance(error, SteleError) and error.is_transient
            ]
            wait_s = self._retrying.backoff_s(retries, self._random.random())
            retries += 1
            if not pending or loop.time() + wait_s >= deadline_s or not self._budget.spend():
                break
            await asyncio.sleep(wait_s)
        return results

    # One request

    async def _call(self, request: Request, deadline_s: float | None = None) -> Answer:
        """Send a request until it succeeds. Raises SteleError."""
        loop = asyncio.get_running_loop()
        if deadline_s is None:
            deadline_s = loop.time() + self._deadline_s
        headers = self._headers(request)
        self._budget.earn()
        tried: list[Endpoint] = []
        retries = 0
        maybe_applied = False
        before: SteleError | None = None
        while True:
            endpoint, rests_s = self._endpoints.choose(loop.time(), tried)
            if rests_s and loop.time() + rests_s < deadline_s:
                await asyncio.sleep(rests_s)
            try:
                return await self._try(endpoint, request, headers, deadline_s)
            except SteleError as said:
                maybe_applied = maybe_applied or said.outcome == "unknown"
                if not said.is_transient:
                    raise
                # A try that the deadline cut short says less than the one before it.
                cut_short = isinstance(said, NoAnswer) and loop.time() >= deadline_s
                error = before if before is not None and cut_short else said
                before = error
                if maybe_applied:  # an earlier try may have been carried out all the same
                    error.outcome = "unknown"
                wait_s = self._retrying.backoff_s(retries, self._random.random())
                retries += 1
                tried.append(endpoint)
                if isinstance(error, SessionUnreachable):  # it spoke for its whole region
                    tried += self._endpoints.beside(endpoint)
                _, rests_s = self._endpoints.choose(loop.time(), tried)
                wait_s = max(wait_s, rests_s)
                if loop.time() + wait_s >= deadline_s or not self._budget.spend():
                    raise error from said.__cause__
                await asyncio.sleep(wait_s)

    async def _try(
        self, endpoint: Endpoint, request: Request, headers: dict[str, str], deadline_s: float
    ) -> Answer:
        """Ask one server once. Raises SteleError."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        timeout_s = max(min(self._retrying.try_timeout_s, deadline_s - began_s), 0.001)
        if self._region is not None:
            headers["Stele-Region"] = endpoint.region
        headers["Stele-Timeout-Ms"] = str(max(int(timeout_s * _TOLD_SHARE * 1000), 1))
        try:
            answer = await self._transport.send(endpoint.url, request, headers, timeout_s)
        except NoAnswer:
            self._endpoints.failed(endpoint, loop.time())
            raise
        self._endpoints.answered(endpoint, loop.time() - began_s)
        answer = msgspec.structs.replace(answer, brought=headers.get("Stele-Session", ""))
        if answer.status < 300:
            if not request.is_bulk:
                self._note(request.document_ids, answer)
            return answer
        error = wire.error_in(answer)
        if wire.shows(error):
            self._note(request.document_ids, answer)
        if error.retry_after_s:
            self._endpoints.rests(endpoint, loop.time() + error.retry_after_s)
        raise error

    def _headers(self, request: Request) -> dict[str, str]:
        headers = wire.headers_of(request)
        traceparent = self._traceparent() if self._traceparent is not None else None
        if traceparent is not None:
            headers["traceparent"] = traceparent
        session = self._session.get()
        tokens = session.header(request.document_ids) if session is not None else ""
        if tokens:
            headers["Stele-Session"] = tokens
        return headers

    def _note(self, document_ids: Iterable[str], answer: Answer) -> None:
        session = self._session.get()
        token = answer.headers.get("stele-session")
        if session is not None and token is not None:
            session.note(document_ids, token, answer.brought)


def _new_key() -> str:
    return secrets.token_hex(_KEY_BYTES)
