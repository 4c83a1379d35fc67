"""The operations listener, over what a process offers: answers' forms, and following events."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import aiohttp
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry

from cluster.ids import DocumentId, NodeId, format_document_id
from cluster.layoutviews import Staged
from cluster.settings import TraceSettings
from kvnode import eventstream
from kvnode.admin import Operations, start_admin_listener
from kvnode.errors import Malformed, Refused
from kvnode.eventring import EventRing
from kvnode.eventstream import EventStreams
from kvnode.health import Check, Weight
from kvnode.jobs import Job, Jobs
from kvnode.services.asking import Asker
from kvnode.system import SystemEntropy
from kvnode.traceviews import TraceViews
from kvnode.tracing import Tracer
from tests.support.http import StoppedWallClock

ID = format_document_id(bytes(range(16)))
READY = {"ready": True, "reasons": [], "takes_part": True}
#: Longest wait for what should come at once.
PATIENCE_S = 5.0


class Offered:
    """A process's operations, and the base URL of its listener."""

    def __init__(self, ring: EventRing) -> None:
        self.events = ring
        self.checks = [
            Check("quorum", Weight.UNREADY, ""),
            Check("clock", Weight.WARNING, "has a clock that is 9.0 s from a2's"),
        ]
        #: Nodes that are out of service.
        self.drained: list[str] = []
        self.tracer = Tracer("a1", TraceSettings(), StoppedWallClock(), SystemEntropy())
        self.operations = Operations(
            registry=CollectorRegistry(),
            checks=lambda: self.checks,
            views={"status": lambda: {"shown": True}},
            document_views={"owners": self._owners},
            actions={},
            deeds={"gone": self._gone},
            undertakings={"drain": self._drain},
            returns={"drain": self.drained.remove},
            layout={"stage": self._stage, "commit": self._commit},
            jobs=Jobs(StoppedWallClock()),
            events=ring,
            traces=TraceViews(self.tracer, cast("Asker", None), list),
        )
        self.url = ""
        #: Regions that somebody could say to be gone.
        self.gone: list[str] = []
        self.address = ("", 0)

    def _drain(self, node: str) -> Job:
        if node != "a1":
            raise Refused("this is a1")
        self.drained.append(node)
        return self.operations.jobs.begin("drain", 3, lambda: None)

    def _stage(self, body: bytes) -> Staged:
        if not body:
            raise Malformed("the body is empty")
        return Staged(remove=(NodeId("a2"),))

    def _commit(self, body: bytes) -> Job:
        if body == b"old":
            raise Refused("changes of region a begin at a1: ask that one")

        def keep() -> None:
            raise Refused("it goes on to its end")

        return self.operations.jobs.begin("layout", 7, keep)

    async def _gone(self, region: str) -> dict[str, Any]:
        if region == "a":
            raise Refused("a node of region a is not the one to be told")
        self.gone.append(region)
        return {"words": {region: 1}}

    async def _owners(self, document_id: DocumentId) -> dict[str, Any]:
        return {"id": format_document_id(document_id)}


@asynccontextmanager
async def listening(kept: int = 100) -> AsyncIterator[tuple[Offered, aiohttp.ClientSession]]:
    """A listener on a free port, and a client."""
    offered = Offered(EventRing("b00t", kept))
    runner = await start_admin_listener("127.0.0.1", 0, offered.operations)
    offered.address = runner.addresses[0]
    offered.url = f"http://127.0.0.1:{offered.address[1]}"
    try:
        async with aiohttp.ClientSession(offered.url) as client:
            yield offered, client
    finally:
        async with asyncio.timeout(PATIENCE_S):
            await runner.cleanup()


async def read(response: aiohttp.ClientResponse, count: int) -> list[str]:
    """The next blocks of a stream."""
    blocks: list[str] = []
    async with asyncio.timeout(PATIENCE_S):
        while len(blocks) < count:
            blocks.append((await response.content.readuntil(b"\n\n")).decode().strip())
    return blocks


def event(number: int) -> str:
    """As it is streamed."""
    return f'id: b00t-{number}\ndata: {{"n": {number}}}'


def happen(ring: EventRing, count: int) -> None:
    """As many events as that."""
    for _ in range(count):
        ring.append(json.dumps({"n": ring.newest + 1}))


async def test_readiness_is_what_gates_and_verbose_shows_every_check() -> None:
    """A warning is no reason to take a node out of service."""
    async with listening() as (offered, client):
        answer = await client.get("/readyz")
        assert (answer.status, await answer.json()) == (200, READY)
        answer = await client.get("/readyz?verbose")
        quorum, clock = (await answer.json())["checks"]
        assert quorum == {"name": "quorum", "weight": "unready", "trouble": "", "ok": True}
        assert (clock["ok"], clock["weight"]) == (False, "warning")
        offered.checks[0] = Check("quorum", Weight.UNREADY, "has no quorum")
        answer = await client.get("/readyz")
        assert (answer.status, (await answer.json())["reasons"]) == (503, ["has no quorum"])


