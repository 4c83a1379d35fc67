"""Commands that go on until they are told to end: events, top."""

import json
import os
import re
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, Final

import typer
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cluster import operations, rates, report
from cluster.answers import Answers, Unreachable, unreachable
from cluster.commands.options import (
    EXIT_DEGRADED,
    Output,
    OutputOption,
    UsageError,
    VarOption,
    console,
    note,
    print_json,
)
from cluster.following import Follower, Kind, Told
from cluster.rates import Rates, Samples
from cluster.settings import NodeSettings
from cluster.timeline import Happening, Timeline
from cluster.vardir import DEFAULT_ROOT, VarDirectory

#: How late an event may be and still come in order.
_HOLD_S: Final = 0.3
#: What nodes remember is waited for.
_CATCH_UP_S: Final = 5.0
_TICK_S: Final = 0.1
_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_LEVELS: Final = {"error": "red", "warning": "yellow"}
#: What stands at the front of a line.
_FRONT: Final = ("node", "event", "level", "timestamp")


def follow_events(
    var: VarOption = DEFAULT_ROOT,
    output: OutputOption = Output.TABLE,
    since: Annotated[str, typer.Option(help="Begin this long ago: 90s, 10m, 2h, 1d.")] = "10m",
    follow: Annotated[bool, typer.Option(help="Go on as things happen, until Ctrl-C.")] = True,
) -> None:
    """Show the events of all nodes, by time. Nodes remember the last 2,000 since they started."""
    nodes = VarDirectory(var).settings().node
    printer = _Printer(output, since_s=time.time() - _seconds(since))
    follower, timeline = Follower(nodes), Timeline(_HOLD_S)
    try:
        silent = _catch_up(nodes, follower, timeline)
        printer.print(timeline.rest())
        while follow:
            _tell(follower.next(_TICK_S), timeline, silent)
            printer.print(timeline.due(time.monotonic()))
    except KeyboardInterrupt:
        return
    if silent:
        raise typer.Exit(EXIT_DEGRADED)


def _catch_up(
    nodes: Sequence[NodeSettings], follower: Follower, timeline: Timeline
) -> dict[str, None]:
    """Take in what every node remembers. Returns those that don't answer, if others do."""
    waited_for = dict.fromkeys(node.id for node in nodes)
    silent: dict[str, None] = {}
    deadline_s = time.monotonic() + _CATCH_UP_S
    while waited_for and time.monotonic() < deadline_s:
        told = follower.next(_TICK_S)
        _tell(told, timeline, silent)
        if told is not None and told.kind in (Kind.CAUGHT_UP, Kind.LOST):
            waited_for.pop(told.node, None)
    if len(silent) == len(nodes):
        raise unreachable(nodes)
    return silent


def _tell(told: Told | None, timeline: Timeline, silent: dict[str, None]) -> None:
    """Take in one thing that was told; ``silent`` are the nodes that are known to be away."""
    if told is None:
        return
    match told.kind:
        case Kind.EVENT:
            at = datetime.fromisoformat(json.loads(told.text)["timestamp"])
            timeline.add(time.monotonic(), at.timestamp(), told.node, told.text)
        case Kind.MISSED:
            note(f"{told.node}: {told.text} events were forgotten before they could be told")
        case Kind.CAUGHT_UP if told.node in silent:
            del silent[told.node]
            note(f"{told.node} is back")
        case Kind.LOST if told.node not in silent:
            silent[told.node] = None
            note(f"{told.node} does not answer ({told.text})")


class _Printer:
    """Prints events that are not too old."""

    def __init__(self, output: Output, *, since_s: float) -> None:
        self._output = output
        self._since_s = since_s
        self._console = console()

    def print(self, happenings: Sequence[Happening]) -> None:
        """In the order given."""
        for happening in happenings:
            if happening.at_s < self._since_s:
                continue
            if self._output is Output.JSON:
                typer.echo(happening.line)
            else:
                self._console.print(_line(happening), soft_wrap=True)


