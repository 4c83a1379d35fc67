"""Commands that show what became of requests: traces, trace."""

import re
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Final

import msgspec
import typer

from cluster import operations, report
from cluster.answers import Answers, first_answer
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
from cluster.ids import parse_document_id
from cluster.launch import say
from cluster.settings import NodeSettings
from cluster.traces import TracesView, TraceView, by_cause, together, united
from cluster.vardir import DEFAULT_ROOT, VarDirectory

_TRACE_ID = re.compile(r"[0-9a-f]{32}")
#: How a trace is called that some client of the nodes began.
_ANOTHERS: Final = "rpc."
#: Attributes that stand in columns of their own.
_SHOWN: Final = ("peer", "document", "http.request.method", "http.route")


def list_traces(
    var: VarOption = DEFAULT_ROOT,
    output: OutputOption = Output.TABLE,
    slowest: Annotated[bool, typer.Option("--slowest", help="Not the newest.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=500, help="How many.")] = 20,
) -> None:
    """List the newest requests that left a trace, or the slowest. Exit code 1: a node is silent."""
    nodes = VarDirectory(var).settings().node
    which = f"?order={'slowest' if slowest else 'newest'}&limit={limit}"
    answers = Answers(nodes, partial(_ask, which=which))
    traces = together(answers.given)
    traces.sort(key=lambda one: one.duration_us if slowest else one.started_us, reverse=True)
    if output is Output.JSON:
        shown = {"traces": msgspec.to_builtins(traces[:limit]), "silent": list(answers.missing)}
        print_json(shown)
    else:
        _print_list(traces[:limit])
    for name in answers.missing:
        note(f"{name} does not answer")
    if answers.missing:
        raise typer.Exit(EXIT_DEGRADED)


def show_trace(
    wanted: Annotated[str, typer.Argument(metavar="ID", help="A trace's id, or a document's.")],
    var: VarOption = DEFAULT_ROOT,
    output: OutputOption = Output.TABLE,
    at: Annotated[
        list[str] | None,
        typer.Option(
            "--at",
            help="Ask this one, too: the operations listener of a document service of its own.",
            metavar="HOST:PORT",
        ),
    ] = None,
) -> None:
    """Show what became of a request, or of all requests for a document: on which node, how long.

    Exit code 1: no node remembers any.
    """
    if _TRACE_ID.fullmatch(wanted):
        which = f"/{wanted}"
    elif parse_document_id(wanted) is not None:
        which = f"?document={wanted}"
    else:
        raise UsageError(f"{wanted} is no trace's id (32 hexadecimal digits) and no document's.")
    nodes = VarDirectory(var).settings().node
    services = [_listener(nodes[0], where) for where in at or ()]
    found = first_answer(nodes, partial(_ask, which=which))
    if services:
        told = [first_answer([service], partial(_ask, which=which)) for service in services]
        found.traces = united([found, *told])
    traces = sorted(found.traces, key=lambda one: one.started_us)
    if output is Output.JSON:
        found.traces = traces[::-1]
        print_json(msgspec.to_builtins(found))
    else:
        for trace in traces:
            _print_trace(trace)
    for name in found.silent:
        note(f"{name} does not answer: what it knows is missing")
    if any(trace.name.startswith(_ANOTHERS) for trace in traces):
        note("began in another process: --at HOST:PORT asks a document service of its own, too")
    if not traces:
        note("no node remembers such a trace; few requests leave one, see docs/operations.md")
        raise typer.Exit(EXIT_DEGRADED)


def _listener(like: NodeSettings, where: str) -> NodeSettings:
    """Whom to ask for that, in the terms of a node."""
    host, _, port = where.rpartition(":")
    if not (host and port.isascii() and port.isdigit()):
        raise UsageError(f"{where} is no HOST:PORT, such as 127.0.0.1:10109.")
    return msgspec.structs.replace(like, id=where, host=host.strip("[]"), ops_port=int(port))


def _ask(node: NodeSettings, timeout_s: float, *, which: str) -> TracesView:
    return operations.traces(node, timeout_s, which)


def _print_list(traces: list[TraceView]) -> None:
    table = report.new_table("trace", "began", "request", "nodes", right=("took", "spans"))
    table.add_column("failed")
    for trace in traces:
        table.add_row(
            trace.trace_id,
            _clock(trace.started_us),
            trace.name,
            " ".join(trace.nodes),
            _milliseconds(trace.duration_us),
            str(trace.span_count),
            trace.error or "",
        )
    if traces:
        console().print(table)
    else:
        say(console(), "no request has left a trace")


def _print_trace(trace: TraceView) -> None:
    screen = console()
    say(screen, f"{trace.name}, trace {trace.trace_id}, {_clock(trace.started_us)} UTC")
    table = report.new_table("node", "span", right=("after", "took"))
    table.add_column("with")
    for depth, span in by_cause(trace.spans):
        peer = span.attributes.get("peer")
        name = f"{'  ' * depth}{span.name}" + (f" to {peer}" if peer is not None else "")
        details = [f"failed: {span.error}"] if span.error else []
        details += [
            f"{key}={str(value).lower() if isinstance(value, bool) else value}"
            for key, value in span.attributes.items()
            if key not in _SHOWN
        ]
        after_us = span.started_us - trace.started_us
        table.add_row(
            span.node, name, _milliseconds(after_us), _milliseconds(span.duration_us),
            " ".join(details), style="red" if span.error else "",
        )  # fmt: skip
    screen.print(table)
    say(screen, "")


def _clock(unix_us: int) -> str:
    return f"{datetime.fromtimestamp(unix_us / 1e6, UTC):%H:%M:%S.%f}"[:-3]


def _milliseconds(duration_us: int) -> str:
    return f"{duration_us / 1000:.2f} ms"
