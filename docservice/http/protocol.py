"""What aiohttp's parser leaves open: bounds, and a fitting code for each fault (RFC 9112).

The parser is llhttp in its strict mode; it refuses a great deal, all of it as 400 and quoting the
request. Here each refusal gets the code that HTTP has for it, and what the parser lets through but
this server can't serve is refused before the request is routed.
"""

import re
from http import HTTPMethod
from typing import Final

from aiohttp import StreamReader, hdrs
from aiohttp.http import HttpVersion10, HttpVersion11, RawRequestMessage
from aiohttp.http_exceptions import BadHttpMethod, BadStatusLine, LineTooLong

from docservice.http.problems import RequestRefused

#: The two differ, for the parser names only the bound that was passed.
TARGET_BYTES_MAX: Final = 2 * 1024
HEADER_LINE_BYTES_MAX: Final = 8 * 1024
HEADER_LINES_MAX: Final = 64
#: All header bytes of a request that has not yet arrived whole.
HEADER_BYTES_MAX: Final = 16 * 1024
#: The parser takes 2**64-1 for "no length", and then everything that follows for the body.
_LENGTH_DIGITS_MAX: Final = 18

_METHODS: Final = frozenset(method.value.encode() for method in HTTPMethod)
_METHOD_TOKEN = re.compile(rb"(?:\r\n)*([!#$%&'*+.^_`|~0-9A-Za-z-]{1,64})(?: |$)")


def refusal_of(error: Exception, received: bytes) -> RequestRefused:
    """What to answer when the parser raised ``error`` over the bytes ``received``."""
    if isinstance(error, LineTooLong):
        in_target = error.args[1] == TARGET_BYTES_MAX
        return RequestRefused("target-too-long" if in_target else "headers-too-large")
    message = getattr(error, "message", "")
    if message == "Too many headers received":
        return RequestRefused("headers-too-large")
    if isinstance(error, BadHttpMethod):
        token = _METHOD_TOKEN.match(received)
        if token and token[1] not in _METHODS:
            return RequestRefused("not-implemented")
    elif isinstance(error, BadStatusLine) and message.startswith(
        "Bad status line:\n  Invalid HTTP version"
    ):
        return RequestRefused("http-version-not-supported")
    return RequestRefused("malformed-request")


def refusal_of_message(message: RawRequestMessage) -> RequestRefused | None:
    """What to answer to a request that parsed but can't be served, None when it can.

    After such an answer the connection ends: where the next request starts is not certain.
    """
    headers = message.headers
    if message.version is not HttpVersion11 and message.version is not HttpVersion10:
        return RequestRefused("http-version-not-supported")
    if message.method == hdrs.METH_CONNECT:
        return RequestRefused("not-implemented", "this server is no proxy")
    if len(headers.get(hdrs.CONTENT_LENGTH, "")) > _LENGTH_DIGITS_MAX:
        return RequestRefused("malformed-request", "Content-Length is out of range")
    if hdrs.EXPECT in headers and headers[hdrs.EXPECT].lower() != "100-continue":
        return RequestRefused("expectation-failed")
    return _refusal_of_coding(message) if message.chunked else None


async def read_at_most(payload: StreamReader, bytes_max: int) -> bytes:
    """A whole body, counted while it arrives.

    Raises:
        RequestRefused: it is longer; the rest is left unread.
    """
    if payload.is_eof():
        body = payload.read_nowait()
    else:
        chunks: list[bytes] = []
        length = 0
        while length <= bytes_max and (chunk := await payload.readany()):
            chunks.append(chunk)
            length += len(chunk)
        body = b"".join(chunks)
    if len(body) > bytes_max:
        raise RequestRefused("body-too-large")
    return body


def _refusal_of_coding(message: RawRequestMessage) -> RequestRefused | None:
    if message.version is HttpVersion10:
        return RequestRefused("malformed-request", "HTTP/1.0 has no transfer codings")
    if message.headers[hdrs.TRANSFER_ENCODING].lower() != "chunked":
        return RequestRefused("not-implemented", "chunked is the only transfer coding")
    return None
