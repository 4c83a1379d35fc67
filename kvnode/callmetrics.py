"""What Prometheus reads of requests to a process's coordinator, and of those to its peers."""

from collections.abc import Iterable

from prometheus_client.core import (
    CounterMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from kvnode.calls import Calls
from kvnode.rpc.transport import Transport


class CallsCollector(Collector):
    """Reads what was counted of calls to a process's coordinator."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def collect(self) -> Iterable[Metric]:
        """See ``prometheus_client.registry.Collector``."""
        requests = CounterMetricFamily(
            "stele_coordinator_requests",
            "What documents' clients asked of the replicas.",
            labels=("op", "consistency", "outcome"),
        )
        durations = HistogramMetricFamily(
            "stele_coordinator_duration_seconds", "Until these were answered.", labels=("op",)
        )
        for operation, levels in self._calls.counts.items():
            for level, count in levels.items():
                for outcome, times in count.outcomes.items():
                    requests.add_metric((operation, level, outcome), times)
            first, *others = levels.values()
            buckets, total_s = first.plus(others)
            durations.add_metric((operation,), buckets, total_s)
        yield from (requests, durations)


class PeersCollector(Collector):
    """Reads how long peers took to answer."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def collect(self) -> Iterable[Metric]:
        """See ``prometheus_client.registry.Collector``."""
        durations = SummaryMetricFamily(
            "stele_replica_rpc_duration_seconds",
            "Until a peer answered; what it did not answer is not in it.",
            labels=("op", "peer"),
        )
        for peer, operations in self._transport.answered.items():
            for op, answered in operations.items():
                durations.add_metric((op.name.lower(), peer), answered.count, answered.total_s)
        yield durations