async def test_what_is_not_there_is_answered_with_what_is() -> None:
    """An operator types paths by heart."""
    async with listening() as (_, client):
        assert (await (await client.get("/admin/status")).json())["shown"]
        for path in ("/admin/stats", "/admin/events/x", "/admin/jobs/x", f"/admin/owner/{ID}"):
            answer = await client.get(path)
            assert answer.status == 404, path
        assert (
            "status, jobs, events, traces, owners/ID" in await (await client.get("/admin/x")).text()
        )
        assert (await client.post("/admin/repair")).status == 404
        assert (await client.delete("/admin/status")).status == 405


async def test_what_this_process_must_not_do_is_declined_with_the_reason() -> None:
    """409: a tool tells the operator those words."""
    async with listening() as (_, client):
        assert await (await client.post("/admin/gone/b")).json() == {"words": {"b": 1}}
        declined = await client.post("/admin/gone/a")
        assert declined.status == 409
        assert "not the one to be told" in await declined.text()
        there_is = await client.post("/admin/gome/b")
        assert (there_is.status, await there_is.text()) == (404, "there is gone/WHAT\n")


async def test_what_a_node_is_to_do_is_begun_followed_and_taken_back() -> None:
    """By its path, with words for one that is not meant, or not there."""
    async with listening() as (offered, client):
        begun = await client.post("/admin/nodes/a1/drain")
        assert (begun.status, (await begun.json())["total"]) == (202, 3)
        job = await client.get(begun.headers["Location"])
        assert (await job.json())["state"] == "running"
        assert offered.drained == ["a1"]
        back = await client.delete("/admin/nodes/a1/drain")
        assert (back.status, await back.json()) == (200, READY)
        assert offered.drained == []
        declined = await client.post("/admin/nodes/a2/drain")
        assert (declined.status, await declined.text()) == (409, "this is a1\n")
        for method in ("POST", "DELETE"):
            there_is = await client.request(method, "/admin/nodes/a1/dance")
            assert (there_is.status, await there_is.text()) == (404, "there is nodes/ID/drain\n")


async def test_a_change_of_owners_is_staged_with_a_body_and_can_t_be_called_off() -> None:
    """400 for what is no such body, 409 for what can't be done, with words for an operator."""
    async with listening() as (_, client):
        staged = await client.post("/admin/layout/stage", data=b"{}")
        assert (staged.status, (await staged.json())["remove"]) == (200, ["a2"])
        malformed = await client.post("/admin/layout/stage")
        assert (malformed.status, await malformed.text()) == (400, "the body is empty\n")
        declined = await client.post("/admin/layout/commit", data=b"old")
        assert (declined.status, "ask that one" in await declined.text()) == (409, True)
        begun = await client.post("/admin/layout/commit", data=b"{}")
        assert begun.status == 202
        path = begun.headers["Location"]
        kept = await client.delete(path)
        assert (kept.status, await kept.text()) == (409, "it goes on to its end\n")
        assert (await (await client.get(path)).json())["state"] == "running"
        there_is = await client.post("/admin/layout/dance")
        assert await there_is.text() == "there is layout/stage, layout/commit\n"


