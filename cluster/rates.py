"""What a node's metrics say about the time between two looks: rates, and percentiles of durations.

Rules
-----
1. Counters only grow. One that is smaller than before belongs to a process that was started in
   between: all that it counts happened since.
2. A percentile is known as far as its bucket: within it, durations are taken to be spread evenly.
   Beyond the last bound nothing is known but that bound.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import inf
from typing import Final, NamedTuple

import msgspec

_LINE: Final = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_LABEL: Final = re.compile(r'(\w+)="([^"]*)"')
_REQUESTS: Final = "http_server_request_duration_seconds"
#: Refused for want of capacity, or failed.
_ERRORS: Final = ("429", "5")
#: The routes of the document API.
_ROUTES: Final = "/documents"

Labels = tuple[tuple[str, str], ...]
#: Every sample of one look, by name and labels.
Samples = Mapping[tuple[str, Labels], float]


class Rates(NamedTuple):
    """Of one node, over the time between two looks."""

    requests_per_s: float
    creates_per_s: float
    reads_per_s: float
    deletes_per_s: float
    errors_per_s: float
    #: None: there was no request.
    p50_s: float | None
    p99_s: float | None


def parse(text: str) -> Samples:
    """Prometheus' text format, as nodes write it: no escapes in labels, no times."""
    return {
        (name, tuple(_LABEL.findall(labels or ""))): float(value)
        for name, labels, value in _LINE.findall(text)
    }


def total(samples: Samples, name: str, **labels: str) -> float:
    """The sum over all that have these labels."""
    wanted = labels.items()
    return sum(
        value
        for (one, its), value in samples.items()
        if one == name and wanted <= dict(its).items()
    )


class Traffic(msgspec.Struct, frozen=True):
    """Requests of the document API that were answered, in all."""

    requests: float = 0.0
    creates: float = 0.0
    reads: float = 0.0
    deletes: float = 0.0
    errors: float = 0.0
    #: How many took at most so long, by the bound in seconds as Prometheus spells it.
    buckets: dict[str, float] = {}

    def since(self, before: "Traffic") -> "Traffic":
        """What was added to what was counted before; see rule 1."""
        if self.requests < before.requests:
            return self
        return self._with(before, -1)

    def plus(self, other: "Traffic") -> "Traffic":
        """That of two nodes together."""
        return self._with(other, 1)

    def _with(self, other: "Traffic", sign: int) -> "Traffic":
        buckets = dict(self.buckets)
        for bound, count in other.buckets.items():
            buckets[bound] = buckets.get(bound, 0.0) + sign * count
        return Traffic(
            self.requests + sign * other.requests,
            self.creates + sign * other.creates,
            self.reads + sign * other.reads,
            self.deletes + sign * other.deletes,
            self.errors + sign * other.errors,
            buckets,
        )

    def over(self, elapsed_s: float) -> Rates:
        """All of it happened in this time."""
        cumulated = sorted((float(bound), count) for bound, count in self.buckets.items())
        return Rates(
            requests_per_s=self.requests / elapsed_s,
            creates_per_s=self.creates / elapsed_s,
            reads_per_s=self.reads / elapsed_s,
            deletes_per_s=self.deletes / elapsed_s,
            errors_per_s=self.errors / elapsed_s,
            p50_s=percentile(cumulated, 0.5),
            p99_s=percentile(cumulated, 0.99),
        )


def traffic(samples: Samples) -> Traffic:
    """What one look at a node shows."""
    counts = {"POST": 0.0, "GET": 0.0, "DELETE": 0.0}
    requests = errors = 0.0
    buckets: dict[str, float] = {}
    for (name, labels), value in samples.items():
        if not name.startswith(_REQUESTS):
            continue
        label = dict(labels)
        if not label.get("http_route", "").startswith(_ROUTES):
            continue
        if name == f"{_REQUESTS}_bucket":
            buckets[label["le"]] = buckets.get(label["le"], 0.0) + value
        elif name == f"{_REQUESTS}_count":
            requests += value
            method = label["http_request_method"]
            counts[method] = counts.get(method, 0.0) + value
            if label["http_response_status_code"].startswith(_ERRORS):
                errors += value
    return Traffic(requests, counts["POST"], counts["GET"], counts["DELETE"], errors, buckets)


def rates(before: Samples, after: Samples, elapsed_s: float) -> Rates:
    """What happened between two looks at one node."""
    return traffic(after).since(traffic(before)).over(elapsed_s)


def percentile(buckets: Sequence[tuple[float, float]], share: float) -> float | None:
    """The duration that this share of all stays below; None of nothing.

    Args:
        buckets: Upper bound, and how many are at most that; ascending, the last bound infinite.
    """
    if not buckets or not buckets[-1][1]:
        return None
    rank = share * buckets[-1][1]
    for (lower, below), (upper, upto) in pairwise([(0.0, 0.0), *buckets]):
        if upto >= rank and upto > below:
            if upper == inf:
                return lower
            return lower + (upper - lower) * (rank - below) / (upto - below)
    raise AssertionError("counts of buckets don't grow")
