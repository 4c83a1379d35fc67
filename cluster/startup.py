"""Bringing processes to readiness: made once, started, watched until they serve.

Rules
-----
1. A node's directory is made when the cluster is created, or replaced at an operator's word. A node
   that finds its directory missing has lost its disk, and must not come back unasked.
2. A process that ends while it is waited for is reported with the last line that it logged.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from rich.console import Console

from cluster import processes
from cluster.interrupts import Interrupts
from cluster.operations import NoAnswer, Readiness, readiness
from cluster.processes import NodeProcess
from cluster.settings import NodeSettings
from cluster.vardir import VarDirectory

#: What is said of a process that has said nothing.
NO_ANSWER: Final = "no answer yet"
_POLL_S: Final = 0.05
_PROBE_TIMEOUT_S: Final = 1.0


class LaunchError(Exception):
    """The cluster cannot be brought into the wanted state. The message is one whole sentence."""


@dataclass(slots=True)
class Starting:
    """A node or the edge on its way to readiness."""

    id: str
    process: NodeProcess
    log: Path
    #: Length of the log before this start.
    logged_bytes: int
    #: Asks it, with a timeout in seconds. Raises NoAnswer.
    ask: Callable[[float], Readiness]
    #: Why it does not serve yet; None once it does.
    unready: str | None = NO_ANSWER
    #: It answers, and is no part of its region: there is nothing to wait for.
    outside: bool = False

    def is_late(self, *, members: bool) -> bool:
        """Whether it is to be waited for; see ``wait_until_ready``."""
        return self.unready is not None and (members or not self.outside)

    def observe(self) -> None:
        """Ask it. Raises LaunchError when its process has ended."""
        if not self.process.is_alive():
            words = processes.last_words(self.log, self.logged_bytes) or "it said nothing"
            raise LaunchError(f"{self.id} ended at its start: {words} (log {self.log})")
        try:
            answer = self.ask(_PROBE_TIMEOUT_S)
        except NoAnswer:
            return
        self.outside = not answer.takes_part
        self.unready = None if answer.ready else ", ".join(answer.reasons) or "not ready"


def initialise_nodes(
    var: VarDirectory,
    nodes: Iterable[NodeSettings],
    cluster_file: Path,
    interrupts: Interrupts,
    *options: str,
) -> None:
    """Make every node's directory. Raises LaunchError, with the node's own words.

    Args:
        options: Of ``python -m kvnode.storage``.
    """
    running = {
        node.id: processes.spawn(
            processes.make_command(var, node.id, cluster_file, *options),
            var.log_file(node.id),
        )
        for node in nodes
    }
    try:
        while any(process.poll() is None for process in running.values()):
            interrupts.check()
            time.sleep(_POLL_S)
    finally:
        for process in running.values():
            process.kill()  # does nothing to one that has ended
            process.wait()
    for node, process in running.items():
        if process.returncode:
            log = var.log_file(node)
            words = processes.last_words(log, 0) or f"exit code {process.returncode}"
            raise LaunchError(f"node {node} could not be initialised: {words} (log {log})")


def start_node(var: VarDirectory, node: NodeSettings) -> Starting:
    """Start one node."""
    command = processes.run_command(var, node.id)
    return start(var, node.id, command, partial(readiness, node))


def start(
    var: VarDirectory, name: str, command: list[str], ask: Callable[[float], Readiness]
) -> Starting:
    """Start a process under its name."""
    log = var.log_file(name)
    logged_bytes = log.stat().st_size if log.exists() else 0
    return Starting(name, processes.start(var, name, command), log, logged_bytes, ask)


def wait_until_ready(
    starting: Sequence[Starting],
    within_s: float,
    console: Console,
    interrupts: Interrupts,
    *,
    members: bool = False,
) -> list[Starting]:
    """Watch until all serve or time is up. Returns those that are still to.

    Args:
        members: They are known to be members of their regions, and will hear so themselves.

    Raises:
        LaunchError: a process has ended.
        Interrupted: between two looks.
    """
    deadline_s = time.monotonic() + within_s
    with console.status("starting") as line:
        while late := [one for one in starting if one.is_late(members=members)]:
            if time.monotonic() >= deadline_s:
                return late
            for one in late:
                interrupts.check()
                one.observe()
            states = (f"{one.id} {one.unready or 'ready'}" for one in starting)
            line.update(f"starting: {' · '.join(states)}")
            time.sleep(_POLL_S)
    return []
