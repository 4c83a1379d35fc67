"""Every metric that a node exports, in one place. Labels are closed sets, never ids or texts.

What the hot path counts are plain integers on the objects that do the work; they are read when
Prometheus asks. Only the request histogram is fed per request, through children bound once.
"""

from collections.abc import Callable, Iterable
from importlib.metadata import version
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cluster.rates import Traffic, traffic
from kvnode.eventring import EventRing
from kvnode.health import check
from kvnode.otlp import OtlpExporter
from kvnode.quarantine import State
from kvnode.tracing import Tracer

if TYPE_CHECKING:
    from kvnode.node import Node

_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class HttpMetrics:
    """The request histogram of one data listener."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._durations = Histogram(
            "http_server_request_duration_seconds",
            "From reading a request's head to writing its answer.",
            ("http_request_method", "http_route", "http_response_status_code"),
            buckets=_BUCKETS_S,
            registry=registry,
        )
        self._observe: dict[tuple[str, str, int], Callable[[float], None]] = {}

    def traffic(self) -> Traffic:
        """All that was observed."""
        return traffic(
            {
                (sample.name, tuple(sample.labels.items())): sample.value
                for metric in self._durations.collect()
                for sample in metric.samples
            }
        )

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request. ``method`` and ``route`` are from closed sets."""
        labels = (method, route, status)
        observe = self._observe.get(labels)
        if observe is None:
            observe = self._durations.labels(method, route, str(status)).observe
            self._observe[labels] = observe
        observe(seconds)


class EventsCollector(Collector):
    """Reads the counts of a process's events."""

    def __init__(self, events: EventRing) -> None:
        self._events = events

    def collect(self) -> Iterable[Metric]:
        """See ``prometheus_client.registry.Collector``."""
        yield _counter("stele_events", "Lines of the log since the start.", self._events.newest)
        yield _counter(
            "stele_event_readers_dropped",
            "Readers of /admin/events that did not keep up.",
            self._events.dropped_readers,
        )


class TraceCollector(Collector):
    """Reads the counts of a process's traces."""

    def __init__(self, tracer: Tracer, exporter: OtlpExporter | None) -> None:
        self._tracer = tracer
        self._exporter = exporter

    def collect(self) -> Iterable[Metric]:
        """See ``prometheus_client.registry.Collector``."""
        yield _counter("stele_trace_spans", "Spans of traces.", self._tracer.span_count)
        yield _gauge("stele_trace_spans_held", "Spans in memory.", len(self._tracer.store))
        if self._exporter is not None:
            exporter = self._exporter
            yield _counter(
                "stele_trace_spans_exported", "Spans a collector has taken.", exporter.sent_count
            )
            yield _gauge("stele_trace_spans_waiting", "Spans to be exported.", exporter.waiting)
            dropped = CounterMetricFamily(
                "stele_trace_spans_dropped", "Spans that were not exported.", labels=["reason"]
            )
            dropped.add_metric(["queue"], exporter.overflow_count)
            dropped.add_metric(["collector"], exporter.lost_count)
            yield dropped


class NodeCollector(Collector):
    """Reads a node's counts when asked."""

    def __init__(self, node: "Node") -> None:
        self._node = node

    def collect(self) -> Iterable[Metric]:
        """See ``prometheus_client.registry.Collector``."""
        node = self._node
        coordinator = node.coordinator
        yield _gauge("stele_build_info", "Always 1.", 1, version=version("stele"))
        yield _counter(
            "stele_stale_reads", "Reads that met a stale replica.", coordinator.counts.stale_reads
        )
        yield _counter(
            "stele_read_repairs", "Replicas updated by a read.", coordinator.counts.read_repairs
        )
        yield _gauge(
            "stele_event_loop_lag_seconds",
            "How late the event loop is lately.",
            node.background.budget.lag_s,
        )
        yield _counter(
            "stele_hedged_reads", "Second requests for slow ones.", coordinator.counts.hedged_reads
        )
        yield _counter(
            "stele_idempotent_replays",
            "Keyed creates answered with the first one's document.",
            coordinator.counts.replays,
        )
        yield _counter(
            "stele_idempotency_conflicts",
            "Keyed creates whose key had another body.",
            coordinator.counts.key_conflicts + node.replica.conflicts.count,
        )
        yield from _records(node)
        yield _counter(
            "stele_rpc_protocol_errors",
            "Connections ended by a broken protocol.",
            node.transport.protocol_errors,
        )
        yield from _hints(node)
        yield from _antientropy(node)
        yield from _lifecycle(node)
        yield from _regions(node)
        yield from _nodes(node)


