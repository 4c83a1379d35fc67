"""Request headers that mean something here, each parsed by the grammar of its own document.

Rules
-----
1. A header is looked up once and, in the common spelling, compared rather than parsed.
2. What decides an effect (a key, a deadline) is refused when it is not understood or repeated;
   what only refines an answer (If-None-Match, Prefer, traceparent) is then ignored.

Sources: RFC 9110 (Accept, Content-Type, If-None-Match), RFC 7240 (Prefer), RFC 8941 section 3.3.3
(quoted Idempotency-Key), W3C Trace Context level 2 (traceparent).
"""

import re
from typing import Final, NamedTuple

from aiohttp import hdrs
from multidict import CIMultiDictProxy, istr

from docservice.http.problems import RequestRefused
from docservice.session import InvalidToken, Session, Tokens
from kvnode.tracing import TRACE_ID_BYTES

IDEMPOTENCY_KEY: Final = istr("Idempotency-Key")
TIMEOUT_MS: Final = istr("Stele-Timeout-Ms")
PREFER: Final = istr("Prefer")
TRACEPARENT: Final = istr("traceparent")
SESSION: Final = istr("Stele-Session")

KEY_LENGTH_MAX: Final = 255
_JSON: Final = "application/json"
#: Ranges that include JSON, with how specific each is.
_JSON_RANGES: Final = {"*/*": 0, "application/*": 1, _JSON: 2}

_SF_STRING = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')
_SF_ESCAPE = re.compile(r"\\(.)")
_MILLISECONDS = re.compile(r"[0-9]{1,12}")
_CONTENT_TYPE = re.compile(
    r'application/json[ \t]*(?:;[ \t]*charset=(?:utf-8|"utf-8")[ \t]*)?', re.IGNORECASE
)
_QUALITY = re.compile(r"q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)", re.IGNORECASE)
_ENTITY_TAG = r'(?:W/)?"[\x21\x23-\x7e\x80-\uffff]*"'
_ENTITY_TAGS = re.compile(rf"[ \t,]*{_ENTITY_TAG}(?:[ \t]*,[ \t,]*{_ENTITY_TAG})*[ \t,]*")
_OPAQUE_TAG = re.compile(r'"[^"]*"')
#: Version 00 ends with its flags; what comes behind those of a later one is for the future to say.
_TRACEPARENT = re.compile(
    r"(?!ff)(?:00|((?!00)[0-9a-f]{2}))-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})"
    r"(?(1)(?:-.*)?)"
)
_SAMPLED: Final = 0x01

Headers = CIMultiDictProxy[str]


def is_idempotency_key(text: str) -> bool:
    """1..255 printable ASCII characters."""
    return 0 < len(text) <= KEY_LENGTH_MAX and text.isascii() and text.isprintable()


def idempotency_key(headers: Headers) -> str | None:
    """The key, without the quotes of a structured-field string; None when there is none.

    Raises:
        RequestRefused: it is repeated, empty, too long or not printable ASCII.
    """
    value = headers.get(IDEMPOTENCY_KEY)
    if value is None:
        return None
    if len(headers.getall(IDEMPOTENCY_KEY)) > 1:
        raise RequestRefused("invalid-header", "Idempotency-Key is repeated")
    if value.startswith('"'):
        quoted = _SF_STRING.fullmatch(value)
        value = _SF_ESCAPE.sub(r"\1", quoted[1]) if quoted else ""
    if not is_idempotency_key(value):
        raise RequestRefused(
            "invalid-header", "Idempotency-Key is not 1 to 255 printable ASCII characters"
        )
    return value


def timeout_ms(headers: Headers, ms_max: int) -> int:
    """The request's deadline from now, at most ``ms_max``, which is also the default.

    Raises:
        RequestRefused: it is repeated or not a whole number of at least 1.
    """
    value = headers.get(TIMEOUT_MS)
    if value is None:
        return ms_max
    if len(headers.getall(TIMEOUT_MS)) > 1:
        raise RequestRefused("invalid-header", "Stele-Timeout-Ms is repeated")
    if not _MILLISECONDS.fullmatch(value) or int(value) == 0:
        raise RequestRefused(
            "invalid-header", "Stele-Timeout-Ms is not a whole number of at least 1"
        )
    return min(int(value), ms_max)