#: What browsers tell of who sends a request, and whether it may do something here.
SENDERS = {
    "a program": ({}, True),
    "our own page": ({"Sec-Fetch-Site": "same-origin", "Origin": "http://{own}"}, True),
    "a person": ({"Sec-Fetch-Site": "none"}, True),
    "an old browser's own page": ({"Origin": "http://{own}"}, True),
    "another site": ({"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}, False),
    "another port": ({"Sec-Fetch-Site": "same-site", "Origin": "http://{own}0"}, False),
    "an old browser's other page": ({"Origin": "http://evil.example"}, False),
    "a sandboxed page": ({"Origin": "null"}, False),
    "our page over TLS": ({"Origin": "https://{own}"}, False),
    "one that says nothing of its origin": ({"Sec-Fetch-Site": "cross-site"}, False),
}


@pytest.mark.parametrize("who", SENDERS)
async def test_pages_of_other_sites_change_nothing(who: str) -> None:
    """Whatever a browser on this machine shows can send to loopback; reading does no harm."""
    said, may = SENDERS[who]
    async with listening() as (offered, client):
        own = f"127.0.0.1:{offered.address[1]}"
        headers = {name: text.format(own=own) for name, text in said.items()}
        for method, path, done in (
            ("POST", "/admin/gone/b", 200),
            ("POST", "/admin/repair", 404),
            ("DELETE", "/admin/jobs/repair-1", 404),
            ("POST", "/ui/documents", 404),
        ):
            answer = await client.request(method, path, headers=headers)
            assert answer.status == (done if may else 403), (who, method, path)
        assert (await client.get("/admin/status", headers=headers)).status == 200
        assert offered.gone == (["b"] if may else [])


@pytest.mark.parametrize("path", ["/admin/status", "/admin/events", f"/admin/owners/{ID}", "/ui"])
@pytest.mark.parametrize("host", ["evil.example:80", "10.0.0.1", "localhost.x", "[", "127.0.0.1:x"])
async def test_another_name_for_this_machine_gets_nothing(path: str, host: str) -> None:
    """A site whose name was pointed to 127.0.0.1 is of the same origin, for a browser."""
    async with listening() as (offered, client):
        assert (await client.get(path, headers={"Host": host})).status == 403
        # What watches this process from a proxy learns no more than that.
        assert (await client.get("/livez", headers={"Host": host})).status == 200
        forwarded = {"Host": "localhost:9999", "Origin": "http://localhost:9999"}
        assert (await client.post("/admin/gone/b", headers=forwarded)).status == 200
        assert offered.gone == ["b"]


@pytest.mark.parametrize("text", ["x", ID.upper(), ID[:-1], "%00", f"{ID}%20"])
async def test_a_document_is_asked_for_by_its_id_only(text: str) -> None:
    """In the one form that the API gives out."""
    async with listening() as (_, client):
        assert (await (await client.get(f"/admin/owners/{ID}")).json()) == {"id": ID}
        answer = await client.get(f"/admin/owners/{text}")
        assert answer.status == 400
        assert "UUID" in await answer.text()


async def test_a_reader_gets_what_is_remembered_then_what_happens() -> None:
    """With a mark in between, so that a tool knows when it has caught up."""
    async with listening() as (offered, client):
        happen(offered.events, 2)
        async with client.get("/admin/events") as stream:
            assert stream.headers["Content-Type"] == "text/event-stream"
            assert await read(stream, 3) == [event(1), event(2), ": live"]
            happen(offered.events, 1)
            assert await read(stream, 1) == [event(3)]


async def test_a_reader_that_comes_back_goes_on_where_it_was() -> None:
    """Or is told how much it has missed."""
    async with listening(kept=3) as (offered, client):
        happen(offered.events, 9)
        async with client.get("/admin/events", headers={"Last-Event-ID": "b00t-8"}) as stream:
            assert await read(stream, 2) == [event(9), ": live"]
        async with client.get("/admin/events", headers={"Last-Event-ID": "b00t-2"}) as stream:
            told = await read(stream, 5)
            assert told == ["event: missed\ndata: 4", event(7), event(8), event(9), ": live"]


async def test_silence_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader, and the proxies between, can tell it from a dead connection."""
    monkeypatch.setattr(eventstream, "HEARTBEAT_S", 0.01)
    async with listening() as (_, client), client.get("/admin/events") as stream:
        assert await read(stream, 3) == [": live", ": still here", ": still here"]


class SlowReader:
    """Takes something when it is told to."""

    def __init__(self) -> None:
        self.may_take = asyncio.Event()
        self.taken: list[str] = []

    async def write(self, data: bytes) -> None:
        """See ``web.StreamResponse``."""
        await self.may_take.wait()
        self.taken.append(data.decode())


async def test_a_reader_that_does_not_keep_up_is_let_go() -> None:
    """Nothing is queued for it: while it took one event, the next one was forgotten."""
    ring, happened, reader = EventRing("b00t", 10), asyncio.Event(), SlowReader()
    happen(ring, 1)
    streams = EventStreams(ring)
    following = asyncio.ensure_future(
        streams._follow(cast("web.StreamResponse", reader), None, happened)
    )
    await asyncio.sleep(0)
    happen(ring, 11)
    reader.may_take.set()
    async with asyncio.timeout(PATIENCE_S):
        assert not await following
    assert reader.taken == [f"{event(1)}\n\n"]


async def test_a_reader_that_takes_nothing_is_cut_off_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also when nothing more happens that it could fall behind."""
    monkeypatch.setattr(eventstream, "STALLED_S", 0.05)
    async with listening() as (offered, _), asyncio.timeout(PATIENCE_S):
        for _ in range(20):
            offered.events.append(json.dumps({"text": "x" * 1_000_000}))
        reader, writer = await asyncio.open_connection(*offered.address, limit=1)
        writer.write(b"GET /admin/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        while not offered.events.dropped_readers:  # noqa: ASYNC110 (it does not tell)
            await asyncio.sleep(0.01)
        with suppress(ConnectionError):
            while await reader.read(1_000_000):
                pass
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def test_readers_are_few_and_all_end_with_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A node that stops does not wait for them."""
    monkeypatch.setattr(eventstream, "READERS_MAX", 2)
    offered = Offered(EventRing("b00t"))
    runner: web.AppRunner = await start_admin_listener("127.0.0.1", 0, offered.operations)
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/admin/events"
    loop = asyncio.get_running_loop()
    async with aiohttp.ClientSession() as client:
        streams = [await client.get(url) for _ in range(2)]
        for stream in streams:
            assert await read(stream, 1) == [": live"]
        assert (await client.get(url)).status == 503
        before_s = loop.time()
        await runner.cleanup()
        assert loop.time() - before_s < 0.9  # otherwise they were given up, not ended
        assert [await stream.content.read() for stream in streams] == [b"", b""]
