"""One connection from accept to close: order, deadlines, bounds and ways to end."""

import asyncio
import json
from contextlib import AsyncExitStack

import pytest

from cluster.settings import HttpSettings
from docservice.http.connection import PIPELINED_MAX, REFUSED_MAX
from docservice.http.representation import Document
from tests.support.http import PATIENCE_S, Served, request, serving

ID = "01890a5d-ac96-774b-bcce-b302099a8057"
TARGET = f"/documents/{ID}"
BODY = b'{"content":"x"}'
GET = request("GET", TARGET)
POST_HEAD = b"POST /documents HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"


async def until_no_connection(served: Served) -> None:
    """Let the event loop run until the listener has forgotten every connection."""
    async with asyncio.timeout(PATIENCE_S):
        while served.listener.connection_count:  # noqa: ASYNC110 - it has no event to wait for
            await asyncio.sleep(0)


async def until_arrived(served: Served, count: int) -> None:
    """Let the event loop run until as many calls have reached the store."""
    async with asyncio.timeout(PATIENCE_S):
        while served.store.arrived < count:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0)


# Order.


async def test_pipelined_requests_are_answered_in_order(served: Served) -> None:
    """Row 41. Many more than wait parsed at once: the rest is held back, not lost."""
    count = 20 * PIPELINED_MAX
    async with await served.connect() as wire:
        for number in range(count):
            content = json.dumps({"content": f"number {number}"}).encode()
            wire.send(request("POST", "/documents", content, Prefer="return=representation"))
        for number in range(count):
            assert (await wire.receive()).json(Document).content == f"number {number}"


async def test_a_later_request_waits_for_an_earlier_one(served: Served) -> None:
    """One at a time: a client that pipelines must not occupy the store many times over."""
    served.store.gate = asyncio.Event()
    async with await served.connect() as wire:
        wire.send(request("DELETE", TARGET) + GET + GET)
        await until_arrived(served, 1)
        assert served.store.arrived == 1
        served.store.gate.set()
        assert [(await wire.receive()).status for _ in range(3)] == [204, 410, 410]


async def test_a_body_may_come_in_any_pieces(served: Served) -> None:
    """Cut anywhere, also in the middle of a character; with a length or in chunks."""
    body = json.dumps({"content": "é😀" * 9}, ensure_ascii=False).encode()
    for step in (1, 3, 50):
        pieces = [body[start : start + step] for start in range(0, len(body), step)]
        async with await served.connect() as wire:
            wire.send(POST_HEAD + f"Content-Length: {len(body)}\r\n\r\n".encode())
            for piece in pieces:
                wire.send(piece)
                await wire.drain()
            assert (await wire.receive()).status == 201
            wire.send(POST_HEAD + b"Transfer-Encoding: Chunked\r\n\r\n")
            for piece in pieces:
                wire.send(b"%x;extension=1\r\n%b\r\n" % (len(piece), piece))
                await wire.drain()
            wire.send(b"0\r\nTrailer: ignored\r\n\r\n" + GET)
            assert (await wire.receive()).status == 201
            assert (await wire.receive()).status == 404


async def test_a_client_that_asks_whether_to_send_its_body_is_told_to(served: Served) -> None:
    """RFC 9110, section 10.1.1."""
    async with await served.connect() as wire:
        wire.send(POST_HEAD + b"Expect: 100-continue\r\nContent-Length: 15\r\n\r\n")
        await wire.continues()
        wire.send(BODY)
        assert (await wire.receive()).status == 201


async def test_a_body_that_nobody_wants_is_ignored_if_it_is_there(served: Served) -> None:
    """And the next request is found behind it."""
    async with await served.connect() as wire:
        for method in ("GET", "DELETE", "GET"):
            wire.send(request(method, TARGET, BODY))
        assert [(await wire.receive()).status for _ in range(3)] == [404, 204, 410]


async def test_a_body_that_nobody_wants_is_not_waited_for(served: Served) -> None:
    """The answer is there at once and the connection ends: reading on would help nobody."""
    async with await served.connect() as wire:
        wire.send(request("GET", TARGET, None, Content_Length="100"))
        response = await wire.receive()
        assert (response.status, response.headers["connection"]) == (404, "close")
        assert await wire.ends()


# Kinds of clients.


@pytest.mark.parametrize(
    ("lines", "connection"),
    [
        (f"GET {TARGET} HTTP/1.1\r\nHost: a\r\n", None),
        (f"GET {TARGET} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n", "close"),
        (f"GET {TARGET} HTTP/1.0\r\n", "close"),
        (f"GET {TARGET} HTTP/1.0\r\nConnection: keep-alive\r\n", "keep-alive"),
    ],
)
async def test_a_connection_stays_open_if_both_sides_think_so(
    served: Served, lines: str, connection: str | None
) -> None:
    """HTTP/1.0 clients have to ask for it, and be told."""
    async with await served.connect() as wire:
        wire.send(lines.encode() + b"\r\n")
        response = await wire.receive()
        assert response.headers.get("connection") == connection
        if connection == "close":
            assert await wire.ends()
        else:
            wire.send(GET)
            assert (await wire.receive()).status == 404


