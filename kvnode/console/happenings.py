"""What has happened, as the page shows it: events and traces. What nodes say is escaped here."""

from collections.abc import Sequence
from html import escape
from typing import Final

from cluster.seen import moment
from cluster.traces import TracesView, TraceView, by_cause, together
from kvnode.console.markup import NONE, table
from kvnode.console.overview import Overview
from kvnode.console.watch import Event

EVENTS_SHOWN: Final = 25
TRACES_SHOWN: Final = 6
#: One line a document would drown all others.
_DOCUMENT_EVENTS: Final = ("document.created", "document.deleted", "document.replicated")


def traces(seen: Overview) -> str:
    """The newest and the slowest requests of which something is remembered."""
    shown = {
        name: TracesView(name, glance.traces) for name, glance in seen.answers if glance.traces
    }
    known = [trace for trace in together(shown) if not trace.name.startswith("rpc.")]
    if not known:
        return '<p class="none">No request has left a trace; one in many does.</p>'
    newest = sorted(known, key=lambda one: one.started_us, reverse=True)[:TRACES_SHOWN]
    slowest = sorted(known, key=lambda one: one.duration_us, reverse=True)[:TRACES_SHOWN]
    return f"<h3>Latest</h3>{_trace_table(newest)}<h3>Slowest</h3>{_trace_table(slowest)}"


def _trace_table(shown: Sequence[TraceView]) -> str:
    return table(
        ("began", "request", "took", "nodes", "failed", "document"),
        [
            (
                moment(trace.started_us // 1000)[11:],
                trace.name,
                f"{trace.duration_us / 1000:.1f} ms",
                " ".join(trace.nodes),
                trace.error or NONE,
                trace.documents[0] if len(trace.documents) == 1 else f"{len(trace.documents)}",
            )
            for trace in shown
        ],
    )


def trace_tables(found: Sequence[TraceView]) -> str:
    """Every span of some traces, behind what caused it."""
    return "".join(
        f"<h4>{escape(trace.name)} "
        f'<span class="aside">trace {escape(trace.trace_id)}</span></h4>'
        + table(
            ("node", "span", "after", "took", "failed"),
            [
                (
                    span.node,
                    f"{'· ' * depth}{span.name} {span.attributes.get('peer', '')}".rstrip(),
                    f"{(span.started_us - trace.started_us) / 1000:.2f} ms",
                    f"{span.duration_us / 1000:.2f} ms",
                    span.error or NONE,
                )
                for depth, span in by_cause(trace.spans)
            ],
        )
        for trace in found
    )


def events(happened: Sequence[Event]) -> str:
    """The latest first; the lives of single documents are for the inspector."""
    shown = [event for event in happened if event.name not in _DOCUMENT_EVENTS][-EVENTS_SHOWN:]
    if not shown:
        return '<p class="none">Nothing has happened yet.</p>'
    return f'<ol class="events">{"".join(event_row(event) for event in reversed(shown))}</ol>'


def event_row(event: Event) -> str:
    """One line."""
    fields = " ".join(f"{name}={value}" for name, value in event.fields.items())
    return (
        f'<li class="{escape(event.level)}"><time>{escape(event.timestamp[11:23])}</time> '
        f"<b>{escape(event.node)}</b> <code>{escape(event.name)}</code> "
        f"<span>{escape(fields)}</span></li>"
    )
