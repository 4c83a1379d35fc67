"""Writing a cluster file that an operator can edit without looking anything up.

Every setting stands in the file, with one line on what it is for, its unit and its default. A test
holds that no setting lacks its line.
"""

import json
import re
import textwrap
from collections.abc import Container
from typing import Final

import msgspec

from cluster.settings import ClusterSettings, NodeSettings

_WIDTH: Final = 96

_HEAD = """\
# A Stele cluster: every setting and every node. Nodes read this file when they start, so an edit
# takes effect with the next restart. `stele config check FILE` says whether it is sound.
# Units are in the names: _s seconds, _ms milliseconds, _bytes bytes.

# Made once. A node whose directory belongs to another cluster refuses to start.
cluster_id = {cluster_id}
"""

_TABLES: Final = {
    "replication": "copies of a document, and how many must answer",
    "storage": "the engine and its disk",
    "hints": "writes kept for a node that is down",
    "antientropy": "comparing copies in the background",
    "lifecycle": "how long what was deleted stays on disk",
    "regions": "bringing writes to the other regions",
    "gossip": "membership and failure detection",
    "http": "deadlines and bounds of the data listener",
    "trace": "which requests leave traces, and where those go",
    "log": "how much is told of what happens often",
    "edge": "the load balancer in front of the nodes",
}

WHY: Final = {
    "replication.copies": "Copies of each document in each region, each on its own node (N).",
    "replication.read_quorum": (
        'Copies that must answer a read (R): "one", "quorum", "all" or a count. Requests may ask '
        "for others. R + W above N gives read-your-writes on every node."
    ),
    "replication.write_quorum": (
        'Nodes that must have a write on disk (W): "one", "quorum", "all" or a count.'
    ),
    "replication.sloppy": "Whether a hint on a stand-in counts toward W while an owner is down.",
    "replication.partitions": (
        "Pieces of the id space, a power of two. Fixed for the life of the cluster."
    ),
    "storage.fsync": (
        '"always": a write is acknowledged after fsync. "interval": fsync each second, which a '
        'power cut may cost. "os": never; a killed process loses nothing, a power cut may.'
    ),
    "storage.ballast_bytes": "Kept allocated, so that deletes still work on a full disk.",
    "storage.disk_low_bytes": "With less free space than this, creates are refused (507).",
    "hints.window_s": "A hint older than this is dropped, and repair fills the gap.",
    "hints.target_bytes_max": "Hints that one node keeps for one other node.",
    "hints.total_bytes_max": "Hints that one node keeps for all others together.",
    "hints.rate_bytes_per_s": "Speed of delivering hints. Low enough to leave room for clients.",
    "antientropy.interval_s": "How often a node compares its documents with each other owner's.",
    "antientropy.rate_bytes_per_s": "Speed of comparing and repairing, below that of clients.",
    "lifecycle.tombstone_retention_s": (
        "How long a deletion is remembered. Longer than any outage a node may come back from, and "
        "not less than clocks may differ."
    ),
    "lifecycle.purge_bucket_s": (
        "What has ended leaves the disk in whole buckets of this length. Fixed for the life of the "
        "cluster."
    ),
    "lifecycle.sweep_interval_s": "How often what has ended is looked for and removed.",
    "lifecycle.clock_skew_max_s": "How far the clocks of two nodes may differ.",
    "regions.outbox_bytes_max": (
        "Writes that one node keeps for regions that have yet to get them. Beyond it the oldest "
        "are dropped, and their partitions compared instead."
    ),
    "regions.batch_bytes_max": "Size of one batch of writes on its way to another region.",
    "regions.ship_interval_s": (
        "How often new writes are sent, and the other regions told how far this node has come."
    ),
    "regions.compare_interval_s": (
        "How often a node compares its documents with each other owner's in another region."
    ),
    "gossip.interval_s": "Time between two rounds. Shorter notices a dead node sooner.",
    "http.request_timeout_ms": "A request that names no deadline gets this one, none gets more.",
    "http.header_timeout_s": "A client must have sent its headers by then (408).",
    "http.body_timeout_s": "A client must have sent its body by then (408).",
    "http.idle_timeout_s": "A connection without a request is closed after this.",
    "http.connections_max": "Connections to one node.",
    "http.requests_max": "Requests that one node serves at once; more are refused (429).",
    "trace.sample_ratio": (
        "Share of requests that leave a trace, of those whose traceparent does not say so itself. "
        "0: none, 1: all."
    ),
    "trace.per_s_max": "Traces that one node begins a second, whoever asks for them.",
    "trace.slow_ms": (
        "A request that takes longer, or fails with 5xx, leaves a span even if it was not traced, "
        "and its trace is remembered for longer."
    ),
    "trace.otlp_endpoint": (
        'Traces are sent to this OpenTelemetry collector, as "http://127.0.0.1:4318". Needs the '
        "extra: pip install 'stele[otel]'. Empty: they stay in the nodes' memory."
    ),
    "trace.otlp_queue_max": "Spans that wait to be sent there; more are dropped, and counted.",
    "log.documents_per_s": (
        "Lines a second in a node's log for documents that are created, for those that are "
        "deleted, and for keys that were given two bodies. The others are counted."
    ),
    "edge.host": "Where the edge listens. A loopback address: there is no TLS yet.",
    "edge.port": (
        "One URL for clients. The ports after it prefer one region each, in the order of the nodes "
        "below. 0: no edge is started."
    ),
    "edge.admin_port": "Statistics of the edge itself, for operators.",
    "edge.drain_s": (
        "A node that stops says so on /readyz and serves on for this long, so that no load "
        "balancer sends it anything when it is gone."
    ),
}