def _nodes(node: "Node") -> Iterable[Metric]:
    states = [member.status.name.lower() for member in node.gossip.membership.members()]
    members = GaugeMetricFamily("stele_members", "Members by state.", labels=("state", "region"))
    for state in ("alive", "suspect", "dead"):
        members.add_metric((state, node.region), states.count(state))
    yield members
    yield _gauge(
        "stele_under_replicated_partitions",
        "Partitions of the region of which some owner is not up.",
        node.placement.under_replicated(),
    )
    ring = node.placement.ring
    share = node.placement.quorum_share(ring.copies // 2 + 1)
    yield _gauge(
        "stele_partitions_without_quorum",
        "Partitions of the region of which no majority of the owners is up.",
        round(ring.partitions * (1 - share)),
    )
    trouble = GaugeMetricFamily(
        "stele_trouble",
        "1: a check behind /readyz?verbose has found something.",
        labels=("check", "weight"),
    )
    for one in check(node):
        trouble.add_metric((one.name, one.weight.value), bool(one.trouble))
    yield trouble
    yield _gauge(
        "stele_background_pace",
        "Share of its budget that background work has: 1 while clients do not wait.",
        node.background.budget.pace,
    )
    yield _gauge("stele_disk_free_bytes", "Free space.", node.disk_free_bytes)
    skews = GaugeMetricFamily(
        "stele_clock_skew_seconds",
        "How far a peer's clock is ahead of this node's; behind, if negative.",
        labels=("peer",),
    )
    for peer, skew in node.gossip.skews.all():
        skews.add_metric((peer,), skew.ahead_s)
    yield skews


def _records(node: "Node") -> Iterable[Metric]:
    records, scrub = node.replica.records, node.background.scrub
    documents = GaugeMetricFamily(
        "stele_documents", "Documents on this node's disk.", labels=("status",)
    )
    documents.add_metric(("active",), records.count - records.deleted_count)
    documents.add_metric(("deleted",), records.deleted_count)
    yield documents
    yield _gauge("stele_tombstones", "Deletions that are remembered.", records.deleted_count)
    yield _counter(
        "stele_corrupt_records", "Damaged records met by requests.", node.replica.corrupt_count
    )
    yield _counter("stele_scrub_corrupt", "Damaged records the scrub met.", scrub.corrupt_count)
    yield _counter("stele_scrub_healed", "Of these, replaced from a peer.", scrub.healed_count)


def _antientropy(node: "Node") -> Iterable[Metric]:
    antientropy = node.background.antientropy
    repaired = CounterMetricFamily(
        "stele_antientropy_keys_repaired", "Copies that comparisons levelled.", labels=("way",)
    )
    repaired.add_metric(("pushed",), antientropy.totals.pushed)
    repaired.add_metric(("pulled",), antientropy.totals.pulled)
    yield repaired
    yield _counter(
        "stele_antientropy_bytes",
        "Sent and received by comparisons that this node began.",
        antientropy.totals.size_bytes,
    )
    yield _counter(
        "stele_antientropy_partitions_compared",
        "Partitions compared with a peer to the end.",
        antientropy.totals.compared,
    )
    complete = GaugeMetricFamily(
        "stele_antientropy_last_complete_timestamp_seconds",
        "Beginning of the last round with a peer that left no difference; 0: none yet.",
        labels=("peer",),
    )
    for peer, round_ in antientropy.rounds.items():
        complete.add_metric((peer,), round_.complete_ms / 1000)
    yield complete
    yield _gauge(
        "stele_fenced_partitions",
        "Own partitions that are rebuilt before they are served.",
        len(node.background.rebuild.fenced()),
    )


def _regions(node: "Node") -> Iterable[Metric]:
    outbox = node.replica.outbox
    lag = GaugeMetricFamily(
        "stele_region_lag_seconds",
        "Age of the watermark of a region: all that it wrote before is here.",
        labels=("region",),
    )
    watermark = GaugeMetricFamily(
        "stele_region_watermark_timestamp_seconds",
        "Watermark of a region, as unix time; 0: not known since the start.",
        labels=("region",),
    )
    waiting = GaugeMetricFamily(
        "stele_outbox_entries", "Writes that a region has yet to get.", labels=("region",)
    )
    size = GaugeMetricFamily("stele_outbox_bytes", "Size of these.", labels=("region",))
    fullness = GaugeMetricFamily(
        "stele_outbox_fullness_ratio",
        "Share of the outbox that these take; beyond 1 the oldest are dropped.",
        labels=("region",),
    )
    connected = GaugeMetricFamily(
        "stele_region_connected_nodes",
        "Nodes of a region that this one is connected to; 0: it is cut off.",
        labels=("region",),
    )
    owed = GaugeMetricFamily(
        "stele_region_comparisons_owed",
        "Partitions to be compared with a region, for the log of its writes was lost.",
        labels=("region",),
    )
    shipped = CounterMetricFamily(
        "stele_region_shipped", "Writes that a region has acknowledged.", labels=("region",)
    )
    gone = GaugeMetricFamily(
        "stele_region_gone", "1: an operator has said that a region is gone.", labels=("region",)
    )
    for region in node.rings.by_region:
        gone.add_metric((region,), node.replica.standing.is_gone(region))
    yield gone
    for region in outbox.regions:
        watermark_ms = node.watermarks.of(region)
        watermark.add_metric((region,), watermark_ms / 1000)
        if watermark_ms:
            lag.add_metric((region,), (node.clock.wall_ms() - watermark_ms) / 1000)
        waiting.add_metric((region,), outbox.waiting(region))
        size.add_metric((region,), outbox.waiting_bytes(region))
        fullness.add_metric((region,), outbox.fullness(region))
        nodes = node.rings.nodes_of(region)
        connected.add_metric((region,), sum(map(node.transport.connected, nodes)))
        owed.add_metric((region,), len(outbox.owed(region)))
        shipped.add_metric((region,), node.background.shipping[region].shipped_count)
    yield from (lag, watermark, waiting, size, fullness, connected, owed, shipped)
    yield _counter(
        "stele_reads_elsewhere",
        "Reads that asked other regions: a miss that may be young, or less than a client has seen.",
        node.elsewhere.asked_count,
    )
    yield _counter(
        "stele_reads_found_elsewhere", "Of these, found there.", node.elsewhere.found_count
    )
    yield _counter(
        "stele_outbox_dropped", "Writes dropped over the outbox's bound.", outbox.dropped_count
    )


def _lifecycle(node: "Node") -> Iterable[Metric]:
    background, quarantine = node.background, node.replica.quarantine
    yield _counter("stele_expired", "Expired documents removed.", background.sweep.expired_count)
    yield _counter("stele_purged", "Deleted documents removed.", background.sweep.purged_count)
    yield _counter(
        "stele_purge_verified",
        "Removed ids that every owner was asked for in vain.",
        background.verify.verified_count,
    )
    yield _counter(
        "stele_purge_contradicted",
        "Removed ids that an owner still serves.",
        background.verify.contradicted_count,
    )
    yield _counter(
        "stele_partitions_compacted",
        "Partitions whose removed records' space was given back.",
        background.reclaim.compacted_count,
    )
    vetoed = GaugeMetricFamily(
        "stele_purge_vetoed_seconds",
        "How long the purge of a partition has been held up, the longest of each reason.",
        labels=("reason",),
    )
    longest_s: dict[str, float] = {}
    for veto in background.purge.vetoes.values():
        for_s = (node.clock.wall_ms() - veto.since_ms) / 1000
        longest_s[veto.reason] = max(for_s, longest_s.get(veto.reason, 0.0))
    for reason, for_s in longest_s.items():
        vetoed.add_metric((reason,), for_s)
    yield vetoed
    yield _gauge(
        "stele_quarantined_copies",
        "Late copies whose document's owners are being asked.",
        quarantine.counts[State.ASKED],
    )
    yield _counter(
        "stele_orphans", "Late copies that no owner knows.", quarantine.counts[State.ORPHAN]
    )


def _hints(node: "Node") -> Iterable[Metric]:
    book = node.replica.hints
    held = dict(book.targets())
    pending = GaugeMetricFamily("stele_hints_pending", "Hints held.", labels=("peer",))
    size = GaugeMetricFamily("stele_hints_pending_bytes", "Size of hints held.", labels=("peer",))
    for peer in node.peers:
        pending.add_metric((peer,), held[peer].count if peer in held else 0)
        size.add_metric((peer,), held[peer].size_bytes if peer in held else 0)
    yield pending
    yield size
    yield _counter("stele_hints_created", "Writes that a replica missed.", book.created)
    yield _counter("stele_hints_delivered", "Hints acknowledged.", book.delivered)
    yield _counter("stele_hints_superseded", "Hints that a later one took in.", book.superseded)
    dropped = CounterMetricFamily("stele_hints_dropped", "Hints given up.", labels=("reason",))
    for reason, count in book.dropped.items():
        dropped.add_metric((reason,), count)
    yield dropped
    yield _gauge(
        "stele_hints_comparisons_owed",
        "Pairs of a peer and a partition that await anti-entropy for hints given up.",
        len(book.owed()),
    )


def _gauge(name: str, help_text: str, value: float, **labels: str) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, help_text, labels=tuple(labels))
    family.add_metric(tuple(labels.values()), value)
    return family


def _counter(name: str, help_text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(name, help_text, value=value)
