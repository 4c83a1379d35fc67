"""A cluster of real processes whose nodes reach each other through the network of ``proxy``.

Rules
-----
1. Each node reads a cluster file of its own, in which the ports of its peers are those of proxies.
   All else in it is the cluster's, so the nodes find the same ring. ``stele`` and clients use VAR's
   own file and reach the nodes directly.
2. What blocks runs in a thread: the proxies and the clients share the event loop.
"""

import asyncio
import contextlib
import secrets
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from cluster import processes, startup
from cluster.clusterfile import render_cluster_file
from cluster.interrupts import Interrupts
from cluster.layout import rings_of
from cluster.processes import NodeProcess
from cluster.settings import ClusterSettings
from cluster.topology import plan_cluster
from cluster.vardir import VarDirectory
from scripts.chaos.proxy import Network
from scripts.local_cluster import ClusterError, LocalCluster

#: A day of the cluster, so to say: all intervals and windows are short.
RETENTION_S: Final = 12.0
SKEW_S: Final = 0.5
#: Beyond it, the others purge without a node.
ABSENT_S: Final = RETENTION_S + 2 * SKEW_S
_CONFIG: Final = f"""\
[storage]
ballast_bytes = {16 << 20}
disk_low_bytes = {24 << 20}
[hints]
window_s = 8
target_bytes_max = 400000
[antientropy]
interval_s = 2
[lifecycle]
tombstone_retention_s = {RETENTION_S}
purge_bucket_s = 1
sweep_interval_s = 0.5
clock_skew_max_s = {SKEW_S}
[regions]
outbox_bytes_max = 2000
compare_interval_s = 4
[gossip]
interval_s = 0.5
"""
#: Of a node whose disk is to be filled.
SMALL_DISK_BYTES: Final = 320 << 20
_STOP_S: Final = 10.0
_POLL_S: Final = 0.1
_CHUNK_BYTES: Final = 1 << 20


@dataclass(frozen=True)
class OwnView(VarDirectory):
    """VAR with another cluster file."""

    file: Path = Path()

    @property
    def cluster_file(self) -> Path:
        """The node's own."""
        return self.file


