"""The routes: parse, one call to the service, format.

Rules
-----
1. A target is compared as it was sent. Nothing is percent-decoded or normalised, so a document has
   one URL, and dots or encoded slashes are just not an id.
2. Every exception ends here, as the answer that the catalogue has for it. One that nobody raised on
   purpose is logged and answered 500.
3. A request's deadline counts from when its body is complete, and is handed to the store as it is.
"""

from copy import copy
from typing import Final

from cluster.ids import DocumentId, format_document_id, parse_document_id
from cluster.settings import HttpSettings
from docservice.documents import DocumentService, Quorums
from docservice.http.bodies import BULK_BYTES_MAX, CREATE_BYTES_MAX, BodyReader
from docservice.http.bulk import BulkRunner
from docservice.http.events import DocumentEvents
from docservice.http.exchange import ClientGone, Exchange
from docservice.http.headers import (
    IDEMPOTENCY_KEY,
    Headers,
    idempotency_key,
    matches_etag,
    require_json_accepted,
    require_json_body,
    session_of,
    timeout_ms,
    wants_representation,
)
from docservice.http.metrics import BULK, DOCUMENT, DOCUMENTS, UNMATCHED
from docservice.http.pages import Pages
from docservice.http.problems import RequestRefused
from docservice.http.query import parse_query
from docservice.http.replies import Reply, ReplyWriter
from docservice.session import Session, Tokens
from kvnode.ports import Clock

_DOCUMENT_PREFIX: Final = "/documents/"
#: Query strings whose meaning is remembered. There are few worth sending.
_QUERIES_MAX: Final = 256


class DocumentApi:
    """Answers the requests of one listener."""

    def __init__(
        self,
        service: DocumentService,
        *,
        replies: ReplyWriter,
        tokens: Tokens,
        events: DocumentEvents,
        http: HttpSettings,
        clock: Clock,
    ) -> None:
        self._replies = replies
        self._tokens = tokens
        self._events = events
        self._clock = clock
        self._timeout_ms_max = http.request_timeout_ms
        self._bodies = BodyReader()
        self.use(service)
        self._pages = Pages(replies)
        self._quorums_by_query: dict[str, Quorums] = {"": service.default_quorums}

    def over(self, service: DocumentService) -> "DocumentApi":
        """The same over another service: that of a traced request."""
        other = copy(self)
        other.use(service)
        return other

    def use(self, service: DocumentService) -> None:
        """Answer by these use cases from now on."""
        self._service = service
        self._bulk_runner = BulkRunner(service, self._replies, self._events)

    async def answer(self, exchange: Exchange) -> Reply:
        """The answer to any request at all.

        Raises:
            ClientGone: there is nobody to answer.
        """
        message = exchange.message
        target, _, query = message.path.partition("?")
        if not target.startswith("/"):
            target = _path_of_absolute_form(target)
        route, session = UNMATCHED, None
        try:
            if target.startswith(_DOCUMENT_PREFIX):
                name = target[len(_DOCUMENT_PREFIX) :]
                route = BULK if name == "_bulk" else DOCUMENT
                session = session_of(message.headers, self._tokens)
                if route == BULK:
                    reply = await self._bulk(exchange, query, session)
                else:
                    reply = await self._document(exchange, name, query, session)
            elif target == DOCUMENTS:
                route = DOCUMENTS
                session = session_of(message.headers, self._tokens)
                reply = await self._create(exchange, query, session)
            else:
                route = self._pages.route(target)
                reply = self._pages.answer(message.method, target, message.headers)
        except ClientGone:
            raise
        except Exception as error:  # noqa: BLE001 - the last resort; logged where it is formatted
            reply = self._replies.refused(error, message.headers, session)
        reply.route = route
        return reply

    async def _document(self, exchange: Exchange, name: str, query: str, session: Session) -> Reply:
        method, headers = exchange.message.method, exchange.message.headers
        if method not in {"GET", "HEAD", "DELETE"}:
            raise _method_not_allowed("GET, HEAD, DELETE")
        document_id = parse_document_id(name)
        if document_id is None:
            raise RequestRefused("invalid-id")
        quorums = self._quorums(query)
        if method == "DELETE":
            stored = await self._service.delete(
                document_id,
                quorums=quorums,
                deadline_s=self._deadline_s(headers),
                session=session,
            )
            reply = self._replies.deleted(stored, session)
            self._events.deleted(document_id, stored, headers, self._replies.request_id)
            return reply
        require_json_accepted(headers)
        return await self._read(document_id, name, headers, quorums, session)

    async def _read(
        self,
        document_id: DocumentId,
        id_text: str,
        headers: Headers,
        quorums: Quorums,
        session: Session,
    ) -> Reply:
        found = await self._service.read(
            document_id, quorums=quorums, deadline_s=self._deadline_s(headers), session=session
        )
        etag = f'"{found.create.checksum.hex()}"'
        if matches_etag(headers, etag):
            return self._replies.not_modified(etag, found, session)
        return self._replies.document(id_text, etag, found, session)

    async def _create(self, exchange: Exchange, query: str, session: Session) -> Reply:
        headers = exchange.message.headers
        if exchange.message.method != "POST":
            raise _method_not_allowed("POST")
        require_json_body(headers)
        require_json_accepted(headers)
        key = idempotency_key(headers)
        quorums = self._quorums(query)
        timeout = timeout_ms(headers, self._timeout_ms_max)
        request = self._bodies.create(await exchange.read_body(CREATE_BYTES_MAX))
        created = await self._service.create(
            request.content,
            ttl_s=request.ttl_seconds or None,
            idempotency_key=key,
            quorums=quorums,
            deadline_s=self._clock.monotonic_s() + timeout / 1000,
            session=session,
        )
        reply = self._replies.created(
            format_document_id(created.document_id),
            created,
            session,
            representation=wants_representation(headers),
        )
        self._events.created(created, headers, self._replies.request_id)
        return reply

    async def _bulk(self, exchange: Exchange, query: str, session: Session) -> Reply:
        headers = exchange.message.headers
        if exchange.message.method != "POST":
            raise _method_not_allowed("POST")
        require_json_body(headers)
        require_json_accepted(headers)
        if IDEMPOTENCY_KEY in headers:
            raise RequestRefused(
                "invalid-header", "a bulk request has an idempotency_key for each operation"
            )
        quorums = self._quorums(query)
        timeout = timeout_ms(headers, self._timeout_ms_max)
        operations = self._bodies.bulk(await exchange.read_body(BULK_BYTES_MAX))
        deadline_s = self._clock.monotonic_s() + timeout / 1000
        body = await self._bulk_runner.run(
            operations, quorums=quorums, deadline_s=deadline_s, session=session, headers=headers
        )
        return self._replies.bulk(body, session)

    def _deadline_s(self, headers: Headers) -> float:
        return self._clock.monotonic_s() + timeout_ms(headers, self._timeout_ms_max) / 1000

    def _quorums(self, query: str) -> Quorums:
        quorums = self._quorums_by_query.get(query)
        if quorums is None:
            quorums = self._service.quorums(parse_query(query))
            if len(self._quorums_by_query) < _QUERIES_MAX:
                self._quorums_by_query[query] = quorums
        return quorums


def _method_not_allowed(allowed: str) -> RequestRefused:
    return RequestRefused("method-not-allowed", headers=f"Allow: {allowed}\r\n")


def _path_of_absolute_form(target: str) -> str:
    """The path of ``http://host/path``, as proxies send it; what is no path is left as it is."""
    _, scheme_end, rest = target.partition("://")
    _, slash, path = rest.partition("/")
    return slash + path if scheme_end else target
