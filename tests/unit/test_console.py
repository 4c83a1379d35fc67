"""What the console makes of nodes' answers: states, words, HTML; and who may use it."""

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from html.parser import HTMLParser
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from cluster.findings import Finding, Severity
from cluster.ids import DocumentId, NodeId, format_document_id
from cluster.layout import rings_of
from cluster.operations import ConflictsView, MemberSeen, Veto
from cluster.rates import Traffic
from cluster.ringchange import Layout, advanced, changed
from cluster.topology import node_named
from cluster.traces import SpanView, TraceView
from kvnode.console.glance import Glance
from kvnode.console.happenings import event_row
from kvnode.console.inspector import inspected
from kvnode.console.overview import SILENT_S, Overview, Seen, State, overview
from kvnode.console.pages import Console
from kvnode.console.plots import Line, draw, top_of
from kvnode.console.sections import findings, nodes, sections, spoken, verdict
from kvnode.console.watch import Event, Watch
from kvnode.system import SystemClock
from tests.support.http import StoppedWallClock
from tests.support.rings import member
from tests.unit.test_doctor import SETTINGS, Checkups, change_lifecycle, sound

RINGS = rings_of(SETTINGS)
ID = format_document_id(bytes(range(16)))
#: The vocabulary of the page's sections.
TAGS = {"b", "span", "code", "time", "li", "ol", "ul", "p", "strong"}


def seen_as(checkups: Checkups) -> dict[str, Seen]:
    """What the console has heard when nodes say this; a node without a status is not heard."""
    seen = {}
    for name, checkup in checkups.items():
        glance = None
        if checkup.view.status and checkup.hints and checkup.lifecycle and checkup.members:
            assert checkup.quarantine
            glance = Glance(
                status=checkup.view.status,
                hints=checkup.hints,
                lifecycle=checkup.lifecycle,
                quarantine=checkup.quarantine,
                members=checkup.members,
                conflicts=ConflictsView(0),
                traffic=Traffic(),
                joining=0,
                traces=[],
                events=[],
            )
        seen[name] = Seen(checkup.view.node, glance, refused=glance is None)
    return seen


def look(seen: dict[str, Seen]) -> Overview:
    """What it comes to."""
    return overview(SETTINGS, RINGS, dict(seen))  # type: ignore[arg-type]


def states(seen: dict[str, Seen]) -> list[State]:
    """In the cluster file's order."""
    return [node.state for node in look(seen).regions["a"]]


