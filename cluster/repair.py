"""Commands that begin long work on nodes and watch it: repair, drain, trust."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cluster import operations
from cluster.answers import unreachable
from cluster.interrupts import Interrupted, Interrupts
from cluster.launch import say
from cluster.operations import Declined, JobView, NoAnswer
from cluster.settings import NodeSettings
from cluster.startup import LaunchError

_TIMEOUT_S: Final = 5.0
_POLL_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Repaired:
    """What became of a repair."""

    #: By node that began, the last that is known.
    jobs: dict[str, JobView]
    #: Nodes that did not answer, or were lost on the way.
    silent: list[str]


def repair(nodes: Sequence[NodeSettings], console: Console, *, wait: bool) -> Repaired:
    """Have nodes compare all that they share with their peers, and tell how it goes.

    Raises:
        Unreachable: none of them answers.
    """
    jobs: dict[str, JobView] = {}
    silent: list[str] = []
    for node in nodes:
        try:
            jobs[node.id] = operations.begin(node, "repair", _TIMEOUT_S)
        except NoAnswer as error:
            say(console, f"{node.id} does not answer ({error})")
            silent.append(node.id)
    if not jobs:
        raise unreachable(nodes)
    asked = [node for node in nodes if node.id in jobs]
    if not wait:
        for node in asked:
            say(console, f"{node.id} begins: {jobs[node.id].total} comparisons of partitions")
        return Repaired(jobs, silent)
    with Interrupts() as interrupts:
        silent += _watch(asked, jobs, console, interrupts, _repairing)
    for node in asked:
        done = jobs[node.id]
        if node.id not in silent:
            say(
                console,
                f"{node.id} compared {done.done} copies of partitions with its peers'; "
                f"sent {done.pushed:,} documents, fetched {done.pulled:,}",
            )
    return Repaired(jobs, silent)


def _watch(
    nodes: Sequence[NodeSettings],
    jobs: dict[str, JobView],
    console: Console,
    interrupts: Interrupts,
    waits: Callable[[JobView], str],
) -> list[str]:
    """Follow jobs to their end; the nodes that were lost on the way."""
    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    ]
    lost: list[str] = []
    with Progress(*columns, console=console, transient=True) as progress:
        bars = {node.id: progress.add_task(node.id, total=jobs[node.id].total) for node in nodes}
        left = list(nodes)
        while left:
            for node in list(left):
                try:
                    interrupts.check()
                except Interrupted:
                    say(console, "the nodes go on by themselves; `stele doctor` shows the rest")
                    raise
                try:
                    found = jobs[node.id] = operations.job(node, jobs[node.id].id, _TIMEOUT_S)
                except NoAnswer as error:
                    say(console, f"{node.id} was lost ({error})")
                    lost.append(node.id)
                    left.remove(node)
                    continue
                progress.update(
                    bars[node.id],
                    total=found.total,
                    completed=found.done,
                    description=node.id + waits(found),
                )
                if found.state != "running":
                    left.remove(node)
            time.sleep(_POLL_S if left else 0)
    return lost


def rebuild(node: NodeSettings, console: Console) -> None:
    """Have a node that runs believe nothing that it holds before it was rebuilt; watch that.

    Raises:
        Unreachable: it does not answer, or is lost on the way.
        LaunchError: it won't, for others could not give it all back.
    """
    try:
        job = operations.begin(node, f"nodes/{node.id}/replace", _TIMEOUT_S)
    except NoAnswer as error:
        raise unreachable([node]) from error
    except Declined as error:
        raise LaunchError(f"{error}.") from error
    with Interrupts() as interrupts:
        lost = _watch([node], {node.id: job}, console, interrupts, lambda _: " (partitions)")
    if lost:
        raise unreachable([node])
    say(console, f"{node.id} was rebuilt from its peers: {job.total} partitions")


def _repairing(job: JobView) -> str:
    return f" (with {', '.join(job.peers)})" if job.peers else ""


def _draining(job: JobView) -> str:
    if job.writes:
        return f" ({job.writes:,} writes to hand on)"
    return f" (last asked by a client {job.quiet_s:.0f} s ago)"


def drain(nodes: Sequence[NodeSettings], console: Console, *, wait: bool) -> list[str]:
    """Have nodes leave service, and tell how it goes. Returns those that can't be stopped yet.

    Raises:
        Unreachable: one does not answer.
        LaunchError: one won't.
    """
    jobs: dict[str, JobView] = {}
    for node in nodes:
        try:
            jobs[node.id] = operations.begin(node, f"nodes/{node.id}/drain", _TIMEOUT_S)
        except NoAnswer as error:
            raise unreachable([node]) from error
        except Declined as error:
            raise LaunchError(f"{node.id} is not drained: {error}.") from error
    if wait:
        with Interrupts() as interrupts:
            _watch(nodes, jobs, console, interrupts, _draining)
    for name, job in jobs.items():
        if job.state == "cancelled":
            say(console, f"{name} serves again: somebody has taken that back")
    return [name for name, job in jobs.items() if job.state != "done"]


def end_drain(nodes: Sequence[NodeSettings], console: Console) -> list[str]:
    """Have nodes serve again. Returns those that are not ready all the same.

    Raises:
        Unreachable: one does not answer.
    """
    late: list[str] = []
    for node in nodes:
        try:
            found = operations.end_drain(node, _TIMEOUT_S)
        except NoAnswer as error:
            raise unreachable([node]) from error
        if not found.ready:
            late.append(node.id)
            say(console, f"{node.id} is not ready all the same: {', '.join(found.reasons)}")
    return late


def trust(node: NodeSettings, console: Console) -> None:
    """Have a node serve what it holds, although it may have missed deletions.

    Raises:
        Unreachable: it does not answer.
        LaunchError: it won't.
    """
    try:
        done = operations.begin(node, "trust", _TIMEOUT_S)
    except NoAnswer as error:
        raise unreachable([node]) from error
    except Declined as error:
        raise LaunchError(f"{error}.") from error
    say(console, f"{node.id} serves {done.total} partitions again; its peers rebuild from it")
