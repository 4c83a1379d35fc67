"""What load generators report, put together.

A report is a line ``sample``, a line of counts (requests, microseconds they took, requests that
were refused, connections that broke), and then latencies: a value in microseconds and the share of
the requests that it stands for, tab separated. What a generator prints before it does not count.
"""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

_MARK: Final = "sample\n"


class NoSample(ValueError):
    """The text is no load generator's report."""


class Sample(NamedTuple):
    """What one generator saw, or several side by side."""

    requests: int
    rate_per_s: float
    #: Requests that got another answer than success.
    refused: int
    #: Connections that could not be made, were cut, or stayed silent.
    broken: int
    #: Microseconds, and the number of requests that each value stands for.
    latencies: list[tuple[float, float]]


def format_report(
    requests: int,
    elapsed_us: int,
    refused: int,
    broken: int,
    latencies: Iterable[tuple[float, float]],
) -> str:
    """A report; ``latencies`` are values and shares."""
    lines = [f"{value}\t{share}\n" for value, share in latencies]
    return f"{_MARK}{requests}\t{elapsed_us}\t{refused}\t{broken}\n{''.join(lines)}"


def parse_report(text: str) -> Sample:
    """The sample that a report holds. Raises NoSample."""
    _, mark, report = text.rpartition(_MARK)
    try:
        counts, *lines = report.splitlines()
        requests, elapsed_us, refused, broken = map(int, counts.split("\t"))
        pairs = [(float(value), float(share)) for value, share in (one.split() for one in lines)]
    except ValueError as error:
        raise NoSample(text[-200:]) from error
    if not mark or elapsed_us <= 0:
        raise NoSample(text[-200:])
    latencies = [(value_us, share * requests) for value_us, share in pairs]
    return Sample(requests, requests / elapsed_us * 1e6, refused, broken, latencies)


def combine(samples: Sequence[Sample]) -> Sample:
    """Of generators that ran side by side."""
    return Sample(
        sum(sample.requests for sample in samples),
        sum(sample.rate_per_s for sample in samples),
        sum(sample.refused for sample in samples),
        sum(sample.broken for sample in samples),
        [pair for sample in samples for pair in sample.latencies],
    )


def quantile(latencies: Iterable[tuple[float, float]], share: float) -> float:
    """The smallest value at or below which ``share`` of the weight lies; 0 of nothing.

    Args:
        latencies: Values and weights, in any order.
        share: 0..1.
    """
    ordered = sorted(latencies)
    # Less a hair, for the weights' sum is rounded.
    wanted = share * sum(weight for _, weight in ordered) * (1 - 1e-12)
    reached = 0.0
    for value, weight in ordered:
        reached += weight
        if reached >= wanted:
            return value
    return ordered[-1][0] if ordered else 0.0
