"""Processes of a cluster on this machine: started, found again by a later command, and stopped.

Rules
-----
1. A pid file is a hint. A process is a node, or the edge, only if its command line says so, for
   pids are reused and files outlive processes. Nothing else is ever signalled.
2. Each runs in its own session, so Ctrl-C in the terminal reaches the command and not the
   others; the command decides what becomes of them.
3. A process is gone when its last thread is: only then are its ports free and its database
   unlocked. Its entry may stay behind as a zombie for a parent that does not reap.

Reads /proc, so this is for Linux.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cluster.edge import EDGE
from cluster.vardir import VarDirectory

_POLL_S: Final = 0.02
#: A killed process frees what it held; only a disk that hangs delays it further.
_GONE_AFTER_KILL_S: Final = 5.0
_LOG_TAIL_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class NodeProcess:
    """A process, told apart from a later one with the same pid by its start."""

    pid: int
    #: Clock ticks since boot.
    started_ticks: int

    def is_alive(self) -> bool:
        """Whether any of its threads still runs."""
        state, started_ticks = _state(self.pid)
        if not state or started_ticks != self.started_ticks:
            return False
        return state != "Z" or len(_threads(self.pid)) > 1

    def age_s(self) -> float:
        """Seconds since it was started."""
        booted_s = time.clock_gettime(time.CLOCK_BOOTTIME)
        return booted_s - self.started_ticks / os.sysconf("SC_CLK_TCK")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens when the process is gone."""
        if self.is_alive():
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return


def run_command(var: VarDirectory, node: str) -> list[str]:
    """``python -m kvnode run`` for one node, with the absolute paths that ``find_node`` reads."""
    secret = ("--secret-file", str(var.secret_file.resolve()))
    return [*_python("kvnode", "run"), *_node(var, node, var.cluster_file), *secret]


def make_command(var: VarDirectory, node: str, cluster_file: Path, *options: str) -> list[str]:
    """``python -m kvnode.storage`` for one node."""
    return [*_python("kvnode.storage", *options), *_node(var, node, cluster_file)]


def _python(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-P", "-m", module, *arguments]


def _node(var: VarDirectory, node: str, cluster_file: Path) -> list[str]:
    return [
        *("--cluster-file", str(cluster_file.resolve())),
        *("--node", node),
        *("--directory", str(var.node_directory(node).resolve())),
    ]


def spawn(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a command in its own session, its output appended to ``log``."""
    with log.open("ab") as output:
        return subprocess.Popen(  # noqa: S603 (this interpreter and paths of VAR)
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            umask=0o077,
        )


def start_node(var: VarDirectory, node: str) -> NodeProcess:
    """Start one node and write its pid file."""
    return start(var, node, run_command(var, node))


def start(var: VarDirectory, name: str, command: list[str]) -> NodeProcess:
    """Start a process under the name by which ``find_node`` knows it, and write its pid file."""
    log, pid_file = var.log_file(name), var.pid_file(name)
    for path in (log, pid_file):
        path.parent.mkdir(exist_ok=True)
    child = spawn(command, log)
    process = NodeProcess(child.pid, _state(child.pid)[1])
    child.returncode = 0  # it outlives this command, so nobody is to wait for it
    try:
        pid_file.write_text(f"{child.pid}\n", encoding="ascii")
    except OSError:
        kill([process])
        raise
    return process


def find_node(var: VarDirectory, name: str) -> NodeProcess | None:
    """The process of a node or of the edge, if the pid file names one, and it is of this VAR."""
    try:
        pid = int(var.pid_file(name).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    _, started_ticks = _state(pid)
    process = NodeProcess(pid, started_ticks)
    return process if _is_ours(pid, var, name) and process.is_alive() else None


def stop(
    processes: Iterable[NodeProcess], grace_s: float, *, drain: bool = False
) -> list[NodeProcess]:
    """Ask all to stop, and SIGKILL those that are alive after ``grace_s``: they are returned.

    Args:
        drain: Let each first go out of the load balancers' rotation.
    """
    processes = list(processes)
    for process in processes:
        process.signal(signal.SIGTERM if drain else signal.SIGINT)
    return kill(_wait_until_gone(processes, grace_s))


def kill(processes: Iterable[NodeProcess]) -> list[NodeProcess]:
    """SIGKILL to all. Returns them when they are gone."""
    processes = list(processes)
    for process in processes:
        process.signal(signal.SIGKILL)
    _wait_until_gone(processes, _GONE_AFTER_KILL_S)
    return processes


def last_words(log: Path, since_bytes: int) -> str:
    """The last line of what was logged after ``since_bytes``; of a JSON event, its sentence."""
    try:
        with log.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(since_bytes, end - _LOG_TAIL_BYTES))
            lines = file.read().decode("utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        return ""
    line = next((line.strip() for line in reversed(lines) if line.strip()), "")
    try:
        event = json.loads(line)
    except ValueError:
        return line
    return str(event.get("detail", line)) if isinstance(event, dict) else line


def _wait_until_gone(processes: list[NodeProcess], within_s: float) -> list[NodeProcess]:
    """Returns those that are not."""
    deadline_s = time.monotonic() + within_s
    while alive := [process for process in processes if process.is_alive()]:
        if time.monotonic() >= deadline_s:
            return alive
        time.sleep(_POLL_S)
    return []


def _is_ours(pid: int, var: VarDirectory, name: str) -> bool:
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    if name == EDGE:
        return os.fsencode(var.edge_file.resolve()) in arguments
    directory = os.fsencode(var.node_directory(name).resolve())
    return b"kvnode" in arguments and b"run" in arguments and directory in arguments


def _state(pid: int) -> tuple[str, int]:
    """The state's letter and the start in ticks; an empty letter if there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "", 0
    # The second field is the program's name in parentheses, and may contain any character.
    fields = stat.rpartition(")")[2].split()
    return fields[0], int(fields[19])


def _threads(pid: int) -> list[str]:
    try:
        return os.listdir(f"/proc/{pid}/task")  # noqa: PTH208 (only the names count)
    except OSError:
        return []
