"""A cluster of real processes of its own, for a test or a scenario.

Ports: each region of a cluster takes a block of ten below the range from which the kernel takes
ports for outgoing connections, and holds the block by listening on its first port, which no node
uses. So runs that go on at the same time don't meet. The blocks of one cluster are 100 ports apart.
An edge has a block of its own, held likewise.
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

import msgspec

from cluster import processes
from cluster.edge import EDGE
from cluster.settings import ClusterSettings
from cluster.vardir import VarDirectory

NODES_MAX: Final = 9
_PORT_BASES: Final = [
    base + 10 * block for base in range(20_000, 29_001, 3_000) for block in range(80)
]
_EDGE_BASES: Final = range(19_000, 19_900, 20)
#: Of the block's first port: the claim, the edge's own statistics, and another balancer's ports.
_EDGE_CLAIM, _EDGE_ADMIN, _OTHER_EDGE = 9, 5, 10
_COMMAND_TIMEOUT_S: Final = 60.0
_COMMAND_ENDS_WITHIN_S: Final = 15.0
_REQUEST_TIMEOUT_S: Final = 10.0
_POLL_S: Final = 0.02


class ClusterError(Exception):
    """Real processes did not do what they should. One sentence, then what they said."""


class Answer(NamedTuple):
    """An HTTP answer, whatever its status."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        """The body, decoded: every body of this API is an object."""
        decoded: dict[str, Any] = json.loads(self.body)
        return decoded


class LocalCluster:
    """Regions of ``nodes`` nodes each, a1 and so on, in a VAR under ``directory``.

    Nothing runs before ``up``; ``close`` ends whatever runs. With ``edge``, there is one before
    the nodes if this machine has Envoy; without, a node that is stopped need not drain.
    """

    def __init__(
        self,
        directory: Path,
        *,
        nodes: int = 3,
        regions: int = 1,
        config: str = "",
        edge: bool = False,
    ) -> None:
        assert 1 <= nodes <= NODES_MAX
        self.directory = directory
        self.var = VarDirectory(directory / "var")
        #: Nodes by region.
        self.regions = {
            region: [f"{region}{number}" for number in range(1, nodes + 1)]
            for region in "abc"[:regions]
        }
        self.nodes = [node for region in self.regions.values() for node in region]
        self.port_base, self._claims = _claim_ports(regions)
        self.edge_port = 0
        drain = "drain_s = 0\n"
        if edge:
            self.edge_port, claim = claim_edge_ports()
            self._claims.append(claim)
            drain = ""
        ports = "".join(f"{key} = {port}\n" for key, port in edge_ports(self.edge_port).items())
        self._config = directory / "config.toml"
        self._config.write_text(f"{config}\n[edge]\n{ports}{drain}", encoding="utf-8")

    def stele(self, *arguments: str, exit_code: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Run ``stele`` from the directory that holds VAR. ``exit_code`` None: any will do."""
        return self._run(self.command(*arguments), exit_code)

    def start_command(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Begin to run ``stele``; for what is to be looked at while it is under way."""
        return subprocess.Popen(
            self.command(*arguments), cwd=self.directory, stdout=subprocess.DEVNULL
        )

    def command(self, *arguments: str) -> list[str]:
        """The command line behind ``stele``."""
        return [sys.executable, "-m", "cluster", *arguments, "--var", "var"]

    def up(self, exit_code: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Create or start the cluster; ready, and each node connected to all, on return."""
        done = self.stele("up", *self.up_options, exit_code=exit_code)
        if exit_code == 0:
            self.wait_connected()
        return done

    def wait_connected(self) -> None:
        """A node is ready when it has a quorum; ?w=all needs the last connection too."""
        wait_until(lambda: all(self._is_connected(node) for node in self.nodes))

    def _is_connected(self, node: str) -> bool:
        members = self.status(node)["members"]
        regions = self.view(node, "regions")["regions"]
        return all(member["connected"] for member in members) and all(
            seen["connected"] == self.regions[region] for region, seen in regions.items()
        )

    def wait_level(self) -> None:
        """Until each node knows that all that was written anywhere before now is in its region."""
        now_ms = time.time() * 1000
        wait_until(lambda: all(self._knows_all_until(node, now_ms) for node in self.nodes))

    def _knows_all_until(self, node: str, at_ms: float) -> bool:
        regions = self.view(node, "regions")["regions"]
        return all((seen["watermark_ms"] or 0) > at_ms for seen in regions.values())

    def initialise(self, node: str) -> None:
        """Make an empty database for a node that has lost its own."""
        self._run(processes.make_command(self.var, node, self.var.cluster_file), 0)

    @property
    def up_options(self) -> list[str]:
        """What follows ``stele up``."""
        return [
            *("--nodes", str(len(self.regions["a"]))),
            *("--regions", str(len(self.regions))),
            *("--port-base", str(self.port_base)),
            *("--config", str(self._config)),
        ]

    def kill(self, node: str) -> None:
        """SIGKILL, behind the back of ``stele``; gone on return."""
        found = processes.find_node(self.var, node)
        if found is None:
            raise ClusterError(f"{node} is not running\n{self.logs()}")
        processes.kill([found])

    def send_signal(self, node: str, number: signal.Signals) -> None:
        """SIGSTOP and SIGCONT hang a node and let it go on."""
        os.kill(self.running()[node], number)

    def start(self, node: str) -> None:
        """Start one node; ready on return."""
        self.stele("start", node)

    def start_at_once(self, node: str) -> None:
        """Start one node and don't wait for it."""
        processes.start_node(self.var, node)

    def running(self) -> dict[str, int]:
        """Pids by node. Read off the process table, so that one without a pid file is found too."""
        directories = {
            os.fsencode(self.var.node_directory(node).resolve()): node for node in self.nodes
        } | {os.fsencode(self.var.edge_file.resolve()): EDGE}
        pids = {}
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):  # it has ended in the meantime
                for argument in entry.read_bytes().split(b"\0"):
                    if argument in directories:
                        pids[directories[argument]] = int(entry.parent.name)
        return pids

    def http_url(self, node: str) -> str:
        """The data listener."""
        return f"http://127.0.0.1:{self.port_base + self._offset(node)}"

    def ops_url(self, node: str) -> str:
        """The operations listener."""
        return f"http://127.0.0.1:{self.port_base + 2000 + self._offset(node)}"

    def _offset(self, node: str) -> int:
        return 100 * (1 + list(self.regions).index(node[0])) + int(node[1:])

    @property
    def edge_url(self) -> str:
        """One URL for clients."""
        return f"http://127.0.0.1:{self.edge_port}"

    @property
    def other_edge(self) -> ClusterSettings:
        """The cluster's settings, with ports for a balancer that a test starts by itself."""
        settings, port = self.var.settings(), self.edge_port + _OTHER_EDGE
        replace = msgspec.structs.replace
        return replace(settings, edge=replace(settings.edge, **edge_ports(port)))

    def status(self, node: str) -> dict[str, Any]:
        """What the node says of itself and of the others."""
        return self.view(node, "status")

    def view(self, node: str, name: str) -> dict[str, Any]:
        """``/admin/NAME`` of a node."""
        return call("GET", f"{self.ops_url(node)}/admin/{name}").json

    def logs(self) -> str:
        """All that the nodes said."""
        return "".join(
            f"--- {node}\n{self.var.log_file(node).read_text(errors='replace')}"
            for node in self.nodes
            if self.var.log_file(node).exists()
        )

    def events(self, node: str, name: str) -> list[dict[str, Any]]:
        """What a node has logged under an event's name, over all its starts."""
        return [event for event in self.log(node) if event.get("event") == name]

    def log(self, node: str) -> list[dict[str, Any]]:
        """All events that a node has logged, over all its starts."""
        lines = self.var.log_file(node).read_text(errors="replace").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def close(self) -> None:
        """Kill what runs and give the ports back. The files stay, for whoever looks why."""
        for pid in self.running().values():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.release_ports()

    def release_ports(self) -> None:
        """Let others have the block of ports, once the nodes are gone or hold it by themselves."""
        for claim in self._claims:
            claim.close()

    def _run(self, command: list[str], exit_code: int | None) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; one that is cut short has stopped what it had started."""
        # In a session of its own: Ctrl-C is for whoever runs this, and ends the command gently.
        with subprocess.Popen(
            command,
            cwd=self.directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                out, err = process.communicate(timeout=_COMMAND_TIMEOUT_S)
            except BaseException:
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_COMMAND_ENDS_WITHIN_S)
                process.kill()
                raise
        if exit_code is not None and process.returncode != exit_code:
            what = " ".join(command[2:4])
            raise ClusterError(f"`{what}` ended with {process.returncode}\n{out}{err}{self.logs()}")
        return subprocess.CompletedProcess(command, process.returncode, out, err)


def call(
    method: str, url: str, body: object = None, headers: dict[str, str] | None = None
) -> Answer:
    """One request; ``body`` is sent as JSON. A node that can't be reached raises URLError."""
    request = urllib.request.Request(  # noqa: S310 (a loopback address)
        url,
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"} | (headers or {}),
    )
    try:
        with urllib.request.urlopen(request, timeout=_REQUEST_TIMEOUT_S) as answer:  # noqa: S310
            return Answer(answer.status, dict(answer.headers), answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, dict(error.headers), error.read())