def session_of(headers: Headers, tokens: Tokens) -> Session:
    """What the client has seen; several tokens are joined, a client without one has seen nothing.

    Raises:
        RequestRefused: a token is none of this cluster's.
    """
    if SESSION not in headers:
        return Session()
    try:
        return tokens.read(",".join(headers.getall(SESSION)))
    except InvalidToken:
        raise RequestRefused("invalid-session") from None


def require_json_body(headers: Headers) -> None:
    """Refuse a body that is not plain JSON.

    Raises:
        RequestRefused: wrong or missing Content-Type, or any Content-Encoding.
    """
    if hdrs.CONTENT_ENCODING in headers:
        raise RequestRefused("unsupported-media-type", "Content-Encoding is not accepted")
    value = headers.get(hdrs.CONTENT_TYPE)
    if value == _JSON:
        return
    if value is None or not _CONTENT_TYPE.fullmatch(value):
        raise RequestRefused("unsupported-media-type", "Content-Type is not application/json")


def require_json_accepted(headers: Headers) -> None:
    """Refuse a request whose Accept leaves out JSON. The most specific range decides.

    Raises:
        RequestRefused: no range includes JSON, or the one that does has quality 0.
    """
    value = headers.get(hdrs.ACCEPT)
    if value is None or value in ("*/*", _JSON):
        return
    best, accepted = -1, False
    for item in ",".join(headers.getall(hdrs.ACCEPT)).split(","):
        media_range, *parameters = (part.strip() for part in item.split(";"))
        specific = _JSON_RANGES.get(media_range.lower(), -1)
        if specific > best:
            quality = next(filter(None, map(_QUALITY.fullmatch, parameters)), None)
            best, accepted = specific, quality is None or float(quality[1]) > 0
    if not accepted and value.strip():
        raise RequestRefused("not-acceptable")


def prefers_html(headers: Headers) -> bool:
    """Whether a page for people is asked for: browsers name text/html, programs don't."""
    return "text/html" in headers.get(hdrs.ACCEPT, "").lower()


def matches_etag(headers: Headers, etag: str) -> bool:
    """Whether If-None-Match names ``etag`` (quotes included): weak comparison, lists and ``*``."""
    value = headers.get(hdrs.IF_NONE_MATCH)
    if value is None:
        return False
    if value == etag:
        return True
    value = ",".join(headers.getall(hdrs.IF_NONE_MATCH))
    if value.strip() == "*":
        return True
    return bool(_ENTITY_TAGS.fullmatch(value)) and etag in _OPAQUE_TAG.findall(value)


def wants_representation(headers: Headers) -> bool:
    """Whether ``Prefer: return=representation`` is among the preferences; the first one counts."""
    if PREFER not in headers:
        return False
    for item in ",".join(headers.getall(PREFER)).split(","):
        preference = item.split(";")[0].replace(" ", "").replace('"', "").lower()
        if preference.startswith("return="):
            return preference == "return=representation"
    return False


class TraceParent(NamedTuple):
    """Whoever asks, as a part of a trace."""

    #: Ids of the trace and of the client's span in it, as in ``kvnode.tracing``.
    context: bytes
    #: Whether the client records it, and so wants this server to.
    sampled: bool


def trace_parent(headers: Headers) -> TraceParent | None:
    """From a valid traceparent; a repeated one is none."""
    values = headers.getall(TRACEPARENT, ())
    found = _TRACEPARENT.fullmatch(values[0]) if len(values) == 1 else None
    if not found:
        return None
    return TraceParent(bytes.fromhex(found[2] + found[3]), bool(int(found[4], 16) & _SAMPLED))


def trace_id(headers: Headers) -> str | None:
    """32 hexadecimal digits from a valid traceparent."""
    parent = trace_parent(headers)
    return parent.context[:TRACE_ID_BYTES].hex() if parent is not None else None
