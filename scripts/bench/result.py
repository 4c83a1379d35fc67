"""From measurements to the numbers in the table, and from two tables to what changed.

Rules
-----
1. Of several rounds the median counts, so one bad moment of the machine does not decide.
2. A ratio is taken within each round, between a row and a bare row of the same part, and then the
   median of these ratios: what slows both by the same factor cancels out.
3. Quantiles are of all rounds' requests together. The slowest requests are what a client meets;
   a median over rounds would hide them.
4. Runs are compared by their ratios, for the same reason as in 2.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

import msgspec

from scripts.bench.machine import Machine
from scripts.bench.regions import RegionsResult
from scripts.bench.rows import Row
from scripts.bench.sample import Sample, quantile

#: A row is worse than before when its ratio has grown by more than this factor.
WORSE: Final = 1.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One row in one round."""

    row: Row
    #: Which part of the run, and which round of it.
    turn: tuple[int, int]
    sample: Sample
    #: Of all server processes, from start to idle again.
    server_cpu_s: float
    generator_cpu_s: float
    seconds: float

    @property
    def operations_per_s(self) -> float:
        """An operation is one document read or created."""
        return self.sample.rate_per_s * self.row.documents

    @property
    def cpu_us(self) -> float:
        """Servers' CPU time per operation."""
        return self.server_cpu_s / (self.sample.requests * self.row.documents) * 1e6


class RowResult(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table."""

    name: str
    title: str
    operations: int
    operations_per_s: float
    #: Of requests; one of a bulk row holds many operations.
    p50_us: float
    p99_us: float
    p999_us: float
    cpu_us: float
    #: The CPU time of each round, to see how far they differ.
    cpu_us_by_round: list[float]
    #: Cores that were busy, on average over the rounds.
    server_cores: float
    generator_cores: float
    #: CPU time per operation in multiples of a bare row's, by that row's name.
    ratios: dict[str, float]
    yardstick: str
    ratio_max: float | None

    @property
    def ratio(self) -> float | None:
        """To the yardstick, which a bare row has not."""
        return self.ratios.get(self.yardstick)

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without one."""
        if self.ratio_max is None or self.ratio is None:
            return None
        return self.ratio <= self.ratio_max


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """How it was measured."""

    #: RFC 3339, UTC.
    measured_at: str
    seconds: int
    rounds: int
    documents: int
    nodes: int
    copies: int
    generator: str


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What is written as JSON."""

    machine: Machine
    run: Run
    rows: list[RowResult]
    #: None: not measured.
    regions: RegionsResult | None = None


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A row now, in multiples of what it was."""

    title: str
    operations_per_s: float
    cpu_us: float
    #: Of the ratio to the yardstick; None for a bare row.
    ratio: float | None

    @property
    def worse(self) -> bool:
        """Beyond what noise explains."""
        return self.ratio is not None and self.ratio > WORSE


def summarise(rows: Sequence[Row], measurements: Sequence[Measurement]) -> list[RowResult]:
    """Each of ``rows`` that was measured, in their order."""
    results = []
    for row in rows:
        own = [one for one in measurements if one.row.name == row.name]
        if own:
            results.append(_summary(row, own, measurements))
    return results


def compare(old: Sequence[RowResult], new: Sequence[RowResult]) -> list[Change]:
    """The rows that both have, in the new order."""
    before = {row.name: row for row in old}
    return [
        Change(
            title=row.title,
            operations_per_s=row.operations_per_s / before[row.name].operations_per_s,
            cpu_us=row.cpu_us / before[row.name].cpu_us,
            ratio=_quotient(row.ratio, before[row.name].ratio),
        )
        for row in new
        if row.name in before
    ]


def _summary(row: Row, own: Sequence[Measurement], everything: Sequence[Measurement]) -> RowResult:
    latencies = [pair for one in own for pair in one.sample.latencies]
    seconds = sum(one.seconds for one in own)
    bare_rows = dict.fromkeys(one.row.name for one in everything if one.row.server == "bare")
    return RowResult(
        name=row.name,
        title=row.title,
        operations=sum(one.sample.requests for one in own) * row.documents,
        operations_per_s=median(one.operations_per_s for one in own),
        p50_us=quantile(latencies, 0.5),
        p99_us=quantile(latencies, 0.99),
        p999_us=quantile(latencies, 0.999),
        cpu_us=median(one.cpu_us for one in own),
        cpu_us_by_round=[one.cpu_us for one in own],
        server_cores=sum(one.server_cpu_s for one in own) / seconds,
        generator_cores=sum(one.generator_cpu_s for one in own) / seconds,
        ratios=_ratios(own, everything, list(bare_rows)) if row.server == "cluster" else {},
        yardstick=row.yardstick,
        ratio_max=row.ratio_max,
    )


def _ratios(
    own: Sequence[Measurement], everything: Sequence[Measurement], bare_rows: Sequence[str]
) -> dict[str, float]:
    """By bare row; only those that were measured in the same turns."""
    cpu_us = {(one.row.name, one.turn): one.cpu_us for one in everything}
    ratios = {}
    for name in bare_rows:
        pairs = [(one.cpu_us, cpu_us.get((name, one.turn))) for one in own]
        quotients = [ours / bare for ours, bare in pairs if bare]
        if quotients:
            ratios[name] = median(quotients)
    return ratios


def _quotient(new: float | None, old: float | None) -> float | None:
    return None if new is None or old is None else new / old
