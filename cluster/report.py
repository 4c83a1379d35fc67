"""What a person reads about a cluster: the table of its nodes, the words after a start."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Final

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table

from cluster.balancer import region_urls
from cluster.edge import EDGE
from cluster.findings import Finding, Severity
from cluster.launch import say
from cluster.regionpairs import Pair
from cluster.seen import EdgeState, EdgeView, NodeState, NodeView, moment, region_pairs
from cluster.settings import ClusterSettings, NodeSettings
from cluster.status import ClusterState, doubted, hints_held
from cluster.vardir import VarDirectory

_COLOURS: Final = {
    NodeState.READY: "green",
    NodeState.OUTSIDE: "dim",
    NodeState.NOT_READY: "yellow",
    NodeState.SILENT: "red",
    NodeState.DOWN: "red",
}

_SEVERITIES: Final = {
    Severity.CRITICAL: "red",
    Severity.WARNING: "yellow",
    Severity.NOTE: "dim",
}


def data_url(node: NodeSettings) -> str:
    """Where clients reach the node."""
    return _url(node.host, node.http_port)


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def print_welcome(settings: ClusterSettings, edge: EdgeView | None, console: Console) -> None:
    """The URLs, and commands to paste. An edge that was there once, and is not now, has none."""
    one_url = edge.url if edge and edge.state is EdgeState.READY else ""
    if one_url:
        say(console, f"one URL for clients: {one_url}")
        for region, url in region_urls(settings).items() if len(settings.region_names) > 1 else ():
            say(console, f"   those in region {region}: {url}")
        console.print()
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for heading in ("node", "region", "zone", "documents", "operations"):
        table.add_column(heading, no_wrap=True)
    for node in settings.node:
        urls = data_url(node), _url(node.host, node.ops_port)
        table.add_row(node.id, node.region, node.zone, *urls)
    first, other = one_url or data_url(settings.node[0]), one_url or data_url(settings.node[-1])
    console.print(table)
    say(console, f"\nThe API with a page to try it: {first}/docs\n")
    where = "" if one_url else ", from any node,"
    say(console, f"Create a document, then read it{where} by the id in the answer:")
    say(
        console,
        f"  curl -i {first}/documents -H 'Content-Type: application/json' "
        """-d '{"content": "Hello, Stele"}'""",
    )
    say(console, f"  curl -i {other}/documents/ID")


def new_table(*left: str, right: Sequence[str] = ()) -> Table:
    """An empty table in the style of all; columns of words, then columns of numbers."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for heading in left:
        table.add_column(heading, no_wrap=True)
    for heading in right:
        table.add_column(heading, no_wrap=True, justify="right")
    return table


def print_status(
    var: VarDirectory,
    views: Sequence[NodeView],
    edge: EdgeView | None,
    state: ClusterState,
    console: Console,
) -> None:
    """A table, and below it what needs attention."""
    numbers = ("pid", "up", "docs", "ring", "hints", "disk free")
    table = new_table("node", "zone", "state", "documents at", right=numbers)
    table.add_column("members")
    for view in views:
        table.add_row(
            view.node.id,
            view.node.zone,
            f"[{_COLOURS[view.state]}]{view.state.value}",
            data_url(view.node),
            str(view.process.pid) if view.process else "-",
            duration(view.process.age_s()) if view.process else "-",
            *_own_words(view),
        )
    console.print(table)
    ready = sum(view.state is NodeState.READY for view in views)
    members = sum(view.state is not NodeState.OUTSIDE for view in views)
    doctor = "" if state is ClusterState.OK else f"; {var.command('stele doctor')} says what to do"
    say(console, f"\n{state.name.lower()}: {ready} of {members} nodes are ready{doctor}")
    if all(view.state is NodeState.DOWN for view in views):
        say(console, f"{var.command('make up')} starts them")
        return
    for view in views:
        if view.advice:
            say(console, f"{view.node.id} {view.advice}")
    for pair in region_pairs(views):
        say(console, f"{pair.source} to {pair.target}: {_progress(pair)}")
    if edge is not None:
        does = edge.advice or f"sends requests to {', '.join(edge.rotation)}"
        say(console, f"{EDGE} {edge.url} {does}")


