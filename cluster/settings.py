"""Everything an operator can set. Units are in the names; defaults are safe, not fast.

The tables of the cluster file, one class a table. ``cluster.topology`` reads and checks a whole
file; unknown keys and values out of bounds are refused there with the key's name.
"""

import ipaddress
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from cluster.ids import NodeId

PARTITIONS_MAX: Final = 4096

_PositiveSeconds = Annotated[float, Meta(gt=0)]
_Bytes = Annotated[int, Meta(ge=0)]
_Port = Annotated[int, Meta(ge=1, le=65535)]
_PortOrNone = Annotated[int, Meta(ge=0, le=65535)]
_Name = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,31}\Z")]
#: A count of replicas, or its name.
Quorum = Literal["one", "quorum", "all"] | Annotated[int, Meta(ge=1)]


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the file; a key that no field names is an error."""


class ReplicationSettings(_Table, frozen=True, kw_only=True):
    """``[replication]``: copies and quorums."""

    #: Copies of each document in a region (N).
    copies: Annotated[int, Meta(ge=1, le=9)] = 3
    #: Replicas that must answer a read (R) or have a write on disk (W) before the client hears.
    #: read_quorum + write_quorum > copies is the strong mode.
    read_quorum: Quorum = "one"
    write_quorum: Quorum = "one"
    #: Whether a stand-in's hint may count toward W while a primary is down.
    sloppy: bool = True
    #: A power of two, fixed when the cluster is created.
    partitions: Annotated[int, Meta(ge=1, le=PARTITIONS_MAX)] = 256


class StorageSettings(_Table, frozen=True, kw_only=True):
    """``[storage]``: the engine and its disk."""

    #: always: a write is acknowledged after fsync. interval: fsync once a second (a power cut
    #: loses up to that). os: never (a killed process loses nothing, a power cut may).
    fsync: Literal["always", "interval", "os"] = "always"
    #: Kept allocated so that deletes still work on a full disk.
    #: A database that met a full disk is opened again, which writes a table of up to a write buffer
    #: (64 MiB); then a buffer of deletions must fit.
    ballast_bytes: _Bytes = 160 * 1024 * 1024
    #: Below this much free space creates get 507.
    disk_low_bytes: _Bytes = 256 * 1024 * 1024


class HintSettings(_Table, frozen=True, kw_only=True):
    """``[hints]``: writes kept for a node that is down."""

    #: Age after which a hint is dropped and its range left to anti-entropy.
    window_s: _PositiveSeconds = 10_800.0
    target_bytes_max: _Bytes = 256 * 1024 * 1024
    total_bytes_max: _Bytes = 1024 * 1024 * 1024
    #: Delivery yields to client traffic by staying below this.
    rate_bytes_per_s: Annotated[int, Meta(ge=1024)] = 8 * 1024 * 1024


class LifecycleSettings(_Table, frozen=True, kw_only=True):
    """``[lifecycle]``: how long a deleted document's tombstone and content stay."""

    tombstone_retention_s: _PositiveSeconds = 2_592_000.0
    #: Deletions and expiries leave the disk in whole buckets of this length.
    purge_bucket_s: Annotated[float, Meta(ge=0.001)] = 3_600.0
    #: How often what has ended is looked for and removed.
    sweep_interval_s: _PositiveSeconds = 60.0
    #: Assumed bound on how far two nodes' clocks differ.
    clock_skew_max_s: Annotated[float, Meta(ge=0)] = 5.0

    @property
    def clock_skew_told_s(self) -> float:
        """From here on operators hear that clocks differ: in time to do something about it."""
        return self.clock_skew_max_s / 2


class AntiEntropySettings(_Table, frozen=True, kw_only=True):
    """``[antientropy]``: comparing replicas in the background."""

    #: How often a node compares each of its partitions with each co-owner.
    interval_s: _PositiveSeconds = 600.0
    #: Comparison and repair yield to client traffic by staying below this.
    rate_bytes_per_s: Annotated[int, Meta(ge=1024)] = 8 * 1024 * 1024


class RegionSettings(_Table, frozen=True, kw_only=True):
    """``[regions]``: bringing writes to the other regions."""

    #: Writes that other regions have yet to get, on one node. Beyond it the oldest are dropped, and
    #: their partitions compared as a whole.
    outbox_bytes_max: _Bytes = 1024 * 1024 * 1024
    #: Of one batch on its way; below the cap on a frame.
    batch_bytes_max: Annotated[int, Meta(ge=4096, le=512 * 1024)] = 192 * 1024
    #: How often what is new is sent, and how far a region has come is told.
    ship_interval_s: _PositiveSeconds = 0.2
    #: As [antientropy] interval_s, with the co-owners in other regions.
    compare_interval_s: _PositiveSeconds = 3_600.0


