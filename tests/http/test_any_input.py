"""No input whatsoever gives a 500, stops the listener or keeps a connection open."""

import re

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.http import Served, request

TARGET = "/documents/01890a5d-ac96-774b-bcce-b302099a8057"
SEEDS = [
    request("POST", "/documents", b'{"content":"caf\\u00e9","ttl_seconds":9}', Idempotency_Key="k"),
    request("GET", f"{TARGET}?r=2&sloppy=true", If_None_Match='"a", *', Stele_Timeout_Ms="5"),
    request("DELETE", TARGET, Connection="close"),
    request("HEAD", "/docs", Accept="text/html;q=0.5, */*"),
    request(
        "POST",
        "/documents/_bulk",
        b'{"operations":[{"op":"create","content":"x","idempotency_key":"k"},{"op":"get","id":"y"}]}',
    ),
    b"POST /documents HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    b'Transfer-Encoding: chunked\r\n\r\n8\r\n{"conten\r\n7;a=b\r\nt":"x"}\r\n0\r\n\r\n',
    request("GET", "/problems/deleted", Expect="100-continue", Upgrade="h2c", Connection="upgrade"),
]
#: Bytes that mean something to a parser, and some that never do.
FRAGMENTS = [
    b"\r\n", b"\n", b"\r", b"\r\n\r\n", b":", b" ", b"\t", b"\0", b"\xff", b'"', b"\\", b"{", b"[",
    b"%", b"%00", b"?", b"#", b"0", b"-1", b"99999999999999999999", b"chunked", b"Content-Length: ",
    b"Transfer-Encoding: chunked\r\n", b"HTTP/1.1", b"HTTP/2.0", b"\xed\xa0\x80", b"\\ud800",
]  # fmt: skip


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Requests one behind the other, with holes, repeats and foreign bytes in them."""
    stream = bytearray(b"".join(draw(st.lists(st.sampled_from(SEEDS), min_size=1, max_size=3))))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, len(stream)))
        cut = draw(st.sampled_from([0, 0, 1, 2, 20]))
        stream[at : at + cut] = draw(st.sampled_from(FRAGMENTS) | st.binary(max_size=4))
    return bytes(stream)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(stream=streams(), cuts=st.lists(st.integers(0, 400), max_size=3))
async def test_any_bytes_get_answers_of_the_catalogue_and_an_end(
    served: Served, stream: bytes, cuts: list[int]
) -> None:
    """Whatever comes, in whatever pieces: known statuses, no fault logged, the connection ends."""
    async with await served.connect() as wire:
        start = 0
        for cut in [*sorted(cuts), len(stream)]:
            wire.send(stream[start:cut])
            start = max(start, cut)
            await wire.drain()
        wire.half_close()
        answers = await wire.rest()
    statuses = {
        int(status) for status in re.findall(rb"^HTTP/1\.1 (\d{3}) ", answers, re.MULTILINE)
    }

    assert served.faults == []
    assert statuses <= {
        100,
        200,
        201,
        204,
        304,
        400,
        404,
        405,
        406,
        410,
        413,
        415,
        417,
        422,
        501,
        505,
    }
    assert (await served.call("GET", "/")).status == 302
