"""One node at one glance: all that the console shows of it, in one answer.

It is what the operations listener shows in several views, so each of them says what it says there.
"""

from heapq import nlargest
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

import msgspec

from cluster.operations import (
    ConflictsView,
    HintsView,
    LifecycleView,
    MembersView,
    NodeStatus,
    QuarantineView,
)
from cluster.rates import Traffic
from cluster.traces import TraceView
from kvnode.eventring import EventRing
from kvnode.ringviews import members
from kvnode.status import conflicts, hints, lifecycle, quarantine, status
from kvnode.traceviews import summary
from kvnode.tracing import Tracer

if TYPE_CHECKING:
    from kvnode.node import Node

#: Of one answer. A console that was just opened has caught up after some.
_EVENTS_MAX: Final = 500
#: The newest of an answer, and the slowest.
_TRACES_MAX: Final = 8


class Told(msgspec.Struct, frozen=True):
    """A line of the log."""

    id: str
    line: str


class Glance(msgspec.Struct, frozen=True):
    """A node's answer to the console."""

    status: NodeStatus
    hints: HintsView
    lifecycle: LifecycleView
    quarantine: QuarantineView
    members: MembersView
    conflicts: ConflictsView
    #: Since the node started.
    traffic: Traffic
    #: Partitions that nothing is said of until a peer has confirmed this node's disk.
    joining: int
    #: Some of this node's: the newest, and the slowest that it remembers.
    traces: list[TraceView]
    #: What happened after the event that was asked behind.
    events: list[Told]


def glance(node: "Node", traffic: Traffic, events: EventRing, after: str | None) -> dict[str, Any]:
    """``/ui/glance``; ``after`` is the id of the last event that is known."""
    position = events.resume(after).position
    return {
        "status": {"version": version("stele"), **status(node)},
        "hints": hints(node),
        "lifecycle": lifecycle(node),
        "quarantine": quarantine(node),
        "members": members(node),
        "conflicts": conflicts(node),
        "traffic": msgspec.to_builtins(traffic),
        "joining": len(node.checkin.joining),
        "traces": _traces(node.tracer),
        "events": [
            {"id": events.id_of(event), "line": event.line}
            for event in events.after(position, _EVENTS_MAX)
        ],
    }


def _traces(tracer: Tracer) -> list[dict[str, Any]]:
    """Judged by the span that ended last: that is the whole request's, as a rule."""
    every = tracer.store.traces()
    chosen = nlargest(_TRACES_MAX, every, key=lambda spans: spans[-1].started_us)
    chosen += nlargest(_TRACES_MAX, every, key=lambda spans: spans[-1].duration_us)
    by_id = {spans[0].trace_id: spans for spans in chosen}
    return [summary(spans) for spans in by_id.values()]