def status_value(
    var: VarDirectory, views: Sequence[NodeView], edge: EdgeView | None, state: ClusterState
) -> dict[str, object]:
    """The same for programs."""
    nodes = [
        {
            "id": view.node.id,
            "zone": view.node.zone,
            "region": view.node.region,
            "state": view.state.value,
            "http_url": data_url(view.node),
            "ops_url": _url(view.node.host, view.node.ops_port),
            "pid": view.process.pid if view.process else None,
            "advice": view.advice,
            "status": msgspec.to_builtins(view.status),
        }
        for view in views
    ]
    words = edge and {
        "url": edge.url,
        "state": edge.state.value,
        "pid": edge.process.pid if edge.process else None,
        "rotation": edge.rotation,
        "advice": edge.advice,
    }
    return {
        "var": str(var.root),
        "state": state.name.lower(),
        "edge": words,
        "regions": msgspec.to_builtins(region_pairs(views)),
        "nodes": nodes,
    }


def print_findings(findings: Sequence[Finding], console: Console) -> None:
    """What is wrong, what to do about it, and a verdict."""
    for finding in findings:
        colour, word = _SEVERITIES[finding.severity], finding.severity.value
        console.print(f"[{colour}]{word:8}[/] ", end="", soft_wrap=True)
        say(console, f"{finding.about}: {finding.what}\n{' ' * 9}{finding.do}")
    wrong = [one for one in findings if one.severity is not Severity.NOTE]
    verdict = "nothing needs to be done"
    if wrong:
        verdict = "1 thing needs" if len(wrong) == 1 else f"{len(wrong)} things need"
        verdict += " attention"
    say(console, verdict if not findings else f"\n{verdict}")


def findings_value(findings: Sequence[Finding]) -> dict[str, object]:
    """The same for programs."""
    found = [{**asdict(finding), "severity": finding.severity.value} for finding in findings]
    return {"findings": found}


def _own_words(view: NodeView) -> tuple[str, ...]:
    """The columns that only the node itself can fill."""
    status = view.status
    if status is None:
        return ("-",) * 4 + ("",)
    documents, ring = status.documents_estimate, status.ring
    return (
        "?" if documents is None else f"{documents:,}",
        f"{ring.owned / ring.partitions:.0%}",
        f"{hints_held(status):,}",
        size(status.storage.disk_free_bytes),
        ", ".join(doubted(view)) or _alive(view),
    )


def _alive(view: NodeView) -> str:
    outside = view.state is NodeState.OUTSIDE
    return "" if outside or view.status is None else f"{len(view.status.members)} alive"


def _progress(pair: Pair) -> str:
    """How far the writes of one region are in another one."""
    if pair.watermark_ms is None or pair.lag_s is None:
        words = ["nobody there says how far it is"]
    else:
        words = [f"all is there but the last {pair.lag_s:.1f} s"]
    if pair.cut_off_since_ms is not None:
        words.insert(0, f"cut off since {moment(pair.cut_off_since_ms)} UTC")
    if pair.waiting:
        words.append(f"{pair.waiting:,} writes wait in a log that is {pair.fullness:.0%} full")
    else:
        words.append("nothing waits")
    if pair.comparisons_owed:
        words.append(f"{pair.comparisons_owed} comparisons are owed for dropped ones")
    return ", ".join(words)


def size(size_bytes: int) -> str:
    """``12 MiB``."""
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def duration(elapsed_s: float) -> str:
    """``3h 20m``."""
    for unit_s, unit, part_s, part in (
        (86_400, "d", 3_600, "h"),
        (3_600, "h", 60, "m"),
        (60, "m", 1, "s"),
    ):
        if elapsed_s >= unit_s:
            return f"{elapsed_s // unit_s:.0f}{unit} {elapsed_s % unit_s // part_s:.0f}{part}"
    return f"{elapsed_s:.0f}s"
