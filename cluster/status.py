"""What a local cluster looks like from outside: processes from VAR, the rest from each node itself.

Rules
-----
1. Every node is asked at the same time and with one short deadline, so a hung node costs a second
   and not a second each.
2. A node's word counts before its pid file: what answers is running.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Final

from cluster import processes
from cluster.balancer import EdgeState, EdgeView
from cluster.operations import NoAnswer, NodeStatus, node_status
from cluster.processes import NodeProcess
from cluster.regionpairs import Pair, pairs
from cluster.settings import NodeSettings
from cluster.vardir import VarDirectory

_TIMEOUT_S: Final = 2.0


class NodeState(Enum):
    """From best to worst."""

    READY = "ready"
    NOT_READY = "not ready"
    #: The process runs and its operations listener says nothing.
    SILENT = "silent"
    DOWN = "down"


class ClusterState(Enum):
    """From best to worst; the value is the exit code of ``stele status``."""

    OK = 0
    DEGRADED = 1
    UNREACHABLE = 3


@dataclass(frozen=True, slots=True)
class NodeView:
    """One node, asked once."""

    node: NodeSettings
    state: NodeState
    process: NodeProcess | None
    #: The node's own answer; None when it gave none.
    status: NodeStatus | None
    #: What is wrong and what to do about it; empty when nothing is.
    advice: str


def look(var: VarDirectory, nodes: Sequence[NodeSettings]) -> list[NodeView]:
    """Ask every node, in the order given."""
    with ThreadPoolExecutor(max_workers=len(nodes)) as pool:
        return list(pool.map(lambda node: _look(var, node), nodes))


def judge(views: Sequence[NodeView], edge: EdgeView | None) -> ClusterState:
    """OK only when every node is ready, warns of nothing, and thinks every other one alive.

    And the edge is ready, if there is to be one.
    """
    if not any(view.status for view in views):
        return ClusterState.UNREACHABLE
    sound = all(
        view.state is NodeState.READY and not view.advice and not doubted(view) for view in views
    )
    sound = sound and (edge is None or edge.state is EdgeState.READY)
    return ClusterState.OK if sound else ClusterState.DEGRADED


def doubted(view: NodeView) -> list[str]:
    """``a2 dead``, for every member that this node does not think alive."""
    members = view.status.members if view.status else []
    return [f"{member.id} {member.state}" for member in members if member.state != "alive"]


def hints_held(status: NodeStatus) -> int:
    """Writes that the node keeps for others."""
    return sum(held.count for held in status.hints.values())


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


def _look(var: VarDirectory, node: NodeSettings) -> NodeView:
    process = processes.find_node(var, node.id)
    log = var.log_file(node.id)
    try:
        status = node_status(node, _TIMEOUT_S)
    except NoAnswer as error:
        if process:
            advice = f"runs but does not answer ({error}); `tail {log}` shows what it last said"
            return NodeView(node, NodeState.SILENT, process, None, advice)
        start = f"{var.command(f'stele start {node.id}')} starts it"
        advice = f"is down; {start}"
        if var.pid_file(node.id).exists():  # nobody stopped it
            advice = f"ended by itself or was killed; {start}"
        return NodeView(node, NodeState.DOWN, None, None, advice)
    if status.ready:
        return NodeView(node, NodeState.READY, process, status, ", ".join(status.warnings))
    reasons = ", ".join(status.reasons) or "it gives no reason"
    return NodeView(node, NodeState.NOT_READY, process, status, f"is not ready: {reasons}")
