"""Every way to send a bad request gets its code at once, as a problem page, and leaves nothing.

MARKER stands wherever an input has room for it; no answer may repeat it. Rows are those of the
catalogue of bad inputs that the project keeps.
"""

import gzip

import pytest

from tests.support.http import Served, Wire, one_loop, request

ID = "01890a5d-ac96-774b-bcce-b302099a8057"
TARGET = f"/documents/{ID}"
BODY = b'{"content":"MARKER"}'
HOST = b"Host: stele.test\r\n"
POST = b"POST /documents HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\n"


def get(target: str = TARGET, more: str = "") -> bytes:
    """A GET with raw header lines."""
    return f"GET {target} HTTP/1.1\r\nHost: stele.test\r\n{more}\r\n".encode("latin-1")


def chunked(*chunks: bytes, coding: str = "chunked") -> bytes:
    """A create with a body in raw chunks."""
    return POST + f"Transfer-Encoding: {coding}\r\n\r\n".encode() + b"".join(chunks)


def create(body: bytes, **headers: str) -> bytes:
    """A create with any body."""
    return request("POST", "/documents", body, **headers)


#: What the parser can't make sense of. The connection ends after the answer.
UNREADABLE = [
    (1, "no Host", f"GET {TARGET} HTTP/1.1\r\nX: MARKER\r\n\r\n".encode(), 400),
    (2, "two Hosts", get(more="Host: MARKER\r\n"), 400),
    (3, "two kinds of length", chunked(b"Content-Length: 3"), 400),
    (
        3,
        "length and coding",
        POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        400,
    ),
    (4, "two equal lengths", POST + b"Content-Length: 20\r\n" * 2 + b"\r\n" + BODY, 400),
    (4, "two lengths", POST + b"Content-Length: 20\r\nContent-Length: 9\r\n\r\n" + BODY, 400),
    (5, "length +20", POST + b"Content-Length: +20\r\n\r\n" + BODY, 400),
    (5, "length -1", POST + b"Content-Length: -1\r\n\r\n" + BODY, 400),
    (5, "length 0x14", POST + b"Content-Length: 0x14\r\n\r\n" + BODY, 400),
    (5, "length list", POST + b"Content-Length: 20, 20\r\n\r\n" + BODY, 400),
    (5, "empty length", POST + b"Content-Length: \r\n\r\n" + BODY, 400),
    (5, "length overflow", POST + b"Content-Length: 99999999999999999999\r\n\r\n" + BODY, 400),
    (5, "length 2**64-1", POST + b"Content-Length: 18446744073709551615\r\n\r\n" + BODY, 400),
    (13, "coding xchunked", chunked(b"0\r\n\r\n", coding="xchunked"), 400),
    (13, "chunked twice", chunked(b"0\r\n\r\n", coding="chunked, chunked"), 400),
    (13, "coding gzip", chunked(b"0\r\n\r\n", coding="gzip"), 400),
    (13, "coding gzip, chunked", chunked(b"0\r\n\r\n", coding="gzip, chunked"), 501),
    (13, "chunked HTTP/1.0", chunked(b"0\r\n\r\n").replace(b"1.1", b"1.0"), 400),
    (14, "folded header", get(more="A: b\r\n MARKER\r\n"), 400),
    (14, "space before colon", get(more="MARKER : b\r\n"), 400),
    (14, "header without a name", get(more=": MARKER\r\n"), 400),
    (15, "chunk size not hexadecimal", chunked(b"MARKER\r\n"), 400),
    (15, "chunk size overflow", chunked(b"fffffffffffffffff\r\n"), 400),
    (15, "chunk size negative", chunked(b"-1\r\n"), 400),
    (15, "line feed in a chunk extension", chunked(b"2;MARKER\nb\r\n{}\r\n0\r\n\r\n"), 400),
    (15, "chunk longer than it says", chunked(b"2\r\n{}}\r\n0\r\n\r\n"), 400),
    (17, "bare line feeds", f"GET {TARGET} HTTP/1.1\nHost: MARKER\n\n".encode(), 400),
    (17, "bare carriage return", get(more="A: b\rMARKER\r\n"), 400),
    (17, "NUL in a header", get(more="A: \0MARKER\r\n"), 400),
    (17, "control character in a header", get(more="A: \x01MARKER\r\n"), 400),
    (18, "target of 10 KB", get("/" + "MARKER" * 1700), 414),
    (18, "query of 10 KB", get(f"{TARGET}?" + "MARKER" * 1700), 414),
    (19, "header of 10 KB", get(more=f"A: {'MARKER' * 1700}\r\n"), 431),
    (19, "header name of 10 KB", get(more=f"{'MARKER' * 1700}: a\r\n"), 431),
    (19, "65 headers", get(more="".join(f"A{n}: MARKER\r\n" for n in range(64))), 431),
    (20, "HTTP/9.9", get().replace(b"1.1", b"9.9"), 505),
    (20, "HTTP/2.0", get().replace(b"1.1", b"2.0"), 505),
    (20, "HTTP/0.9", get().replace(b"1.1", b"0.9"), 505),
    (20, "HTTP/1.2", get().replace(b"1.1", b"1.2"), 505),
    (21, "HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    (21, "TLS hello", bytes.fromhex("1603010200010001fc0303") + bytes(64), 400),
    (21, "SSH banner", b"SSH-2.0-MARKER\r\n", 400),
    (22, "unknown method", b"MARKER / HTTP/1.1\r\n" + HOST + b"\r\n", 501),
    (22, "method in lower case", b"get / HTTP/1.1\r\n" + HOST + b"\r\n", 501),
    (22, "known method with a tail", b"GETMARKER / HTTP/1.1\r\n" + HOST + b"\r\n", 501),
    (22, "CONNECT", b"CONNECT MARKER:443 HTTP/1.1\r\n" + HOST + b"\r\n", 501),
    (29, "byte 0xFF in the target", get("/documents/\xff"), 400),
    (29, "UTF-8 in the target", "GET /documents/é HTTP/1.1\r\n\r\n".encode(), 400),
    (0, "no target", b"GET  HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (0, "star for GET", get("*"), 400),
    (0, "relative target", get("MARKER"), 400),
    (0, "absolute target without a host", get("http://"), 400),
    (0, "absolute target with a broken host", get("http://[MARKER/"), 400),
    (0, "tab after the method", b"GET\t/ HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (0, "nothing after a word", b"nonsense\r\n\r\n", 400),
    (38, "unknown expectation", get(more="Expect: MARKER\r\n"), 417),
]

#: What is read but refused. The next request on the same connection is served.
REFUSED = [
    (23, "TRACE", request("TRACE", TARGET, X="MARKER"), 405, "method-not-allowed"),
    (23, "PUT", request("PUT", TARGET, BODY), 405, "method-not-allowed"),
    (23, "PATCH", request("PATCH", TARGET, BODY), 405, "method-not-allowed"),
    (23, "PROPFIND", request("PROPFIND", TARGET), 405, "method-not-allowed"),
    (23, "POST to a document", request("POST", TARGET, BODY), 405, "method-not-allowed"),
    (23, "GET of all", request("GET", "/documents"), 405, "method-not-allowed"),
    (23, "DELETE of all", request("DELETE", "/documents"), 405, "method-not-allowed"),
    (23, "GET of bulk", request("GET", "/documents/_bulk"), 405, "method-not-allowed"),
    (23, "POST to a page", request("POST", "/docs", BODY), 405, "method-not-allowed"),
    (74, "CORS preflight", request(
        "OPTIONS", "/documents", Origin="https://MARKER.test",
        Access_Control_Request_Method="POST",
    ), 405, "method-not-allowed"),
    (0, "OPTIONS of the server", request("OPTIONS", "*"), 404, "no-such-page"),
    *[
        (row, f"id {name}", get(f"/documents/{name}"), 400, "invalid-id")
        for row, name in [
            (25, "%00"), (25, ID + "%00"), (25, "%00" + ID[3:]), (26, "..%2f"), (26, "..%2fMARKER"),
            (26, "%2f"), (26, f"x%2f{ID}"), (27, "%0d%0aMARKER"), (27, ID + "%0d%0a"), (27, "%0a"),
            (28, "%ff%fe"), (28, "%zz"), (28, "%"), (28, "%e2%82%ac"),
            (25, ID.replace("-", "%2d")), (25, "%30" + ID[1:]), (25, ID.upper()),
            (25, ID.replace("-", "")), (25, f"{{{ID}}}"), (25, f"urn:uuid:{ID}"), (25, ID[:-1]),
            (25, ID + "0"), (25, ID + "/"), (25, ID + "/MARKER"), (25, ID + "#MARKER"),
            (25, ID + ";MARKER"), (25, "MARKER"), (25, ""), (25, "_bulk/"),
            (30, "../../etc/passwd"), (25, "0" * 36), (25, "-" * 36),
            (25, ID.replace("-", "_")), (25, "0x" + ID[2:]), (25, ID[:-1] + "g"),
        ]
    ],
    (27, "delete of a bad id", request("DELETE", "/documents/%2f"), 400, "invalid-id"),
    (30, "dots", get("/v1/docs/../../etc/MARKER"), 404, "no-such-page"),
    (30, "encoded path", get(f"/%64ocuments/{ID}"), 404, "no-such-page"),
    (30, "two slashes", get(f"//documents/{ID}"), 404, "no-such-page"),
    (30, "upper case", get(f"/Documents/{ID}"), 404, "no-such-page"),
    (30, "unknown problem", get("/problems/MARKER"), 404, "no-such-page"),
    (30, "longer than documents", get("/documentsMARKER"), 404, "no-such-page"),
    (34, "gzip bomb", create(gzip.compress(bytes(1 << 20)), Content_Encoding="gzip"), 415, ""),
    (35, "gzip", create(gzip.compress(BODY), Content_Encoding="gzip"), 415, ""),
    (37, "brotli", create(BODY, Content_Encoding="br"), 415, "unsupported-media-type"),
    (37, "identity", create(BODY, Content_Encoding="identity"), 415, "unsupported-media-type"),
    (42, "no content type", POST.replace(b"Content-Type: application/json\r\n", b"")
        + b"Content-Length: 20\r\n\r\n" + BODY, 415, "unsupported-media-type"),
    *[
        (42, f"content type {name}", create(BODY, Content_Type=name), 415, "unsupported-media-type")
        for name in [
            "", "text/plain", "application/jsonMARKER", "application/json; charset=latin-1",
            "application/json; charset=utf-8; charset=utf-8", "application/json, text/plain",
            "application/problem+json", "application/x-www-form-urlencoded", "MARKER",
        ]
    ],
    *[
        (43, f"accept {name}", create(BODY, Accept=name), 406, "not-acceptable")
        for name in [
            "text/html", "application/xml, text/plain", "application/json;q=0", "*/*;q=0",
            "application/json;q=0, */*", "application/*;q=0.0", "application/jsonMARKER",
        ]
    ],
    (43, "read as HTML", get(more="Accept: text/html\r\n"), 406, "not-acceptable"),
    *[
        (58, f"key {name!r:.20}", create(BODY, Idempotency_Key=name), 400, "invalid-header")
        for name in [
            "", '""', "k" * 256, '"' + "k" * 256 + '"', '"unclosed', '"a"b"', '"a";x=MARKER',
            '"a\\b"', "\xe9MARKER", "a\tb", '"\xff"',
        ]
    ],
    (58, "key repeated", create(BODY, Idempotency_Key="a", idempotency_key="a"), 400,
        "invalid-header"),
    (54, "2,049 bytes", create(b'{"content":"%b"}' % (b"x" * 2049)), 413, "content-too-large"),
    (54, "1,025 characters of two bytes", create(
        b'{"content":"%b"}' % ("é" * 1025).encode()), 413, "content-too-large"),
    (54, "683 escaped characters of three bytes", create(
        b'{"content":"%b"}' % (rb"\u20ac" * 683)), 413, "content-too-large"),
]  # fmt: skip


UNREADABLE_CASES = [
    pytest.param(raw, status, id=f"{row} {name}") for row, name, raw, status in UNREADABLE
]


@pytest.mark.parametrize(("raw", "status"), UNREADABLE_CASES)
async def test_what_cannot_be_read_is_answered_once_and_ends_the_connection(
    served: Served, raw: bytes, status: int
) -> None:
    """Where the next request would start is not known, so nothing behind it may be served."""
    async with await served.connect() as wire:
        wire.send(raw)
        response = await wire.receive()
        assert response.status == status
        assert response.problem.outcome == "not_applied"
        assert response.headers["connection"] == "close"
        assert b"MARKER" not in response.raw
        wire.send(request("DELETE", TARGET))
        assert await wire.ends()
    assert served.store.writes == []


@one_loop
@pytest.mark.parametrize(
    ("raw", "status", "code"),
    [
        pytest.param(raw, status, code, id=f"{row} {name}")
        for row, name, raw, status, code in REFUSED
    ],
)
async def test_what_is_refused_leaves_nothing_but_a_problem_page(
    served: Served, raw: bytes, status: int, code: str
) -> None:
    """And the connection as it was: the next request on it is answered."""
    async with await served.connect() as wire:
        wire.send(raw)
        response = await wire.receive()
        assert response.status == status
        assert response.problem.code == (code or "unsupported-media-type")
        assert response.problem.outcome == "not_applied"
        assert ("allow" in response.headers) == (status == 405)
        assert not [name for name in response.headers if name.startswith("access-control")]
        assert b"MARKER" not in response.raw
        wire.send(get())
        assert (await wire.receive()).problem.code == "not-found"
    assert served.store.writes == []


@pytest.mark.parametrize(("raw", "status"), UNREADABLE_CASES)
async def test_bytes_that_come_one_by_one_are_refused_all_the_same(
    served: Served, raw: bytes, status: int
) -> None:
    """And what follows is not served. Only the code may be vaguer, as the line is not whole yet."""
    async with await served.connect() as wire:
        await send_in_pieces(wire, raw + request("DELETE", TARGET))
        response = await wire.receive()
        assert response.status in (status, 400, 501)
        assert response.problem.outcome == "not_applied"
        assert await wire.ends()
    assert served.store.writes == []


async def send_in_pieces(wire: Wire, raw: bytes) -> None:
    """One byte a write at first, then, to end some day, in larger pieces."""
    for start in range(min(len(raw), 64)):
        wire.send(raw[start : start + 1])
        await wire.drain()
    wire.send(raw[64:])


@pytest.mark.parametrize(
    ("method", "target", "allow"),
    [
        ("PUT", "/documents", "POST"),
        ("PATCH", TARGET, "GET, HEAD, DELETE"),
        ("TRACE", "/documents/_bulk", "POST"),
        ("DELETE", "/openapi.json", "GET, HEAD"),
        ("PUT", "/problems/deleted", "GET, HEAD"),
    ],
)
async def test_a_method_that_is_not_allowed_is_told_which_are(
    served: Served, method: str, target: str, allow: str
) -> None:
    """RFC 9110, section 15.5.6."""
    assert (await served.call(method, target)).headers["allow"] == allow


@pytest.mark.parametrize("size", [16 * 1024 + 1, 10**9])
async def test_a_body_that_says_it_is_too_long_is_refused_before_it_is_sent(
    served: Served, size: int
) -> None:
    """Row 7. Nothing but the header is sent here, and the answer is there."""
    async with await served.connect() as wire:
        wire.send(POST + f"Content-Length: {size}\r\nExpect: 100-continue\r\n\r\n".encode())
        response = await wire.receive()
        assert (response.status, response.problem.code) == (413, "body-too-large")
        assert await wire.ends()


async def test_a_client_that_sends_its_long_body_all_the_same_gets_the_answer(
    served: Served,
) -> None:
    """Closing while input is unread would make the kernel reset the connection and lose it."""
    async with await served.connect() as wire:
        wire.send(POST + b"Content-Length: 400000\r\n\r\n" + bytes(400_000))
        assert (await wire.receive()).status == 413
        assert await wire.ends()


async def test_a_chunked_body_is_counted_while_it_is_read(served: Served) -> None:
    """Row 7 without a length: the bound holds although nobody announced how much would come."""
    async with await served.connect() as wire:
        wire.send(chunked(b"1000\r\n" + b"x" * 0x1000 + b"\r\n") * 1)
        for _ in range(8):
            wire.send(b"1000\r\n" + b"x" * 0x1000 + b"\r\n")
        response = await wire.receive()
        assert (response.status, response.problem.code) == (413, "body-too-large")
        assert await wire.ends()


async def test_a_body_shorter_than_it_says_has_no_effect(served: Served) -> None:
    """Row 8. The client left in the middle of its request: there is nothing to answer or to do."""
    for raw in (
        POST + b"Content-Length: 21\r\n\r\n" + BODY,
        chunked(b"14\r\n" + BODY + b"\r\n"),
        POST[:-20],
    ):
        async with await served.connect() as wire:
            wire.send(raw)
            wire.half_close()
            assert await wire.ends()
    assert served.store.writes == []


async def test_a_fault_in_a_body_that_is_being_read_refuses_its_request(served: Served) -> None:
    """Row 15, when the header has been taken in already: the request fails as a whole."""
    async with await served.connect() as wire:
        wire.send(chunked(b'5\r\n{"con\r\n'))
        await wire.drain()
        wire.send(b"MARKER\r\n")
        response = await wire.receive()
        assert (response.status, response.problem.code) == (400, "malformed-request")
        assert await wire.ends()
    assert served.store.writes == []
