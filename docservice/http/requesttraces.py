"""Which requests of one listener are traced, and the first span of each.

Rules
-----
1. A client that says in its traceparent whether it records decides for this server too. Of the
   requests that say nothing a small share is traced (``[trace] sample_ratio``). In both cases at
   most so many a second: tracing must not be a way to slow a node down.
2. A request that is not traced pays one look at its headers and a count (docs/performance.md).
3. One that is traced is answered by an API of its own, over a store that takes notes. Its headers
   name its trace, whoever began it, so its problem and its lines in the log do as well.
4. One that was not, and took long or failed with 5xx, leaves a single span afterwards.

Source: W3C Trace Context level 2.
"""

from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp.http import RawRequestMessage
from multidict import CIMultiDict, CIMultiDictProxy

from cluster.ids import parse_document_id
from docservice.documents import DocumentService
from docservice.http.api import DocumentApi
from docservice.http.exchange import ClientGone, Exchange
from docservice.http.headers import TRACEPARENT, Headers, trace_parent
from docservice.http.metrics import METHODS, OTHER_METHOD
from docservice.http.replies import Reply, ReplyWriter
from kvnode.tracing import DOCUMENT, OpenSpan, Tracer, Value

_VERSION: Final = "00"
#: Sampled; and the trace's id, if it is this server's, is random.
_OF_CLIENT, _OF_SERVER = "01", "03"
#: What the common ones end with that a client does not record: no need to parse them.
_UNSAMPLED: Final = ("-00", "-02")
_ID_LENGTH: Final = 36
_LOCATION: Final = b"Location: /documents/"
_PATH: Final = "/documents/"


class RequestTraces:
    """See the module's rules.

    Args:
        api: For requests that are not traced.
        traced: The use cases, on behalf of a request's span.
    """

    def __init__(
        self,
        tracer: Tracer,
        api: DocumentApi,
        traced: Callable[[OpenSpan], DocumentService],
        replies: ReplyWriter,
    ) -> None:
        self._tracer = tracer
        self._is_next = tracer.is_next
        self._api = api
        self._answer_untraced = api.answer
        self._traced = traced
        self._request_id = replies.request_id
        #: A request that takes as long is worth a span.
        self.slow_s = tracer.slow_s

    def answer(self, exchange: Exchange) -> Awaitable[Reply]:
        """See ``DocumentApi.answer``."""
        headers = exchange.message.headers
        value = headers.get(TRACEPARENT)
        if not self._is_next() if value is None else value.endswith(_UNSAMPLED):
            return self._answer_untraced(exchange)
        span = self._begin(headers)
        if span is None:
            return self._answer_untraced(exchange)
        return self._answer_traced(exchange, span)

    def note_untraced(
        self, message: RawRequestMessage, reply: Reply, started_s: float, seconds: float
    ) -> None:
        """A request took long, or failed; rule 4."""
        if reply.traced or not self._tracer.admits_late():
            return
        parent = trace_parent(message.headers)
        span = self._tracer.begin(
            "",
            "server",
            parent=parent.context if parent is not None else b"",
            trace_id=bytes.fromhex(reply.trace_id),
            started_s=started_s,
        )
        _describe(span, message, reply)
        span.note(sampled=False)
        span.end(reply.code, seconds=seconds)

    def _begin(self, headers: Headers) -> OpenSpan | None:
        parent = trace_parent(headers)
        if parent is not None and not parent.sampled:
            return None
        if parent is None and TRACEPARENT in headers and not self._is_next():
            return None  # an invalid one says nothing
        if not self._tracer.admits():
            return None
        context = parent.context if parent is not None else b""
        return self._tracer.begin("", "server", parent=context)

    async def _answer_traced(self, exchange: Exchange, span: OpenSpan) -> Reply:
        message = exchange.message
        flags = _OF_CLIENT if trace_parent(message.headers) is not None else _OF_SERVER
        context = f"{_VERSION}-{span.trace_id.hex()}-{span.span_id.hex()}-{flags}"
        headers = CIMultiDict(message.headers)
        headers[TRACEPARENT] = context
        noted = _Noted(message._replace(headers=CIMultiDictProxy(headers)), exchange)
        try:
            reply = await self._api.over(self._traced(span)).answer(noted)
        except ClientGone:
            span.end("client-gone")
            raise
        _describe(span, message, reply)
        span.note(request_id=self._request_id())
        span.end(reply.code if reply.status >= 500 else "")
        reply.traced = True
        reply.head += f"traceparent: {context}\r\n".encode()
        return reply


class _Noted:
    """An ``Exchange`` whose headers name its trace."""

    def __init__(self, message: RawRequestMessage, exchange: Exchange) -> None:
        self.message = message
        self.read_body = exchange.read_body


def _describe(span: OpenSpan, message: RawRequestMessage, reply: Reply) -> None:
    """By OpenTelemetry's conventions, where there are some."""
    method = message.method if message.method in METHODS else OTHER_METHOD
    span.name = f"{method} {reply.route}"
    attributes: dict[str, Value] = {
        "http.request.method": method,
        "http.route": reply.route,
        "http.response.status_code": reply.status,
    }
    if reply.code:
        attributes["code"] = reply.code
    document_id = _document_of(message, reply)
    if document_id:
        attributes[DOCUMENT] = document_id
    span.note(**attributes)


def _document_of(message: RawRequestMessage, reply: Reply) -> str:
    """The id in the answer to a create, or in the path of any other request for one document."""
    _, located, rest = reply.head.partition(_LOCATION)
    if located:
        return rest[:_ID_LENGTH].decode()
    _, _, name = message.path.partition("?")[0].rpartition(_PATH)
    return name if parse_document_id(name) is not None else ""
