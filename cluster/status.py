"""What a local cluster looks like from outside: processes from VAR, the rest from each node itself.

Rules
-----
1. Every node is asked at the same time and with one short deadline, so a hung node costs a second
   and not a second each.
2. A node's word counts before its pid file: what answers is running.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from typing import Final

from cluster import processes
from cluster.operations import NoAnswer, NodeStatus, node_status
from cluster.processes import NodeProcess
from cluster.seen import EdgeState, EdgeView, NodeState, NodeView, unready
from cluster.settings import NodeSettings
from cluster.vardir import VarDirectory

_TIMEOUT_S: Final = 2.0


class ClusterState(Enum):
    """From best to worst; the value is the exit code of ``stele status``."""

    OK = 0
    DEGRADED = 1
    UNREACHABLE = 3


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
    return answered(node, process, status)


def answered(node: NodeSettings, process: NodeProcess | None, status: NodeStatus) -> NodeView:
    """A node that has answered with its status."""
    if status.ready:
        return NodeView(node, NodeState.READY, process, status, ", ".join(status.warnings))
    return NodeView(node, NodeState.NOT_READY, process, status, unready(status))
