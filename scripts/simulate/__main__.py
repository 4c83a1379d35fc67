"""Play seeded histories of whole clusters: ``python -m scripts.simulate``, ``make simulate``.

Exit codes: 0 when all held and every rare path was met; 1 otherwise; 2 bad arguments; 130
interrupted. Whatever the code, no worker is left.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, TextIO

import msgspec
import typer

from scripts.simulate.case import KINDS, Case, Outcome, parse, play
from scripts.simulate.checkpoint import RUNS, Chosen, Keeper, OtherCode, Progress, code_here, load
from scripts.simulate.pool import WORKER, Play, cases, sweep, workers
from scripts.simulate.reduction import reduced
from scripts.simulate.tally import TOLD_WHOLE, Tally, duration

#: By how long they take: each kind gets about the same time.
_MIXED: Final = (
    *("histories", "histories", "lifetimes", "sessions", "histories", "histories", "regions"),
    *("histories", "sessions", "lifetimes", "histories", "histories", "sessions", "layouts"),
)
#: Between two lines of progress where they can't be written over each other.
_LINE_EVERY_S: Final = 10.0
_SAVE_EVERY_S: Final = 10.0
INTERRUPTED: Final = 130


class Teller:
    """Says how a run goes: progress on one stream, what is to be kept on another."""

    def __init__(self, tally: Tally, progress: TextIO, keeper: Keeper) -> None:
        self.tally = tally
        self._progress = progress
        self._keeper = keeper
        self._next_line_s = self._next_save_s = 0.0

    def done(self, outcome: Outcome) -> None:
        """Add an outcome, keep it, and tell of it."""
        self.tally.add(outcome)
        if outcome.failure is not None:
            self._clear()
            if len(self.tally.failures) <= TOLD_WHOLE:
                typer.echo(f"{outcome.failure.report}\n")
            else:
                typer.echo(f"{outcome.case} FAILED too: {outcome.failure.broken}")
            self._keeper.keep(outcome.case, outcome.failure.broken)
        now_s = asyncio.get_running_loop().time()
        if self._progress.isatty():
            self._progress.write(f"\r\x1b[K{self.tally.progress()}")
        elif now_s >= self._next_line_s:
            self._next_line_s = now_s + _LINE_EVERY_S
            self._progress.write(f"{self.tally.progress()}\n")
        self._progress.flush()
        if now_s >= self._next_save_s:
            self._next_save_s = now_s + _SAVE_EVERY_S
            self._keeper.save(self.tally.progress_made())

    async def smaller(self, failed: Outcome, play: Play) -> None:
        """Look for a failure with fewer faults, and tell of it."""
        typer.echo(f"{failed.case}: leaving out faults ...")
        smallest = await reduced(failed, play)
        assert smallest.failure is not None
        of = f"of {len(failed.failure.faults)}" if failed.failure else ""
        typer.echo(f"{len(smallest.failure.faults)} {of} faults are enough:\n")
        typer.echo(f"{smallest.failure.report}\n")
        kept = self._keeper.keep(smallest.case, smallest.failure.broken)
        typer.echo(f"kept as {kept}: once it is mended, say in it what was found")
        typer.echo("and what mended it, and move it to tests/simulation/corpus\n")

    def end(self, *, interrupted: bool) -> None:
        """Tell what the run comes to."""
        self._keeper.save(self.tally.progress_made())
        self._clear()
        lines = [*self.tally.counters(), self.tally.verdict(interrupted=interrupted)]
        if interrupted:
            lines.append(f"to go on: python -m scripts.simulate --resume {self._keeper.path}")
        typer.echo("\n".join(lines))

    def _clear(self) -> None:
        if self._progress.isatty():
            self._progress.write("\r\x1b[K")


async def _run(
    chosen: Sequence[Case], processes: int, command: Sequence[str], tell: Teller
) -> None:
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    async with workers(processes, command) as crew:
        await sweep(crew, chosen, tell.done)
        for failed in tell.tally.first_of_each():
            await tell.smaller(failed, crew[0].play)


def simulate(
    chosen: Sequence[Case],
    processes: int,
    keeper: Keeper,
    before: Progress | None = None,
    command: Sequence[str] = WORKER,
) -> int:
    """Play cases in worker processes, and tell of them; the exit code.

    Args:
        before: What was done before the run was broken off; of those nothing is played again.
    """
    tell = Teller(Tally(len(chosen), before=before), sys.stderr, keeper)
    done = set(before.done) if before is not None else set()
    left = [case for case in chosen if case.seed not in done]
    try:
        asyncio.run(_run(left, processes, command, tell))
    except asyncio.CancelledError:
        tell.end(interrupted=True)
        return INTERRUPTED
    tell.end(interrupted=False)
    return 0 if tell.tally.passed else 1


def _replay(text: str) -> int:
    try:
        case = parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    outcome = play(case)
    if outcome.failure is not None:
        typer.echo(outcome.failure.report)
        return 1
    typer.echo(f"{case} passed: {duration(outcome.simulated_s)} simulated")
    return 0


def _resumed(path: Path | None, chosen: Chosen) -> tuple[Chosen, Progress | None]:
    """What to play, and what of it is done: all of it is in the file, if there is one."""
    if path is None or not path.exists():
        return chosen, None
    try:
        found = load(path, chosen.code)
    except (OtherCode, msgspec.DecodeError) as error:
        raise typer.BadParameter(f"{error}; remove it to begin again") from None
    return found.chosen, found.progress


def command(
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="The first of them.")] = 0,
    kind: Annotated[str, typer.Option(help=f"{', '.join(KINDS)}, or all.")] = "all",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes; otherwise one per core.")
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            dir_okay=False,
            help="Go on with the run that is kept there, or keep a new one there.",
        ),
    ] = None,
    replay: Annotated[
        str | None, typer.Option(metavar="KIND:SEED", help="Play this one here, and tell of it.")
    ] = None,
) -> None:
    """Play seeded histories of whole simulated clusters, and judge each."""
    if replay is not None:
        raise typer.Exit(_replay(replay))
    if kind not in {*KINDS, "all"}:
        raise typer.BadParameter(f"{kind!r}: there are {', '.join(KINDS)} and all.")
    chosen, before = _resumed(resume, Chosen(kind, seed, seeds, code_here()))
    path = resume or RUNS / f"{kind}-{seed}-{seeds}.json"
    kinds = _MIXED if chosen.kind == "all" else (chosen.kind,)
    processes = min(workers or len(os.sched_getaffinity(0)), chosen.seeds)
    played = list(cases(kinds, chosen.seed, chosen.seeds))
    raise typer.Exit(simulate(played, processes, Keeper(path, chosen), before))


_app: Final = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
)
_app.command()(command)

if __name__ == "__main__":
    _app()
