"""What Prometheus reads of ``kvnode.calls``."""

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from kvnode.calls import Calls


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
