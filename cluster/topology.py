"""Which nodes a cluster has and how it is set: reading, planning and checking the cluster file.

Rules
-----
1. Reading is strict. A key that nothing names and a value out of bounds are refused at start,
   never ignored or clamped: a misspelt retention would otherwise delete data on the default's day.
2. A refusal is one sentence: the file, the key, what is allowed, what to do.
3. CONFIG overrides settings once, when the cluster is created. After that the cluster file is
   the only truth, so two starts cannot differ by what was typed.
4. What single values cannot say (quorums within copies, distinct ports, loopback only) is
   checked in one place, ``check``, for planned and for edited files alike.
"""

import math
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from cluster.edge import EDGE, listeners
from cluster.refusal import explain
from cluster.settings import ClusterSettings, NodeSettings, ReplicationSettings, is_loopback

#: Three zones hold three copies; more would spread nodes without adding safety.
ZONES: Final = 3
REGIONS_MAX: Final = 3
#: Node numbers within a region are the last two digits of a port.
NODES_MAX: Final = 99
PORT_MAX: Final = 65_535
#: Distance of each listener's port from PORT_BASE, before region and node number are added.
_HTTP, _RPC, _OPS = 0, 1000, 2000
_EDGE: Final = 80


class TopologyError(Exception):
    """A cluster file, CONFIG or secret that cannot be used. The message is one whole sentence."""


def read_cluster_file(path: Path) -> ClusterSettings:
    """The settings in ``path``, checked. Raises TopologyError."""
    return _checked(_read_toml(path), str(path))


def has_settings_only(path: Path) -> bool:
    """Whether a file is a CONFIG, without a cluster's id and nodes. Raises TopologyError."""
    return not {"cluster_id", "node"} & _read_toml(path).keys()


def node_named(settings: ClusterSettings, name: str) -> NodeSettings:
    """One node of a cluster. Raises TopologyError when it has none of that name."""
    for node in settings.node:
        if node.id == name:
            return node
    known = ", ".join(node.id for node in settings.node)
    raise TopologyError(f"the cluster file has no node {name!r}; it has {known}")


def plan_cluster(
    *, cluster_id: str, nodes: int, regions: int, port_base: int, config: Path | None
) -> ClusterSettings:
    """The settings of a new local cluster.

    Args:
        cluster_id: 32 hexadecimal digits.
        nodes: Nodes per region, 1..99, spread over three zones in turn.
        regions: 1..3, called a, b, c.
        port_base: Listeners of region a are at +101.. (HTTP), +1101.. (RPC) and +2101..
            (operations), those of region b 100 further, and so on.
        config: A TOML file whose tables override the defaults, if any.

    Raises:
        TopologyError: with the argument's or the file's name.
    """
    if not 1 <= regions <= REGIONS_MAX:
        raise TopologyError(f"REGIONS={regions}: a cluster has 1 to {REGIONS_MAX} regions.")
    if not 1 <= nodes <= NODES_MAX:
        raise TopologyError(f"NODES={nodes}: a region has 1 to {NODES_MAX} nodes.")
    highest = PORT_MAX - (_OPS + 100 * regions + nodes)
    if not 1 <= port_base <= highest:
        raise TopologyError(
            f"PORT_BASE={port_base}: {regions} x {nodes} nodes need a port base from 1 to "
            f"{highest}."
        )
    overrides = _read_overrides(config) if config else {}
    # Fewer nodes than the default number of copies is a wish for a small cluster, not a mistake.
    copies = min(ReplicationSettings().copies, nodes)
    replication = overrides.get("replication", {})
    if isinstance(replication, dict):
        overrides["replication"] = {"copies": copies} | replication
    ports = {"port": port_base + _EDGE + _HTTP, "admin_port": port_base + _EDGE + _OPS}
    edge = overrides.get("edge", {})
    if isinstance(edge, dict):
        overrides["edge"] = ports | edge
    planned = [
        _planned_node(name, region, number, port_base)
        for region, name in enumerate("abc"[:regions], 1)
        for number in range(1, nodes + 1)
    ]
    return _checked(
        {"cluster_id": cluster_id, **overrides, "node": planned}, str(config or "the plan")
    )