def wait_until(condition: Callable[[], object], within_s: float = 20.0) -> None:
    """Real processes give no signal when they get somewhere: look again and again."""
    deadline_s = time.monotonic() + within_s
    while not condition():
        if time.monotonic() >= deadline_s:
            raise ClusterError(f"not within {within_s:g} s")
        time.sleep(_POLL_S)


def _claim_ports(regions: int) -> tuple[int, list[socket.socket]]:
    """A base whose ports are free, and the sockets that hold it for this cluster."""
    for port_base in random.sample(_PORT_BASES, len(_PORT_BASES)):
        blocks = range(port_base, port_base + 100 * regions, 100)
        claims = [claim for block in blocks if (claim := _listen(block)) is not None]
        ports = (
            block + offset + number
            for block in blocks
            for offset in (100, 1100, 2100)
            for number in range(1, NODES_MAX + 1)
        )
        if len(claims) == regions and all(_is_free(port) for port in ports):
            return port_base, claims
        for claim in claims:
            claim.close()
    raise ClusterError("every block of ports is taken")


def edge_ports(port: int) -> dict[str, int]:
    """The ports of an edge in the half of a block that begins with ``port``."""
    return {"port": port, "admin_port": port + _EDGE_ADMIN}


def claim_edge_ports() -> tuple[int, socket.socket]:
    """The first port of a free block for edges, and the socket that holds it."""
    for port in random.sample(_EDGE_BASES, len(_EDGE_BASES)):
        claim = _listen(port + _EDGE_CLAIM)
        if claim is None:
            continue
        mine = [port + offset for offset in range(2 * _OTHER_EDGE) if offset != _EDGE_CLAIM]
        if all(_is_free(one) for one in mine):
            return port, claim
        claim.close()
    raise ClusterError("every block of ports for edges is taken")


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