class Page(HTMLParser):
    """Reads HTML back as a browser would."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""
        self.attributes: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """See ``HTMLParser``."""
        self.tags.add(tag)
        self.attributes += [name for name, _ in attrs]

    def handle_data(self, data: str) -> None:
        """See ``HTMLParser``."""
        self.text += data


def test_a_sound_cluster_is_all_alive_and_nothing_is_said() -> None:
    """A console that always shows something red is not looked at."""
    seen = seen_as(sound())
    assert states(seen) == [State.ALIVE] * 3
    assert look(seen).findings == []


def _refuses(seen: dict[str, Seen]) -> None:
    seen["a2"] = Seen(seen["a2"].node, trouble="nothing listens there", refused=True)


def _is_silent(seen: dict[str, Seen]) -> None:
    seen["a2"] = Seen(seen["a2"].node, trouble="no answer", silent_s=SILENT_S / 2)


def _is_silent_for_long(seen: dict[str, Seen]) -> None:
    seen["a2"] = Seen(seen["a2"].node, trouble="no answer", silent_s=SILENT_S)


def _is_silent_and_given_up(seen: dict[str, Seen]) -> None:
    _is_silent(seen)
    _doubt(seen, "dead")


def _doubt(seen: dict[str, Seen], state: str = "dead") -> None:
    glance = seen["a1"].glance
    assert glance
    members = [MemberSeen("a2", "z2", state)]
    seen["a1"].glance = replace(glance, status=replace(glance.status, members=members))


def _is_fenced(seen: dict[str, Seen]) -> None:
    glance = seen["a2"].glance
    assert glance
    seen["a2"].glance = replace(glance, lifecycle=replace(glance.lifecycle, fenced=[1, 2]))


def _joins(seen: dict[str, Seen]) -> None:
    glance = seen["a2"].glance
    assert glance
    seen["a2"].glance = replace(glance, joining=7)


def _drains(seen: dict[str, Seen]) -> None:
    glance = seen["a2"].glance
    assert glance
    status = replace(glance.status, ready=False, reasons=["draining"])
    seen["a2"].glance = replace(glance, status=status)


@pytest.mark.parametrize(
    ("happens", "state", "why"),
    [
        (_refuses, State.DEAD, "nothing listens"),
        (_is_silent, State.SUSPECT, "no answer"),
        (_is_silent_for_long, State.DEAD, "no answer"),
        (_is_silent_and_given_up, State.DEAD, "no answer"),
        (_doubt, State.SUSPECT, "doubted by a1"),
        (_is_fenced, State.FENCED, "2 partitions are rebuilt"),
        (_joins, State.JOINING, "7 partitions wait"),
        (_drains, State.NOT_READY, "draining"),
    ],
)
def test_a_node_that_is_not_well_is_shown_so_with_the_reason(
    happens: Callable[[dict[str, Seen]], None], state: State, why: str
) -> None:
    """The others are not blamed for it."""
    seen = seen_as(sound())
    happens(seen)
    shown = look(seen).regions["a"]
    assert [node.state for node in shown] == [State.ALIVE, state, State.ALIVE]
    assert why in shown[1].why


def test_partitions_are_counted_by_what_of_their_owners_is_up() -> None:
    """Three nodes own everything: one less is short of copies, two less without a quorum."""
    seen = seen_as(sound())
    for gone, counts in enumerate([(0, 0, 0), (256, 0, 0), (256, 256, 0), (256, 256, 256)]):
        for name in list(seen)[:gone]:
            seen[name] = Seen(seen[name].node, refused=True)
        ring = look(seen).rings["a"]
        assert (ring.under_replicated, ring.without_quorum, ring.unavailable) == counts


#: Texts that are near to being HTML.
HOSTILE = st.text(st.sampled_from("<>&\"'`/=!; ab\n"), max_size=12) | st.text()


@given(HOSTILE, HOSTILE, st.dictionaries(HOSTILE, HOSTILE, max_size=3))
def test_what_comes_from_elsewhere_is_shown_and_never_obeyed(
    name: str, node: str, fields: dict[str, str]
) -> None:
    """A log's line can hold what a client sent."""
    texts = [name, node, *(f"{key}={value}" for key, value in fields.items())]
    event = Event("2026-01-01T00:00:00.000000Z", node, name, name, fields)
    found = Finding(Severity.WARNING, node, name, " ".join(texts))
    for html in (event_row(event), findings([found])):
        page = Page(html)
        assert page.tags <= TAGS
        assert set(page.attributes) <= {"class"}
        for text in texts[:2]:
            assert _words(text) in _words(page.text)


def _words(text: str) -> str:
    """As far as it survives being read back: an HTML parser knows one kind of line end only.

    And what is to be typed loses its backquotes.
    """
    return " ".join(text.replace("`", "").split())


@given(st.lists(st.one_of(st.none(), st.floats(0, 1e9)), max_size=20), st.floats(0.001, 1e6))
def test_no_curve_leaves_its_plot(values: list[float | None], least: float) -> None:
    """Whatever was measured, the top of the scale is above it, and not ten times as high."""
    line = Line("p50", [(float(at), value) for at, value in enumerate(values)])
    top = top_of([line], least)
    highest = max([value for value in values if value is not None] + [least])
    assert highest * 0.999 <= top <= 5 * highest
    svg = draw([line], now_s=30.0, span_s=60.0, top=top)
    path = svg.split('class="line p50" d="')[1].split('"')[0]
    drawn = path.replace("h.1", "").replace("M", " M").replace("L", " L").split(" ")
    heights = [float(step) for step in drawn if step and step[0] not in "ML"]
    assert all(-0.2 <= y <= 100 for y in heights)
    assert len(heights) == sum(value is not None for value in values)


def test_a_curve_is_interrupted_where_nothing_was_measured() -> None:
    """A line over a gap would claim what nobody knows."""
    line = Line("lag", [(1, 0.5), (2, 0.5), (7, 0.5), (8, 0.5)])
    svg = draw([line], now_s=10.0, span_s=10.0, top=1.0)
    assert svg.split('class="line lag"')[1].count("M") == 2


