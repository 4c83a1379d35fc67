"""What is read off two looks at a node's metrics: rates, and percentiles as far as buckets tell."""

from math import inf

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from cluster.rates import Samples, parse, percentile, rates, total
from kvnode.metrics import HttpMetrics

BOUNDS = (0.001, 0.005, 0.01, 0.1, 1.0, inf)
_durations = st.lists(st.floats(0.0001, 5.0), min_size=1)


def buckets(durations: list[float]) -> list[tuple[float, float]]:
    """As a histogram counts them."""
    return [(bound, sum(one <= bound for one in durations)) for bound in BOUNDS]


@given(_durations, st.floats(0.01, 1.0))
def test_a_percentile_is_in_the_true_ones_bucket(durations: list[float], share: float) -> None:
    """That is all that buckets can tell."""
    rank = -(-share * len(durations) // 1)
    true = sorted(durations)[int(rank) - 1]
    upper = next(bound for bound in BOUNDS if true <= bound)
    lower = max((bound for bound in (0.0, *BOUNDS) if bound < true), default=0.0)
    found = percentile(buckets(durations), share)
    assert found is not None
    assert lower <= found <= min(upper, BOUNDS[-2] if upper == inf else upper)


@given(_durations, st.lists(st.floats(0.01, 1.0), min_size=2))
def test_more_of_all_is_never_faster(durations: list[float], shares: list[float]) -> None:
    """p99 is at least p50."""
    found = [percentile(buckets(durations), share) for share in sorted(shares)]
    assert found == sorted(found)  # type: ignore[type-var]


def test_of_nothing_there_is_no_percentile() -> None:
    """Nor a zero, which would look good."""
    assert percentile([], 0.5) is None
    assert percentile(buckets([]), 0.5) is None


class Served:
    """A node's request metrics, as it exports them."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.metrics = HttpMetrics(self._registry)

    def look(self) -> Samples:
        """What a tool reads."""
        return parse(generate_latest(self._registry).decode())


def test_rates_are_of_the_document_api_between_the_two_looks() -> None:
    """Pages, and what was before, do not count; refusals for want of capacity are errors."""
    node = Served()
    node.metrics.observe("GET", "/documents/{id}", 200, 3.0)
    before = node.look()
    for _ in range(20):
        node.metrics.observe("POST", "/documents", 201, 0.004)
    for status, seconds in ((200, 0.001), (404, 0.001), (503, 0.2), (429, 0.2)):
        node.metrics.observe("GET", "/documents/{id}", status, seconds)
    node.metrics.observe("DELETE", "/documents/{id}", 204, 0.004)
    node.metrics.observe("GET", "/docs", 500, 9.0)
    found = rates(before, node.look(), elapsed_s=2.0)
    assert (found.requests_per_s, found.errors_per_s) == (12.5, 1.0)
    assert (found.creates_per_s, found.reads_per_s, found.deletes_per_s) == (10.0, 2.0, 0.5)
    assert found.p50_s is not None
    assert found.p99_s is not None
    assert 0.0025 <= found.p50_s <= 0.005
    assert 0.1 <= found.p99_s <= 0.25


def test_a_node_that_was_restarted_in_between_has_not_served_less_than_nothing() -> None:
    """Its counters began anew."""
    before, after = Served(), Served()
    for _ in range(100):
        before.metrics.observe("GET", "/documents/{id}", 200, 0.001)
    after.metrics.observe("GET", "/documents/{id}", 200, 0.001)
    found = rates(before.look(), after.look(), elapsed_s=1.0)
    assert (found.requests_per_s, found.errors_per_s) == (1.0, 0.0)


def test_samples_are_summed_over_the_labels_that_are_not_asked_for() -> None:
    """One line a peer, one number a node."""
    text = '# HELP x y\nheld{peer="a2",way="in"} 2\nheld{peer="a3",way="in"} 3.5\nother 1e3\n'
    samples = parse(text)
    assert total(samples, "held") == 5.5
    assert total(samples, "held", peer="a3") == 3.5
    assert total(samples, "other") == 1000
