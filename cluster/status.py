"""What a local cluster looks like from outside: processes from VAR, the rest from each node itself.

Rules
-----
1. Every node is asked at the same time and with one short deadline, so a hung node costs a second
   and not a second each.
2. A node's word counts before its pid file: what answers is running.
"""

import dataclasses
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
        views = list(pool.map(lambda node: _look(var, node), nodes))
    members = _members(views)
    return [
        view
        if view.status or view.node.id in members.get(view.node.region, [view.node.id])
        else _outside(var, view)
        for view in views
    ]


def _members(views: Sequence[NodeView]) -> dict[str, list[str]]:
    """By region, who takes part in it: the newest that any node knows."""
    layouts = [view.status.layout for view in views if view.status and view.status.layout]
    newest = {
        region: max((one.regions[region] for one in layouts), key=lambda known: known.epoch)
        for region in dict.fromkeys(region for one in layouts for region in one.regions)
    }
    return {region: layout.ids for region, layout in newest.items()}


def _outside(var: VarDirectory, view: NodeView) -> NodeView:
    """A node that is no member and says nothing."""
    forget = var.command(f"stele forget {view.node.id}")
    advice = f"takes no part in region {view.node.region}; {forget} takes it out of the file"
    if view.process:
        return dataclasses.replace(view, state=NodeState.OUTSIDE)
    return dataclasses.replace(view, state=NodeState.OUTSIDE, advice=advice)


def judge(views: Sequence[NodeView], edge: EdgeView | None) -> ClusterState:
    """OK only when every node is ready, warns of nothing, and thinks every other one alive.

    And the edge is ready, if there is to be one.
    """
    if not any(view.status for view in views):
        return ClusterState.UNREACHABLE
    sound = all(
        view.state is NodeState.READY and not view.advice and not doubted(view)
        for view in views
        if view.state is not NodeState.OUTSIDE
    )
    sound = sound and (edge is None or edge.state is EdgeState.READY)
    return ClusterState.OK if sound else ClusterState.DEGRADED


def doubted(view: NodeView) -> list[str]:
    """``a2 dead``, for every member that this node does not think alive."""
    members = view.status.members if view.status and view.state is not NodeState.OUTSIDE else []
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
    layout = status.layout
    outside = layout is not None and node.id not in layout.own.ids
    state = NodeState.OUTSIDE if outside else NodeState.NOT_READY
    return NodeView(node, state, process, status, unready(status))