def newcomer(
    settings: ClusterSettings, name: str, *, region: str | None, zone: str | None, weight: float
) -> NodeSettings:
    """A node for a local cluster, on the ports after those of its region.

    Raises:
        TopologyError: the name is taken, or does not say which region is meant.
    """
    if any(node.id == name for node in settings.node):
        raise TopologyError(f"there is a node {name} already.")
    of = [one for one in settings.region_names if name.startswith(one)]
    chosen = region or max(of, key=len, default=None)
    its = settings.region_nodes(chosen or "")
    if chosen is None or not its:
        names = ", ".join(settings.region_names)
        raise TopologyError(f"say which region {name} is for, with --region; there are {names}.")
    count_of = {one: sum(node.zone == one for node in its) for one in (n.zone for n in its)}
    highest = max(its, key=lambda node: node.http_port)
    taken = {port for node in settings.node for port in node.ports}
    taken |= {one.port for one in listeners(settings)} | {settings.edge.admin_port}
    step = next(
        step for step in range(1, NODES_MAX) if taken.isdisjoint(_ports_after(highest, step))
    )
    http_port, rpc_port, ops_port = _ports_after(highest, step)
    node = NodeSettings(
        id=name,
        region=chosen,
        zone=zone or min(count_of, key=lambda one: count_of[one]),
        weight=weight,
        host=highest.host,
        http_port=http_port,
        rpc_port=rpc_port,
        ops_port=ops_port,
        joins=True,
    )
    with_it = msgspec.structs.replace(settings, node=(*settings.node, node))
    return _checked(msgspec.to_builtins(with_it), f"node {name}").node[-1]


def _ports_after(node: NodeSettings, step: int) -> tuple[int, ...]:
    return tuple(port + step for port in node.ports)


def overridden(settings: ClusterSettings, config: Path) -> ClusterSettings:
    """``settings`` with CONFIG's tables laid over them; equal to ``settings`` if they agree."""
    merged = msgspec.to_builtins(settings)
    for name, table in _read_overrides(config).items():
        known = merged.get(name)
        merged[name] = (
            known | table if isinstance(known, dict) and isinstance(table, dict) else table
        )
    return _checked(merged, str(config))


def check(settings: ClusterSettings, source: str) -> None:
    """Refuse what no single value shows to be wrong. ``source`` names the file in messages."""
    for complaint in _complaints(settings):
        raise TopologyError(f"{source}: {complaint}")


def _complaints(settings: ClusterSettings) -> Iterator[str]:
    """Why ``settings`` cannot be run, worst first."""
    yield from _complaints_about_values(settings)
    if not settings.node:
        yield "there is no [[node]]; add at least one."
    yield from _complaints_about_nodes(settings.node)
    yield from _complaints_about_edge(settings)
    copies = settings.replication.copies
    for region in settings.region_names:
        nodes = settings.region_nodes(region)
        count = sum(not node.joins for node in nodes)
        besides = " that do not join" if count < len(nodes) else ""
        if copies > count:
            yield (
                f"replication.copies = {copies} needs as many nodes in region {region}, which has "
                f"{count}{besides}; lower copies or add nodes."
            )