@pytest.mark.parametrize("protocol", ["websocket", "h2c"])
async def test_an_upgrade_is_not_offered_and_not_taken(served: Served, protocol: str) -> None:
    """Row 40. The request is answered as if nothing had been asked; what follows is not HTTP."""
    async with await served.connect() as wire:
        wire.send(request("GET", TARGET, Connection="Upgrade", Upgrade=protocol))
        assert (await wire.receive()).status == 404
        assert await wire.ends()


async def test_a_target_in_absolute_form_is_served(served: Served) -> None:
    """RFC 9112, section 3.2.2: proxies send it."""
    assert (await served.call("DELETE", f"http://stele.test:1/{TARGET[1:]}")).status == 204
    assert (await served.call("GET", f"http://stele.test{TARGET}?r=1")).status == 410
    assert (await served.call("GET", "http://stele.test")).problem.code == "no-such-page"


async def test_a_client_that_half_closes_gets_all_its_answers(served: Served) -> None:
    """It has said all it wants; that is no reason not to answer."""
    served.store.gate = asyncio.Event()
    async with await served.connect() as wire:
        wire.send(request("DELETE", TARGET) + GET + GET)
        wire.half_close()
        await until_arrived(served, 1)
        served.store.gate.set()
        responses = [await wire.receive() for _ in range(3)]
        assert [response.status for response in responses] == [204, 410, 410]
        assert responses[-1].headers["connection"] == "close"
        assert await wire.ends()


async def test_a_client_that_leaves_does_not_stop_its_write(served: Served) -> None:
    """What the store was asked to do has begun on other nodes too; it runs to its end."""
    served.store.gate = asyncio.Event()
    async with await served.connect() as wire:
        wire.send(request("POST", "/documents", BODY))
        await until_arrived(served, 1)
        wire.abort()
    served.store.gate.set()
    await until_no_connection(served)

    assert len(served.store.records) == 1


# Deadlines. The settings are tiny, and no test waits but for what the server does.


@pytest.mark.parametrize("start", [b"G", b"GET / HTTP/1.1\r\n", GET[:-2], b"\r\n"])
async def test_a_header_that_does_not_end_is_refused_in_time(start: bytes) -> None:
    """Row 10. A client could otherwise hold a connection with a byte now and then."""
    settings = HttpSettings(header_timeout_s=0.05)
    async with serving(http=settings) as served, await served.connect() as wire:
        wire.send(start)
        response = await wire.receive()
        assert (response.status, response.problem.code) == (408, "request-timeout")
        assert response.problem.retryable
        assert await wire.ends()


@pytest.mark.parametrize(
    "start",
    [
        POST_HEAD + b"Content-Length: 15\r\n\r\n",
        POST_HEAD + b"Content-Length: 15\r\n\r\n" + BODY[:-1],
        POST_HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n",
        POST_HEAD + b"Transfer-Encoding: chunked\r\n\r\nf\r\n" + BODY,
        POST_HEAD.replace(b"documents", b"documents/_bulk") + b"Content-Length: 99\r\n\r\n{",
    ],
)
async def test_a_body_that_does_not_end_is_refused_in_time(start: bytes) -> None:
    """Row 9. Nothing is done with the part that came."""
    async with serving(http=HttpSettings(body_timeout_s=0.05)) as served:
        async with await served.connect() as wire:
            wire.send(GET + start)
            assert (await wire.receive()).status == 404
            response = await wire.receive()
            assert (response.status, response.problem.code) == (408, "request-timeout")
            assert await wire.ends()
        assert served.store.writes == []


async def test_an_idle_connection_is_closed_without_a_word() -> None:
    """Row 12. A 408 there could be taken for the answer to a request that is just being sent."""
    async with (
        serving(http=HttpSettings(idle_timeout_s=0.05)) as served,
        await served.connect() as fresh,
        await served.connect() as used,
    ):
        used.send(GET)
        assert (await used.receive()).status == 404
        assert await used.ends()
        assert await fresh.ends()


async def test_a_slow_store_is_not_mistaken_for_a_slow_client() -> None:
    """While a request is being served the client owes nothing; the store has its own deadline."""
    tiny = HttpSettings(header_timeout_s=0.02, body_timeout_s=0.02, idle_timeout_s=0.02)
    async with serving(http=tiny) as served:
        served.store.gate = asyncio.Event()
        async with await served.connect() as wire, await served.connect() as idle:
            wire.send(request("POST", "/documents", BODY))
            await until_arrived(served, 1)
            assert await idle.ends()  # so every deadline has passed
            served.store.gate.set()
            assert (await wire.receive()).status == 201


