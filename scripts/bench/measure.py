"""One run: the servers are started, filled, measured row by row, and stopped."""

import resource
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from cluster.interrupts import Interrupts
from cluster.launch import say
from scripts.bench import deck, report, stage
from scripts.bench.drive import Generator, Load, LoadError, apply_load
from scripts.bench.machine import this_machine
from scripts.bench.regions import RegionsResult, measure_regions
from scripts.bench.result import Measurement, Result, Run, summarise
from scripts.bench.rows import PARTS, ROWS, Material, Row

#: Contents and choices are the same in every run.
_SEED: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What was asked for."""

    seconds: int
    rounds: int
    documents: int
    generator: Generator
    #: Names of the cluster's rows.
    rows: Sequence[str]
    #: Documents that two regions fall behind by; 0: regions are not measured.
    backlog: int

    def turns(self) -> Iterator[tuple[tuple[int, int], Row]]:
        """Every measurement to be made, in order. Bare rows go with whatever was asked for."""
        for number, part in enumerate(PARTS):
            rows = [row for row in part if row.server == "bare" or row.name in self.rows]
            if any(row.server == "cluster" for row in rows):
                for turn in range(self.rounds):
                    yield from (((number, turn), row) for row in rows)


class Bench:
    """The measurements of one run so far, and where they are shown."""

    def __init__(
        self, plan: Plan, scratch: Path, interrupts: Interrupts, progress: Progress
    ) -> None:
        self._plan = plan
        self._scratch = scratch
        self._interrupts = interrupts
        self._progress = progress
        self.measurements: list[Measurement] = []

    def run(self) -> int:
        """Measure everything; returns how many copies of a document there were."""
        random = Random(_SEED)
        contents = list(deck.contents(self._plan.documents, random))
        with ExitStack() as servers:
            starting = self._progress.add_task("starting", total=None)
            cluster = servers.enter_context(stage.local_cluster(self._scratch, self._interrupts))
            self._progress.remove_task(starting)
            ids = self._load(cluster.urls, contents)
            cluster.servers.cpu.settle(self._interrupts)
            bare = servers.enter_context(
                stage.yardstick(self._scratch, *stage.answers(cluster.urls[0], ids[0], contents[0]))
            )
            material = Material(ids, contents, random)
            for row in ROWS:
                deck.write_deck(self._deck(row), row.requests(material))
            turns = list(self._plan.turns())
            measuring = self._progress.add_task("measuring", total=len(turns))
            for turn, row in turns:
                self._progress.update(measuring, description=row.title)
                self._measure(turn, row, bare if row.server == "bare" else cluster.servers)
                self._progress.advance(measuring)
        return cluster.copies

    def _load(self, urls: Sequence[str], contents: Sequence[str]) -> list[str]:
        loading = self._progress.add_task("loading documents", total=len(contents))
        ids = stage.load_documents(
            urls, contents, self._interrupts, lambda count: self._progress.advance(loading, count)
        )
        self._progress.remove_task(loading)
        return ids

    def _measure(self, turn: tuple[int, int], row: Row, servers: stage.Servers) -> None:
        load = Load(
            deck=self._deck(row),
            bulk=row.documents > 1,
            connections=row.connections,
            seconds=self._plan.seconds,
        )
        servers.cpu.settle(self._interrupts)
        server_before_s, generator_before_s = servers.cpu.read_s(), _children_cpu_s()
        try:
            sample = apply_load(
                load,
                servers.endpoints,
                generator=self._plan.generator,
                seed=len(self.measurements) + 1,
                scratch=self._scratch,
                interrupts=self._interrupts,
            )
        except LoadError as error:
            raise LoadError(f"{row.title}: {error}") from error
        generator_after_s = _children_cpu_s()
        servers.cpu.settle(self._interrupts)
        measured = Measurement(
            row=row,
            turn=turn,
            sample=sample,
            server_cpu_s=servers.cpu.read_s() - server_before_s,
            generator_cpu_s=generator_after_s - generator_before_s,
            seconds=self._plan.seconds,
        )
        self.measurements.append(measured)
        say(
            self._progress.console,
            report.summary(row.title, measured.operations_per_s, measured.cpu_us),
        )

    def _deck(self, row: Row) -> Path:
        return self._scratch / f"{row.name}.deck"


def _children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def measure(plan: Plan, directory: Path, console: Console) -> Result:
    """Carry out ``plan``, with progress on the console.

    Args:
        plan: What to measure, and for how long.
        directory: Made if need be. The nodes write to a new directory in it, removed at the end.
        console: For progress and a line for each measurement.

    Raises:
        LoadError, ServerGone, StageError, BulkError, ClusterError, Interrupted: nothing that was
            started runs.
    """
    columns = (TextColumn("{task.description:<22}"), BarColumn(), TimeElapsedColumn())
    directory.mkdir(parents=True, exist_ok=True)
    machine = this_machine(directory)
    with (
        Interrupts() as interrupts,
        TemporaryDirectory(prefix="cluster-", dir=directory) as scratch,
        Progress(*columns, console=console, transient=True) as progress,
    ):
        bench = Bench(plan, Path(scratch), interrupts, progress)
        copies = bench.run() if plan.rows else 0
        between = _between_regions(plan, Path(scratch), interrupts, progress)
    return Result(
        machine=machine,
        run=Run(
            measured_at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            seconds=plan.seconds,
            rounds=plan.rounds,
            documents=plan.documents,
            nodes=stage.NODES,
            copies=copies,
            generator=plan.generator.value,
        ),
        rows=summarise(ROWS, bench.measurements),
        regions=between,
    )


def _between_regions(
    plan: Plan, scratch: Path, interrupts: Interrupts, progress: Progress
) -> RegionsResult | None:
    if not plan.backlog:
        return None
    interrupts.check()
    progress.add_task("measuring two regions", total=None)
    directory = scratch / "regions"
    directory.mkdir()
    return measure_regions(directory, 3 * plan.seconds, plan.backlog)
