"""Nodes that are added to a local cluster, and taken out of it: file, database, process.

Rules
-----
1. A node that is added runs, and takes no part: it is let in by a change of owners
   (``cluster.changes``). One that has left is taken out of the file when it is stopped.
2. Each step can be repeated after an interruption: what is there is found to be there.
3. What a forgotten node had on its disk is put aside, not removed.
4. The edge is told each time (``cluster.balancer``).
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from rich.console import Console

from cluster import balancer, launch, ports, processes, startup
from cluster.changes import look
from cluster.clusterfile import with_node, without_node
from cluster.interrupts import Interrupts
from cluster.launch import say
from cluster.ports import busy_port
from cluster.settings import ClusterSettings, NodeSettings
from cluster.startup import LaunchError
from cluster.topology import newcomer
from cluster.vardir import VarDirectory


@dataclass(frozen=True, slots=True)
class Newcomer:
    """What was typed of a node that is to be added; None where nothing was."""

    name: str
    region: str | None = None
    zone: str | None = None
    weight: float | None = None


def add(var: VarDirectory, wanted: Sequence[Newcomer], console: Console) -> list[NodeSettings]:
    """Have nodes in the file, with databases, running. Returns them as the file names them.

    Raises:
        LaunchError, VarError, TopologyError, Interrupted.
    """
    with Interrupts() as interrupts, var.locked():
        nodes = [_in_file(var, one, console) for one in wanted]
        empty = [node for node in nodes if not var.node_directory(node.id).exists()]
        startup.initialise_nodes(var, empty, var.cluster_file, interrupts)
        stopped = [node.id for node in nodes if not processes.find_node(var, node.id)]
        if stopped:
            with launch.starting(var, stopped, console, interrupts) as begun:
                startup.wait_until_ready(begun, launch.START_WITHIN_S, console, interrupts)
                silent = [one.id for one in begun if one.unready == startup.NO_ANSWER]
                if silent:
                    raise LaunchError(f"{', '.join(silent)} does not answer.")
            say(console, f"{', '.join(stopped)} runs, and takes no part yet")
        balancer.update_edge(var, var.settings())
    return nodes


def _in_file(var: VarDirectory, wanted: Newcomer, console: Console) -> NodeSettings:
    settings = var.settings()
    for node in settings.node:
        if node.id == wanted.name:
            return node
    node = newcomer(
        settings,
        wanted.name,
        region=wanted.region,
        zone=wanted.zone,
        weight=1.0 if wanted.weight is None else wanted.weight,
    )
    if complaint := busy_port(ports.of_nodes([node])):
        raise LaunchError(f"{complaint}; stop that process.")
    text = with_node(var.cluster_file.read_text(encoding="utf-8"), node)
    alike = [n for n, one in enumerate(settings.node) if one.region == node.region]
    place = alike[-1] + 1
    nodes = (*settings.node[:place], node, *settings.node[place:])
    var.rewrite(text, msgspec.structs.replace(settings, node=nodes))
    say(console, f"added {node.id} in zone {node.zone} to {var.cluster_file}")
    return node


def forget(var: VarDirectory, names: Sequence[str], console: Console) -> None:
    """Take nodes that are no members, and don't run, out of the file.

    Raises:
        LaunchError: one runs, or is a member.
        Unreachable: nobody can say who is one.
    """
    with var.locked():
        for node in launch.named(var, names):
            _forget(var, node, console)
        balancer.update_edge(var, var.settings())


def _forget(var: VarDirectory, node: NodeSettings, console: Console) -> None:
    settings = var.settings()
    if processes.find_node(var, node.id):
        raise LaunchError(f"{node.id} runs; {var.command(f'stele stop {node.id}')} stops it.")
    members = {
        member
        for region in settings.region_names
        for member in look(settings, region, without=node.id).own.ids
    }
    if node.id in members:
        raise LaunchError(
            f"{node.id} is a member of region {node.region}; "
            f"{var.command(f'stele leave {node.id}')} has it give all away first."
        )
    left = _without(settings, node.id, members)
    text = without_node(var.cluster_file.read_text(encoding="utf-8"), node.id, members)
    var.rewrite(text, left)
    var.pid_file(node.id).unlink(missing_ok=True)
    say(console, f"{node.id} is no more in {var.cluster_file}")
    when = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    if (aside := var.put_aside(node.id, when)) is not None:
        say(console, f"what it had is in {aside} now; remove it when all is well")


def _without(settings: ClusterSettings, name: str, members: set[str]) -> ClusterSettings:
    replace = msgspec.structs.replace
    nodes = (
        replace(node, joins=node.joins and node.id not in members)
        for node in settings.node
        if node.id != name
    )
    return replace(settings, node=tuple(nodes))