def _line(happening: Happening) -> Text:
    """``06:44:31.516 a1 member.suspected member=a2 silent_s=3.2``."""
    event: dict[str, Any] = json.loads(happening.line)
    at = datetime.fromtimestamp(happening.at_s, UTC)
    fields = [f"{name}={value}" for name, value in event.items() if name not in _FRONT]
    words = f"{event['event']:<20} {' '.join(fields)}".rstrip()
    style = _LEVELS.get(event["level"], "")
    return Text.assemble(
        (f"{at:%H:%M:%S.%f}"[:-3], "dim"), f" {happening.node:<4} ", (words, style)
    )


def _seconds(duration: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", duration)
    if not found:
        raise UsageError(f"--since {duration} is no duration; write 90s, 10m, 2h or 1d.")
    return float(found[1]) * _UNITS_S[found[2]]


def show_top(
    var: VarOption = DEFAULT_ROOT,
    output: OutputOption = Output.TABLE,
    once: Annotated[bool, typer.Option("--once", help="Measure once, and end.")] = False,
    interval_s: Annotated[
        float, typer.Option("--interval", min=0.1, help="Seconds between two looks.")
    ] = 1.0,
) -> None:
    """Show each node's throughput, errors and latencies, live; q or Ctrl-C ends it.

    Exit code 1: a node does not answer, 3: none does.
    """
    nodes = VarDirectory(var).settings().node
    before = _look(nodes)
    if once:
        time.sleep(interval_s)
        after = _look(nodes)
        _show(nodes, before, after, output, console().print)
        if len(after) < len(nodes):
            raise typer.Exit(EXIT_DEGRADED)
        return
    with _keys() as key_within, Live(console=console(), auto_refresh=False) as live:
        try:
            while key_within(interval_s) != "q":
                try:
                    after = _look(nodes)
                except Unreachable:
                    after = {}
                _show(nodes, before, after, output, partial(live.update, refresh=True))
                before = after
        except KeyboardInterrupt:
            return


#: By node that answered: when, and its metrics.
_Look = dict[str, tuple[float, Samples]]


def _look(nodes: Sequence[NodeSettings]) -> _Look:
    """Raises Unreachable."""

    def ask(node: NodeSettings, timeout_s: float) -> tuple[float, Samples]:
        text = operations.metrics(node, timeout_s)
        return time.monotonic(), rates.parse(text)

    return Answers(nodes, ask).given


def _show(
    nodes: Sequence[NodeSettings],
    before: _Look,
    after: _Look,
    output: Output,
    show: Callable[[Table], object],
) -> None:
    measured: dict[str, Rates] = {}
    for name in after.keys() & before.keys():
        (then_s, earlier), (now_s, later) = before[name], after[name]
        measured[name] = rates.rates(earlier, later, now_s - then_s)
    if output is Output.JSON:
        values = [
            {"node": node.id, **(measured[node.id]._asdict() if node.id in measured else {})}
            for node in nodes
        ]
        print_json({"nodes": values}, one_line=True)
        return
    # Narrow enough for a terminal of 80 columns.
    columns = ("requests", "creates", "reads", "deletes", "errors", "p50", "p99")
    table = report.new_table("node", right=(*columns, "docs", "hints"))
    table.caption, table.caption_justify = "requests to errors: per second", "left"
    for node in nodes:
        if node.id not in measured:
            table.add_row(node.id, *["-"] * (len(columns) + 2))
            continue
        *per_s, p50_s, p99_s = measured[node.id]
        _, samples = after[node.id]
        documents = rates.total(samples, "stele_documents", status="active")
        hints = rates.total(samples, "stele_hints_pending")
        table.add_row(
            node.id,
            *(f"{rate:,.0f}" for rate in per_s),
            *map(_milliseconds, (p50_s, p99_s)),
            f"{documents:,.0f}",
            f"{hints:,.0f}",
        )
    show(table)


def _milliseconds(duration_s: float | None) -> str:
    return "-" if duration_s is None else f"{duration_s * 1000:.1f} ms"


def _no_key_within(timeout_s: float) -> str:
    time.sleep(timeout_s)
    return ""


@contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """Gives a function that waits for a key; without a terminal none ever comes."""
    if not sys.stdin.isatty():
        yield _no_key_within
        return
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    tty.setcbreak(terminal)

    def key_within(timeout_s: float) -> str:
        ready, _, _ = select.select([terminal], [], [], timeout_s)
        return os.read(terminal, 1).decode(errors="replace") if ready else ""

    try:
        yield key_within
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
