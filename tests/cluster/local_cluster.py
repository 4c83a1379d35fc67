"""A cluster of real processes for one test.

Ports: each cluster takes a block of ten below the range from which the kernel takes ports for
outgoing connections, and holds the block by listening on its first port, which no node uses.
So test runs that go on at the same time don't meet.
"""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from cluster import processes
from cluster.vardir import VarDirectory

NODES_MAX: Final = 9
_PORT_BASES: Final = [
    base + 10 * block for base in range(20_000, 29_001, 3_000) for block in range(80)
]
_COMMAND_TIMEOUT_S: Final = 60.0
_REQUEST_TIMEOUT_S: Final = 10.0
_POLL_S: Final = 0.02


class Answer(NamedTuple):
    """An HTTP answer, whatever its status."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


class LocalCluster:
    """One region of ``nodes`` nodes, a1 and so on, in a VAR under ``directory``.

    Nothing runs before ``up``; ``close`` ends whatever runs.
    """

    def __init__(self, directory: Path, *, nodes: int = 3, config: str = "") -> None:
        assert 1 <= nodes <= NODES_MAX
        self.directory = directory
        self.var = VarDirectory(directory / "var")
        self.nodes = [f"a{number}" for number in range(1, nodes + 1)]
        self.port_base, self._claim = _claim_ports()
        self._config = directory / "config.toml"
        self._config.write_text(config, encoding="utf-8")

    def stele(self, *arguments: str, exit_code: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Run ``stele`` from the directory that holds VAR. ``exit_code`` None: any will do."""
        done = subprocess.run(
            self.command(*arguments),
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=_COMMAND_TIMEOUT_S,
            check=False,
        )
        if exit_code is not None:
            assert done.returncode == exit_code, f"{done.stdout}{done.stderr}{self.logs()}"
        return done

    def command(self, *arguments: str) -> list[str]:
        """The command line behind ``stele``."""
        return [sys.executable, "-m", "cluster", *arguments, "--var", "var"]

    def up(self, exit_code: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Create or start the cluster; ready, and each node connected to all, on return."""
        done = self.stele("up", *self.up_options, exit_code=exit_code)
        if exit_code == 0:
            wait_until(lambda: all(map(self._sees_all, self.nodes)))
        return done

    def _sees_all(self, node: str) -> bool:
        # A node is ready when it has a quorum; ?w=all needs the last connection too.
        return all(member["connected"] for member in self.status(node)["members"])

    @property
    def up_options(self) -> list[str]:
        """What follows ``stele up``."""
        return [
            *("--nodes", str(len(self.nodes))),
            *("--port-base", str(self.port_base)),
            *("--config", str(self._config)),
        ]

    def kill(self, node: str) -> None:
        """SIGKILL, behind the back of ``stele``; gone on return."""
        found = processes.find_node(self.var, node)
        assert found, f"{node} is not running"
        processes.kill([found])

    def send_signal(self, node: str, number: signal.Signals) -> None:
        """SIGSTOP and SIGCONT hang a node and let it go on."""
        os.kill(self.running()[node], number)

    def start(self, node: str) -> None:
        """Start one node; ready on return."""
        self.stele("start", node)

    def running(self) -> dict[str, int]:
        """Pids by node. Read off the process table, so that one without a pid file is found too."""
        directories = {
            os.fsencode(self.var.node_directory(node).resolve()): node for node in self.nodes
        }
        pids = {}
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):  # it has ended in the meantime
                for argument in entry.read_bytes().split(b"\0"):
                    if argument in directories:
                        pids[directories[argument]] = int(entry.parent.name)
        return pids

    def http_url(self, node: str) -> str:
        """The data listener."""
        return f"http://127.0.0.1:{self.port_base + 100 + int(node[1:])}"

    def ops_url(self, node: str) -> str:
        """The operations listener."""
        return f"http://127.0.0.1:{self.port_base + 2100 + int(node[1:])}"

    def status(self, node: str) -> Any:
        """What the node says of itself and of the others."""
        return call("GET", f"{self.ops_url(node)}/admin/status").json

    def logs(self) -> str:
        """All that the nodes said."""
        return "".join(
            f"--- {node}\n{self.var.log_file(node).read_text(errors='replace')}"
            for node in self.nodes
            if self.var.log_file(node).exists()
        )

    def close(self) -> None:
        """Kill what runs and give the ports back. The files stay, for whoever looks why."""
        for pid in self.running().values():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._claim.close()


def call(
    method: str, url: str, body: object = None, headers: dict[str, str] | None = None
) -> Answer:
    """One request; ``body`` is sent as JSON. A node that can't be reached raises URLError."""
    request = urllib.request.Request(
        url,
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"} | (headers or {}),
    )
    try:
        with urllib.request.urlopen(request, timeout=_REQUEST_TIMEOUT_S) as answer:
            return Answer(answer.status, dict(answer.headers), answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, dict(error.headers), error.read())


def wait_until(condition: Callable[[], object], within_s: float = 20.0) -> None:
    """Real processes give no signal when they get somewhere: look again and again."""
    deadline_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {within_s:g} s"
        time.sleep(_POLL_S)


def _claim_ports() -> tuple[int, socket.socket]:
    """A base whose ports are free, and the socket that holds it for this test."""
    for port_base in random.sample(_PORT_BASES, len(_PORT_BASES)):
        claim = _listen(port_base)
        if claim is None:
            continue
        ports = [
            port_base + offset + number
            for offset in (100, 1100, 2100)
            for number in range(1, NODES_MAX + 1)
        ]
        if all(_is_free(port) for port in ports):
            return port_base, claim
        claim.close()
    raise AssertionError("every block of ports is taken")


def _listen(port: int) -> socket.socket | None:
    try:
        return socket.create_server(("127.0.0.1", port))
    except OSError:
        return None


def _is_free(port: int) -> bool:
    probe = _listen(port)
    if probe is not None:
        probe.close()
    return probe is not None