_TABLE_BEGINS: Final = re.compile(r"^(?=\[)", re.MULTILINE)
_NODE_ID: Final = re.compile(r"""\s*id\s*=\s*["']([a-z0-9-]+)["']""")
_JOINS: Final = re.compile(r"\s*joins\s*=\s*true\b")

_NODES = """\

# The nodes. Each region has all documents; weight is a node's share of its region's, relative to
# the others (default 1). The copies in a region go to different zones. host must be a loopback
# address: there is no TLS yet. One with joins = true was added to a cluster that was there already:
# it takes no part before `stele layout commit` lets it in. Nodes keep on their disks who takes part
# since then, so weights and zones here count for a new cluster only.
"""


def render_cluster_file(settings: ClusterSettings) -> str:
    """The text of a cluster file that reads back as ``settings``."""
    defaults = msgspec.to_builtins(ClusterSettings(cluster_id=settings.cluster_id, node=()))
    parts = [_HEAD.format(cluster_id=_toml(settings.cluster_id))]
    for table, values in msgspec.to_builtins(settings).items():
        if table in ("cluster_id", "node"):
            continue
        parts.append(f"\n[{table}]  # {_TABLES[table]}\n")
        for key, value in values.items():
            default = defaults[table][key]
            why = f"{WHY[f'{table}.{key}']} Default {_toml(default)}{_in_words(key, default)}."
            parts += (f"# {line}\n" for line in textwrap.wrap(why, _WIDTH))
            parts.append(f"{key} = {_toml(value)}\n")
    parts.append(_NODES)
    parts += (_node(node) for node in settings.node)
    return "".join(parts)


def with_node(text: str, node: NodeSettings) -> str:
    """A cluster file's text with one node more, behind the others of its region.

    What else is in it stays as it is.
    """
    tables = _TABLE_BEGINS.split(text)
    region = re.compile(rf'^\s*region\s*=\s*"{re.escape(node.region)}"', re.MULTILINE)
    alike = [n for n, one in enumerate(tables) if one.startswith("[[node]]") and region.search(one)]
    place = alike[-1] if alike else len(tables) - 1
    following = "\n" if place < len(tables) - 1 else ""
    tables[place] = tables[place].rstrip("\n") + "\n" + _node(node) + following
    return "".join(tables)


def without_node(text: str, name: str, members: Container[str]) -> str:
    """The text without a node. Those of ``members`` that have joined are nodes like all others.

    A table that can't be told apart line by line stays: whoever writes the result must read it.
    """
    kept: list[str] = []
    table: list[str] = []
    for line in [*text.splitlines(keepends=True), "[\n"]:
        if line.lstrip().startswith("["):
            kept += _kept(table, name, members)
            table = []
        table.append(line)
    return "".join(kept)


def _kept(table: list[str], name: str, members: Container[str]) -> list[str]:
    if not table or table[0].strip() != "[[node]]":
        return table
    found = next((match[1] for line in table if (match := _NODE_ID.match(line))), "")
    if found == name:
        return []
    return [line for line in table if found not in members or not _JOINS.match(line)]


def _node(node: NodeSettings) -> str:
    values = msgspec.to_builtins(node)
    if not node.joins:
        del values["joins"]
    return "\n[[node]]\n" + "".join(f"{key} = {_toml(value)}\n" for key, value in values.items())


def _toml(value: object) -> str:
    """A scalar. JSON's string escapes are TOML's as well, once DEL is escaped."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, bool | str):
        return json.dumps(value).replace("\x7f", "\\u007f")
    return repr(value)


def _in_words(key: str, value: object) -> str:
    """`` (64 MiB)`` or `` (3 h)``, where the bare number is hard to read."""
    scales: tuple[tuple[int, str], ...] = ()
    if "bytes" in key:
        scales = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))
    elif key.endswith("_s"):
        scales = ((86_400, "d"), (3_600, "h"))
    for size, unit in scales:
        if isinstance(value, int | float) and value >= size and value % size == 0:
            return f" ({value / size:.0f} {unit})"
    return ""
