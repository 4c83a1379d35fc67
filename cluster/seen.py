"""What is seen of the processes of a cluster from outside, asked once."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import TYPE_CHECKING

import msgspec

from cluster.operations import NodeStatus
from cluster.regionpairs import Pair, pairs
from cluster.settings import NodeSettings

if TYPE_CHECKING:
    from cluster.processes import NodeProcess


class NodeState(Enum):
    """From best to worst."""

    READY = "ready"
    #: It is no member of its region: it was not let in yet, or has left.
    OUTSIDE = "outside"
    NOT_READY = "not ready"
    #: The process runs and its operations listener says nothing.
    SILENT = "silent"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class NodeView:
    """One node."""

    node: NodeSettings
    state: NodeState
    process: "NodeProcess | None"
    #: The node's own answer; None when it gave none.
    status: NodeStatus | None
    #: What is wrong and what to do about it; empty when nothing is.
    advice: str


def unready(status: NodeStatus) -> str:
    """Why a node that answers is not ready, in words; empty if it is."""
    reasons = ", ".join(status.reasons) or "it gives no reason"
    return "" if status.ready else f"is not ready: {reasons}"


class EdgeState(Enum):
    """From best to worst."""

    READY = "ready"
    #: It runs, and no node takes requests.
    NOT_READY = "not ready"
    #: The process runs and says nothing.
    SILENT = "silent"
    DOWN = "down"


class EdgeView(msgspec.Struct, frozen=True):
    """The edge."""

    url: str
    state: EdgeState
    process: "NodeProcess | None"
    #: Nodes that it sends requests to.
    rotation: list[str]
    #: What is wrong and what to do about it; empty when nothing is.
    advice: str


def region_pairs(views: Sequence[NodeView]) -> list[Pair]:
    """How far each region is with each other one's writes."""
    nodes_of: dict[str, list[str]] = {}
    for view in views:
        nodes_of.setdefault(view.node.region, []).append(view.node.id)
    said = {view.node.id: view.status.regions for view in views if view.status}
    return pairs(nodes_of, said)


def moment(wall_ms: int) -> str:
    """When something was, in UTC."""
    return f"{datetime.fromtimestamp(wall_ms / 1000, UTC):%Y-%m-%d %H:%M:%S}"