def replica(node: str, state: str | None, **times: int) -> dict[str, Any]:
    """As ``/admin/owners`` tells it."""
    record = None if state is None else {"state": state, "checksum": "ab" * 32, **times}
    return {"node": node, "region": node[0], "answered": True, "owner": True, "record": record}


def test_a_document_is_inspected_by_its_copies_and_its_life() -> None:
    """Copies that differ are said to, and what any copy knows stands in the timeline."""
    owners = {
        "id": ID,
        "partition": 7,
        "replicas": [
            replica("a1", "created", created_at_ms=0),
            replica("a2", "deleted", created_at_ms=0, deleted_at_ms=60_000, delete_at_ms=120_000),
            replica("a3", None),
            {"node": "b1", "region": "b", "answered": False, "reason": "unreachable"},
            replica("b2", None),
        ],
        "owners": ["a1", "a2", "a3", "b1"],
    }
    event = Event("2026-01-01T00:00:00.000000Z", "a1", "info", "document.created", {"document": ID})
    other = Event("2026-01-01T00:00:00.000000Z", "a1", "info", "document.deleted", {"document": ""})
    span = SpanView("01", None, "DELETE /documents/{id}", "server", "a2", 5_000, 900, None, {})
    peer: dict[str, str | int | float | bool] = {"peer": "<a1>"}
    part = SpanView("02", "01", "rpc.merge", "client", "a2", 5_100, 700, "timeout", peer)
    trace = TraceView("ab" * 16, span.name, "a2", 5_000, 900, None, 2, ["a2"], [ID], [part, span])
    text = Page(inspected(owners, [trace], [event, other])).text
    assert "Its copies differ" in text
    assert "created 1970-01-01 00:00:00" in text
    assert "deleted 1970-01-01 00:01:00" in text
    assert "may leave the disks 1970-01-01 00:02:00" in text
    assert "document.created" in text
    assert "· rpc.merge <a1>0.10 ms0.70 mstimeout" in text
    assert "document.deleted" not in text
    assert "b1owner?—no answer (unreachable)" in text, "one that is away owns it all the same"
    assert "b2othernothing" in text