class GossipSettings(_Table, frozen=True, kw_only=True):
    """``[gossip]``: membership and failure detection."""

    interval_s: _PositiveSeconds = 1.0


class HttpSettings(_Table, frozen=True, kw_only=True):
    """``[http]``: deadlines and bounds of the data listener."""

    #: Deadline of a request that names none, and the cap on ``Stele-Timeout-Ms``.
    request_timeout_ms: Annotated[int, Meta(ge=1, le=60_000)] = 5_000
    header_timeout_s: _PositiveSeconds = 5.0
    body_timeout_s: _PositiveSeconds = 10.0
    idle_timeout_s: _PositiveSeconds = 75.0
    connections_max: Annotated[int, Meta(ge=1)] = 1024
    #: Requests being served at once, beyond which 429 is answered.
    requests_max: Annotated[int, Meta(ge=1)] = 4096


class TraceSettings(_Table, frozen=True, kw_only=True):
    """``[trace]``: which requests leave traces, and where those go."""

    #: Share of the requests that say nothing about tracing themselves.
    sample_ratio: Annotated[float, Meta(ge=0, le=1)] = 0.001
    #: Traces that a process begins a second, whoever asks for them.
    per_s_max: Annotated[int, Meta(ge=0)] = 50
    #: A trace with a longer span is remembered for longer, and a request that took longer leaves a
    #: span even if it was not traced.
    slow_ms: Annotated[int, Meta(ge=1)] = 250
    #: Of an OpenTelemetry collector; empty: traces stay where they are.
    otlp_endpoint: Annotated[str, Meta(pattern=r"^(https?://\S+)?\Z")] = ""
    #: Spans that wait to be exported.
    otlp_queue_max: Annotated[int, Meta(ge=1)] = 4096


class LogSettings(_Table, frozen=True, kw_only=True):
    """``[log]``: how much is told of what happens often."""

    #: Lines a second for documents that are created, as many for those that are deleted, and for
    #: keys with two bodies.
    documents_per_s: Annotated[int, Meta(ge=0)] = 10


class EdgeSettings(_Table, frozen=True, kw_only=True):
    """``[edge]``: the load balancer in front of the nodes."""

    host: str = "127.0.0.1"
    #: One URL for clients; the ports after it are one for each region. 0: no edge is started.
    port: _PortOrNone = 0
    #: The balancer's own statistics.
    admin_port: _PortOrNone = 0
    #: How long a node that stops serves on after ``/readyz`` says so. Longer than any balancer
    #: takes to notice.
    drain_s: Annotated[float, Meta(ge=0)] = 2.0


class NodeSettings(_Table, frozen=True, kw_only=True):
    """``[[node]]``: one storage node."""

    id: _Name
    region: _Name
    zone: _Name
    #: Share of the partitions relative to other nodes.
    weight: Annotated[float, Meta(gt=0, le=1000)] = 1.0
    host: str = "127.0.0.1"
    http_port: _Port
    rpc_port: _Port
    ops_port: _Port
    #: Whether it was added to a cluster that was there already: it owns nothing before it is told.
    joins: bool = False

    @property
    def node_id(self) -> NodeId:
        """``id`` under its own type."""
        return NodeId(self.id)

    @property
    def ports(self) -> tuple[int, int, int]:
        """All that it listens on."""
        return self.http_port, self.rpc_port, self.ops_port


class ClusterSettings(_Table, frozen=True, kw_only=True):
    """The whole cluster file."""

    #: 32 hexadecimal digits, made once; nodes and directories of another cluster are refused.
    cluster_id: Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]
    replication: ReplicationSettings = ReplicationSettings()
    storage: StorageSettings = StorageSettings()
    hints: HintSettings = HintSettings()
    antientropy: AntiEntropySettings = AntiEntropySettings()
    lifecycle: LifecycleSettings = LifecycleSettings()
    regions: RegionSettings = RegionSettings()
    gossip: GossipSettings = GossipSettings()
    http: HttpSettings = HttpSettings()
    trace: TraceSettings = TraceSettings()
    log: LogSettings = LogSettings()
    edge: EdgeSettings = EdgeSettings()
    node: tuple[NodeSettings, ...]

    @property
    def region_names(self) -> tuple[str, ...]:
        """Every region, in the order in which the file first names it."""
        return tuple(dict.fromkeys(node.region for node in self.node))

    def region_nodes(self, region: str) -> tuple[NodeSettings, ...]:
        """The nodes of one region, in the file's order."""
        return tuple(node for node in self.node if node.region == region)


def resolve_quorum(quorum: Quorum, copies: int) -> int:
    """A count from a name or a count. Does not check the count against ``copies``."""
    if isinstance(quorum, int):
        return quorum
    return {"one": 1, "quorum": copies // 2 + 1, "all": copies}[quorum]


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, for itself only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
