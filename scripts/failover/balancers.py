"""The programs that can be the edge, each started in front of the same cluster."""

import csv
import http.client
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from cluster.balancer import edge_url, envoy_command, find_envoy, nodes_in_rotation
from cluster.edge import READY_PATH, cluster_of, regions
from cluster.haproxy import haproxy_configuration
from cluster.operations import NoAnswer
from cluster.settings import ClusterSettings
from scripts.local_cluster import ClusterError, LocalCluster, call, wait_until

ENVOY: Final = "envoy"
HAPROXY: Final = "haproxy"
_STOPS_WITHIN_S: Final = 5.0


class Balancer(msgspec.Struct, frozen=True):
    """An edge that runs."""

    name: str
    settings: ClusterSettings

    @property
    def url(self) -> str:
        """One URL for clients."""
        return edge_url(self.settings)

    def rotation(self) -> list[str]:
        """Nodes that it sends requests to."""
        try:
            if self.name == ENVOY:
                return nodes_in_rotation(self.settings)
            return _haproxy_rotation(self.settings)
        except (NoAnswer, OSError, http.client.HTTPException):
            return []

    def answers(self) -> bool:
        """Whether anything listens, with a node behind it or without."""
        try:
            return bool(call("GET", self.url + READY_PATH).status)
        except OSError:
            return False

    def wait_for(self, nodes: list[str]) -> None:
        """Until it sends requests to exactly these."""
        wait_until(lambda: sorted(self.rotation()) == sorted(nodes))


def missing(name: str) -> str:
    """Why there can't be such a balancer here; empty if there can."""
    return "" if _program(name) else f"{name} is not installed"


@contextmanager
def balancing(name: str, settings: ClusterSettings, directory: Path) -> Iterator[Balancer]:
    """A balancer that is the edge of ``settings``; it has asked every node on entry."""
    program = _program(name)
    assert program is not None, missing(name)
    file = directory / f"{name}.conf"
    if name == ENVOY:
        command = envoy_command(program, settings, file)
    else:
        file.write_text(haproxy_configuration(settings), encoding="utf-8")
        command = [str(program), "-db", "-f", str(file)]
    with _running(command, directory / f"{name}.log"):
        balancer = Balancer(name, settings)
        wait_until(balancer.answers)
        yield balancer


@contextmanager
def in_front_of(cluster: LocalCluster, name: str) -> Iterator[Balancer]:
    """A balancer with all nodes of a cluster in rotation. Envoy is the cluster's own edge."""
    if name == ENVOY:
        balancer = Balancer(name, cluster.var.settings())
        balancer.wait_for(cluster.nodes)
        yield balancer
        return
    with balancing(name, cluster.other_edge, cluster.directory) as balancer:
        balancer.wait_for(cluster.nodes)
        yield balancer


def _program(name: str) -> Path | None:
    if name == ENVOY:
        return find_envoy()
    found = shutil.which("haproxy")
    return Path(found) if found else None


@contextmanager
def _running(command: list[str], log: Path) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield
    except ClusterError as error:
        said = log.read_text(errors="replace")
        raise ClusterError(f"{error}\n--- {log.name}\n{said}") from error
    finally:
        process.terminate()
        try:
            process.wait(_STOPS_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _haproxy_rotation(settings: ClusterSettings) -> list[str]:
    url = f"http://{settings.edge.host}:{settings.edge.admin_port}/;csv"
    with urllib.request.urlopen(url, timeout=1) as answer:
        rows = csv.DictReader(answer.read().decode().removeprefix("# ").splitlines())
    backend, nodes = cluster_of(regions(settings)[0]), [node.id for node in settings.node]
    return [
        row["svname"]
        for row in rows
        if row["pxname"] == backend and row["svname"] in nodes and row["status"].startswith("UP")
    ]