class Arena:
    """The cluster, its network, and what can be done to its processes and disks.

    Args:
        seed: Of the network.
        edge: Ports for one are claimed; ``scripts.failover.balancers`` starts it.
    """

    def __init__(
        self,
        directory: Path,
        nodes: int,
        regions: int,
        seed: int,
        *,
        config: str = _CONFIG,
        edge: bool = False,
    ) -> None:
        self.directory = directory
        self.local = LocalCluster(directory, nodes=nodes, regions=regions, config=config, edge=edge)
        self.nodes = self.local.nodes
        self.settings = self._create()
        self.rings = rings_of(self.settings)
        addresses = {node.id: (node.host, node.rpc_port) for node in self.settings.node}
        self.network = Network(addresses, f"{seed}")
        self._running: dict[str, NodeProcess] = {}
        #: The node that has a small disk of its own, if any.
        self.small_disk: str | None = None

    @property
    def http_addresses(self) -> dict[str, tuple[str, int]]:
        """Where clients reach each node."""
        return {node.id: (node.host, node.http_port) for node in self.settings.node}

    async def up(self) -> None:
        """Start everything; all nodes connected on return."""
        await self.network.open()
        for node in self.nodes:
            self._view(node).file.write_text(
                render_cluster_file(self._seen_from(node)), encoding="utf-8"
            )
            self.start(node)
        await self.ready(self.nodes, within_s=60.0)

    async def close(self) -> None:
        """End whatever runs."""
        await asyncio.to_thread(self.local.close)
        await self.network.close()
        if self.small_disk is not None:
            await asyncio.to_thread(_unmount, self._directory(self.small_disk))

    # Processes ----------------------------------------------------------------------------------

    def start(self, node: str) -> None:
        """Start a node; nothing if it runs."""
        if not self.runs(node):
            self._running[node] = processes.start_node(self._view(node), node)

    async def kill(self, node: str) -> None:
        """SIGKILL; gone on return."""
        if self.runs(node):
            await asyncio.to_thread(processes.kill, [self._running[node]])

    async def stop(self, *nodes: str) -> list[str]:
        """SIGTERM; gone on return. Those that had to be killed are returned."""
        running = {node: self._running[node] for node in nodes if self.runs(node)}
        hung = await asyncio.to_thread(processes.stop, running.values(), _STOP_S)
        return [node for node, process in running.items() if process in hung]

    def signal(self, node: str, number: signal.Signals) -> None:
        """Nothing if it does not run."""
        if self.runs(node):
            self._running[node].signal(number)

    def runs(self, node: str) -> bool:
        """Whether its process is there."""
        return node in self._running and self._running[node].is_alive()

    async def view(self, node: str, name: str) -> dict[str, Any] | None:
        """``/admin/NAME`` of a node, or None if it does not answer."""
        try:
            return await asyncio.to_thread(self.local.view, node, name)
        except (OSError, ValueError):
            return None

    async def answers(self, node: str, within_s: float) -> None:
        """Wait until a node can be asked, ready or not. Raises ClusterError."""
        until_s = time.monotonic() + within_s
        while True:
            if await self.view(node, "status") is not None:
                return
            if time.monotonic() > until_s or not self.runs(node):
                words = processes.last_words(self.local.var.log_file(node), 0)
                raise ClusterError(f"{node} does not come up: {words}")
            await asyncio.sleep(_POLL_S)

    async def unready(self, nodes: list[str]) -> list[str]:
        """Why some of these nodes, connected to all of these, don't serve yet."""
        reasons = []
        for node, status, regions in zip(
            nodes,
            await asyncio.gather(*(self.view(node, "status") for node in nodes)),
            await asyncio.gather(*(self.view(node, "regions") for node in nodes)),
            strict=True,
        ):
            if status is None or regions is None:
                reasons.append(f"{node} does not answer")
                continue
            reasons += [f"{node}: {reason}" for reason in status["reasons"]]
            reasons += [
                f"{node} is not connected to {member['id']}"
                for member in status["members"]
                if member["id"] in nodes
                and not (member["connected"] and member["state"] == "alive")
            ]
            reasons += [
                f"{node} is not connected to {other}"
                for region, seen in regions["regions"].items()
                for other in self.local.regions[region]
                if other in nodes and other not in seen["connected"]
            ]
        return reasons

    async def ready(self, nodes: list[str], within_s: float) -> None:
        """Wait until these nodes serve and are connected. Raises ClusterError."""
        until_s = time.monotonic() + within_s
        while reasons := await self.unready(nodes):
            if time.monotonic() > until_s:
                raise ClusterError(f"after {within_s:g} s still: {'; '.join(reasons)}")
            for node in nodes:
                if not self.runs(node):
                    log = self.local.var.log_file(node)
                    raise ClusterError(f"{node} ended: {processes.last_words(log, 0)}")
            await asyncio.sleep(_POLL_S)

    # Disks --------------------------------------------------------------------------------------

    def mount_small_disk(self, node: str) -> str | None:
        """Give a node that does not run a small file system. Why not, if that can't be had."""
        directory = self._directory(node)
        kept = directory.with_name(f"{node}-kept")
        directory.rename(kept)
        directory.mkdir(mode=0o700)
        command = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK_BYTES}", "tmpfs"]
        try:
            done = subprocess.run(
                [*command, str(directory)], capture_output=True, text=True, check=False
            )
            why = done.stderr.strip() if done.returncode else None
        except FileNotFoundError:
            why = "there is no mount command"
        if why is None:
            self.small_disk = node
        for path in kept.iterdir():
            shutil.copyfile(path, directory / path.name)
        shutil.rmtree(kept)
        return why

    def fill(self, node: str) -> None:
        """Fill a node's small disk to its last byte."""
        assert node == self.small_disk
        with self._filler(node).open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(_CHUNK_BYTES))

    def empty(self, node: str) -> None:
        """Give back what ``fill`` took."""
        self._filler(node).unlink(missing_ok=True)

    def wipe(self, node: str) -> None:
        """Put an empty disk into a node that does not run."""
        for path in self._directory(node).iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.local.initialise(node)

    def database_files(self, node: str) -> list[Path]:
        """Of a node's directory, those that hold documents."""
        directory = self._directory(node)
        return sorted([*directory.glob("*.ldb"), *directory.glob("*.log")])

    def _directory(self, node: str) -> Path:
        return self.local.var.node_directory(node)

    def _filler(self, node: str) -> Path:
        return self._directory(node) / "others"

    # --------------------------------------------------------------------------------------------

    def _create(self) -> ClusterSettings:
        config = self.directory / "config.toml"
        settings = plan_cluster(
            cluster_id=secrets.token_hex(16),
            nodes=len(self.local.regions["a"]),
            regions=len(self.local.regions),
            port_base=self.local.port_base,
            config=config,
        )
        var = self.local.var
        with Interrupts() as interrupts, var.locked(make=True):
            var.create(
                settings,
                lambda file: startup.initialise_nodes(var, settings.node, file, interrupts),
            )
        return settings

    def _seen_from(self, node: str) -> ClusterSettings:
        replace = msgspec.structs.replace
        peers = tuple(
            peer if peer.id == node else replace(peer, rpc_port=self.network.ports[node, peer.id])
            for peer in self.settings.node
        )
        return replace(self.settings, node=peers)

    def _view(self, node: str) -> OwnView:
        return OwnView(self.local.var.root, self.directory / f"cluster-of-{node}.toml")


def _unmount(directory: Path) -> None:
    # Lazily: a process that a fault left behind may still have it open.
    subprocess.run(["umount", "--lazy", str(directory)], check=True)