async def test_a_client_that_does_not_read_its_answer_is_cut_off() -> None:
    """Else the answers that nobody fetches would fill the memory."""
    async with serving(http=HttpSettings(body_timeout_s=0.05)) as served:
        controls = json.dumps({"content": "\1" * 2048}).encode()
        target = (await served.call("POST", "/documents", controls)).headers["location"]
        get = {"op": "get", "id": target.rpartition("/")[2]}
        bulk = request(
            "POST", "/documents/_bulk", json.dumps({"operations": [get] * 1000}).encode()
        )
        async with await served.connect() as wire:
            wire.pause()
            wire.send(bulk)
            await until_arrived(served, 1001)
            await until_no_connection(served)


# Bounds.


async def test_connections_over_the_bound_are_told_so_and_closed() -> None:
    """Row 71. When one has ended there is room again."""
    async with serving(http=HttpSettings(connections_max=2)) as served:
        async with await served.connect() as first, await served.connect() as second:
            for wire in (first, second):
                wire.send(GET)
                assert (await wire.receive()).status == 404
            async with await served.connect() as third:
                third.send(GET)
                response = await third.receive()
                assert (response.status, response.problem.code) == (503, "too-many-connections")
                assert await third.ends()
            first.send(GET)
            assert (await first.receive()).status == 404
        await until_no_connection(served)
        assert (await served.ask(GET)).status == 404


async def test_connections_far_over_the_bound_are_cut_off() -> None:
    """Telling each of a flood would take the very descriptors that are short."""
    settings = HttpSettings(connections_max=1)
    async with serving(http=settings) as served, AsyncExitStack() as stack:
        for number in range(1 + REFUSED_MAX):
            wire = await stack.enter_async_context(await served.connect())
            if number > 0:
                assert (await wire.receive()).status == 503
        wire = await stack.enter_async_context(await served.connect())
        assert not await wire.answers()


async def test_requests_over_the_bound_are_put_off() -> None:
    """Row 70. At once, without touching the store, and on a connection that stays usable."""
    async with serving(http=HttpSettings(requests_max=1)) as served:
        served.store.gate = asyncio.Event()
        async with await served.connect() as first, await served.connect() as second:
            first.send(request("DELETE", TARGET))
            await until_arrived(served, 1)
            second.send(request("DELETE", TARGET))
            response = await second.receive()
            assert (response.status, response.problem.code) == (429, "too-many-requests")
            assert response.headers["retry-after"] == "1"
            served.store.gate.set()
            assert (await first.receive()).status == 204
            second.send(GET)
            assert (await second.receive()).status == 410
        assert len(served.store.writes) == 1


async def test_headers_are_counted_while_they_arrive(served: Served) -> None:
    """Row 19. Each line is short enough; all together are not, and are not waited for."""
    async with await served.connect() as wire:
        wire.send(GET[:-2])
        for number in range(5):
            wire.send(f"A{number}: {'x' * 4000}\r\n".encode())
            await wire.drain()
        assert (await wire.receive()).problem.code == "headers-too-large"
        assert await wire.ends()


# Stopping.


async def test_stopping_finishes_what_is_being_served_and_closes_the_rest() -> None:
    """A client sees its answer, and that it is the last one on this connection."""
    async with serving() as served:
        served.store.gate = asyncio.Event()
        async with (
            await served.connect() as busy,
            await served.connect() as idle,
            await served.connect() as half,
        ):
            busy.send(request("POST", "/documents", BODY) + GET)
            half.send(b"GET ")
            await until_arrived(served, 1)
            stopping = asyncio.create_task(served.listener.stop(PATIENCE_S))
            assert await idle.ends()
            assert await half.ends()
            with pytest.raises(ConnectionRefusedError):
                await served.connect()
            served.store.gate.set()
            response = await busy.receive()
            assert (response.status, response.headers["connection"]) == (201, "close")
            assert await busy.ends()
        await stopping
        assert served.listener.connection_count == 0


async def test_stopping_cuts_off_what_does_not_finish_in_time() -> None:
    """A store that hangs must not keep the process from ending."""
    async with serving() as served:
        served.store.gate = asyncio.Event()
        async with await served.connect() as wire:
            wire.send(request("POST", "/documents", BODY))
            await until_arrived(served, 1)
            await served.listener.stop(grace_s=0.01)
            assert served.listener.connection_count == 0
            assert not await wire.answers()
        assert served.store.records == {}