def _complaints_about_values(settings: ClusterSettings) -> Iterator[str]:
    replication = settings.replication
    for name in ("read_quorum", "write_quorum"):
        quorum = getattr(replication, name)
        if isinstance(quorum, int) and quorum > replication.copies:
            yield (
                f"replication.{name} = {quorum} can never be met with replication.copies = "
                f"{replication.copies}; use 1 to {replication.copies}, or raise copies."
            )
    partitions = replication.partitions
    if partitions & (partitions - 1):
        yield (
            f"replication.partitions = {partitions} must be a power of two; "
            f"use {1 << partitions.bit_length() - 1}."
        )
    lifecycle = settings.lifecycle
    if lifecycle.tombstone_retention_s < lifecycle.clock_skew_max_s:
        # A clock that is behind dates a new document before deletions that are purged already,
        # and it is taken for a late copy of what one of them deleted.
        yield (
            f"lifecycle.tombstone_retention_s = {lifecycle.tombstone_retention_s:g} must be at "
            f"least lifecycle.clock_skew_max_s = {lifecycle.clock_skew_max_s:g}."
        )
    # TOML can spell inf and nan, and no bound above refuses them.
    for table, values in msgspec.to_builtins(settings).items():
        for name, value in values.items() if isinstance(values, dict) else ():
            if isinstance(value, float) and not math.isfinite(value):
                yield f"{table}.{name} = {value} must be a finite number."


def _complaints_about_nodes(nodes: tuple[NodeSettings, ...]) -> Iterator[str]:
    ids: set[str] = set()
    listeners: dict[tuple[str, int], str] = {}
    for node in nodes:
        if node.id in ids:
            yield f"two nodes are called {node.id}; give each its own id."
        ids.add(node.id)
        if node.id == EDGE:
            yield f'a node is called "{EDGE}", as the load balancer is; give it another id.'
        if not is_loopback(node.host):
            yield (
                f'node {node.id} has host = "{node.host}", but without TLS, which this version '
                f'does not have, nodes listen on loopback only; write host = "127.0.0.1".'
            )
        for name in ("http_port", "rpc_port", "ops_port"):
            listener = node.host, getattr(node, name)
            key = f"{name} of node {node.id}"
            if listener in listeners:
                yield (
                    f"{listeners[listener]} and {key} are both {listener[1]}; give each listener "
                    "its own port."
                )
            listeners[listener] = key


def _complaints_about_edge(settings: ClusterSettings) -> Iterator[str]:
    edge = settings.edge
    if not edge.port:
        return
    if not is_loopback(edge.host):
        yield (
            f'edge.host = "{edge.host}", but without TLS, which this version does not have, the '
            f'edge listens on loopback only; write host = "127.0.0.1".'
        )
    taken = {(node.host, port): f"node {node.id}" for node in settings.node for port in node.ports}
    ports = [(one.name, one.port) for one in listeners(settings)]
    for name, port in [*ports, ("edge.admin_port", edge.admin_port)]:
        if not 1 <= port <= PORT_MAX:
            yield f"{name} = {port} is no port; choose edge.port and edge.admin_port anew."
        elif (other := taken.setdefault((edge.host, port), name)) != name:
            yield f"{other} and {name} both have port {port}; choose edge.port anew."


def _planned_node(
    region: str, region_number: int, number: int, port_base: int
) -> dict[str, object]:
    port = port_base + 100 * region_number + number
    return {
        "id": f"{region}{number}",
        "region": region,
        "zone": f"z{(number - 1) % ZONES + 1}",
        "http_port": port + _HTTP,
        "rpc_port": port + _RPC,
        "ops_port": port + _OPS,
    }


def _read_overrides(config: Path) -> dict[str, object]:
    overrides = _read_toml(config)
    for key, instead in (("node", "NODES"), ("cluster_id", "the cluster file")):
        if key in overrides:
            raise TopologyError(
                f"{config}: {key} cannot be set here, it comes from {instead}; remove it."
            )
    return overrides


def _read_toml(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TopologyError(f"{path}: cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise TopologyError(
            f"{path}: is not valid UTF-8 (byte {error.start}); save it as UTF-8."
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise TopologyError(f"{path}: is not valid TOML: {error}; correct it there.") from error


def _checked(raw: dict[str, object], source: str) -> ClusterSettings:
    try:
        settings = msgspec.convert(raw, ClusterSettings, strict=True)
    except msgspec.ValidationError as error:
        raise TopologyError(f"{source}: {explain(error, raw, ClusterSettings)}") from error
    check(settings, source)
    return settings