@asynccontextmanager
async def listening() -> AsyncIterator[tuple[aiohttp.ClientSession, list[str]]]:
    """The console of a1, where no node answers; a client; what reached the data listener."""
    reached: list[str] = []

    async def data(request: web.Request) -> web.Response:
        reached.append(f"{request.method} {request.path}")
        return web.json_response({"id": ID}, status=201)

    documents = web.Application()
    documents.router.add_route("*", "/{any:.*}", data)
    behind = web.AppRunner(documents)
    await behind.setup()
    await web.TCPSite(behind, "127.0.0.1", 0).start()
    own = replace(node_named(SETTINGS, "a1"), http_port=behind.addresses[0][1])

    async def owners(document_id: DocumentId) -> dict[str, Any]:
        return {"id": format_document_id(document_id), "partition": 1, "replicas": []}

    async def traces(_: Mapping[str, str]) -> dict[str, Any]:
        return {"node": "a1", "silent": [], "traces": []}

    nodes = tuple(replace(one, ops_port=1) for one in SETTINGS.node)  # where nobody listens
    console = Console(
        replace(SETTINGS, node=nodes),
        own,
        RINGS,
        SystemClock(),
        glance=lambda after: {"after": after},
        owners=owners,
        traces=traces,
    )
    app = web.Application()
    console.add_routes(app)
    runner = web.AppRunner(app, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        base = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with aiohttp.ClientSession(base) as client:
            yield client, reached
    finally:
        await runner.cleanup()
        await behind.cleanup()


async def test_the_page_comes_whole_and_holds_itself_to_its_own_origin() -> None:
    """With the state in it, before any script has run."""
    async with listening() as (client, _):
        answer = await client.get("/ui")
        html = await answer.text()
        assert 'data-node="a3"' in html
        assert "stele start a3" in html
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http:" not in policy
        for name in ("style.css", "script.js", "icon.svg"):
            assert f'"/ui/{name}"' in html
            assert (await client.get(f"/ui/{name}")).status == 200
        assert "<!-- " not in html, "a section without its place, or a place without its section"
        assert " style=" not in html, "the policy forbids it"
        assert (await client.get("/ui/page.html")).status == 404


def test_what_is_read_aloud_changes_only_with_what_is_wrong() -> None:
    """Not each second, with the time for which it lasts; and it is one clause of a long finding."""
    shown: list[Overview] = []
    for for_s in (400.0, 401.0):
        checkups = sound()
        change_lifecycle(checkups, "a1", vetoes=[Veto(7, "a3", "hints", for_s)])
        shown.append(look(seen_as(checkups)))
    assert [spoken(one) for one in shown] == ["warning: a3"] * 2
    assert verdict(shown[0]) != verdict(shown[1])
    well = look(seen_as(sound()))
    assert spoken(well) in verdict(well)
    shown[0].findings.append(Finding(Severity.NOTE, "a2", "what mends itself", "wait"))
    assert "1 more" not in verdict(shown[0])
    shown[0].findings.insert(0, Finding(Severity.CRITICAL, "a2", "hangs; for a reason", "look"))
    assert Page(verdict(shown[0])).text == "a2 hangs; 1 more"
    assert spoken(shown[0]) == "critical: a2; warning: a3"


def test_a_node_that_serves_with_something_wrong_is_told_from_one_that_is_well() -> None:
    """Both are alive; its tile says what it is about."""
    checkups = sound()
    view = checkups["a2"].view
    assert view.status
    status = replace(view.status, warnings=["is low on disk"])
    checkups["a2"] = dataclasses.replace(
        checkups["a2"], view=dataclasses.replace(view, status=status)
    )
    tiles = nodes(look(seen_as(checkups)))
    assert 'class="node alive warned" data-node="a2"' in tiles
    assert "is low on disk" in tiles
    assert tiles.count("warned") == 1


async def test_only_what_has_changed_is_sent_again() -> None:
    """A page that is open all day should not cost more than what happens."""
    async with listening() as (client, _), client.get("/ui/live") as stream, asyncio.timeout(10):
        assert await read(stream) == {}, "nothing is known yet"
        assert {"verdict", "nodes", "partitions", "events"} <= (await read(stream)).keys()
        # Nobody answers, so nothing changes; but the page hears that this is so.
        assert await read(stream) == {}


async def read(stream: aiohttp.ClientResponse) -> dict[str, str]:
    """The next event's sections."""
    line, _ = (await stream.content.readuntil(b"\n\n")).decode().split("\n", 1)
    sent: dict[str, str] = json.loads(line.removeprefix("data: "))
    return sent


async def test_documents_go_through_the_data_listener() -> None:
    """As any client's do, under the same path."""
    async with listening() as (client, reached):
        assert (await client.post("/ui/documents", data=b"{}")).status == 201
        await client.get(f"/ui/documents/{ID}")
        await client.delete(f"/ui/documents/{ID}")
        assert [one.split()[0] for one in reached] == ["POST", "GET", "DELETE"]
        assert reached[1] == f"GET /documents/{ID}"


async def test_an_id_that_is_none_is_not_asked_about() -> None:
    """And is not echoed."""
    async with listening() as (client, _):
        answer = await client.get("/ui/inspect/%3Cscript%3E")
        assert answer.status == 400
        assert "script" not in await answer.text()
        assert (await client.get(f"/ui/inspect/{ID}")).status == 200


async def test_nothing_is_shown_before_anything_is_known() -> None:
    """Rather than a cluster of dead nodes."""
    assert sections(Watch(SETTINGS, RINGS, StoppedWallClock())) == {}


def test_members_that_come_and_go_are_asked_and_shown() -> None:
    """A console that is open while a node joins knows it from no file."""
    rings = rings_of(SETTINGS).copy()
    watch = Watch(SETTINGS, rings, SystemClock())
    layout: Layout | None = changed(
        rings.layouts["a"], add=[member("a4", zone="z1", number=9)], remove=[NodeId("a2")]
    )
    asked = []
    while layout is not None:
        rings.adopt(layout)
        watch._review()
        asked.append(list(watch._asked))
        shown = overview(SETTINGS, rings, {name: one.seen for name, one in watch._asked.items()})
        assert [node.seen.node.id for node in shown.regions["a"]] == asked[-1]
        layout = advanced(layout, layout.ids)
    assert (asked[0], asked[-1]) == (["a1", "a2", "a3", "a4"], ["a1", "a3", "a4"])
