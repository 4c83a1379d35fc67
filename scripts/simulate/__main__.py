"""Play seeded histories of whole clusters: ``python -m scripts.simulate``, ``make simulate``.

Exit codes: 0 when all held and every rare path was met; 1 otherwise; 2 bad arguments; 130
interrupted. Whatever the code, no worker is left.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from typing import Annotated, Final, TextIO

import typer

from scripts.simulate.case import KINDS, Case, Outcome, parse, play
from scripts.simulate.corpus import as_text
from scripts.simulate.pool import WORKER, Play, cases, sweep, workers
from scripts.simulate.reduction import reduced
from scripts.simulate.tally import TOLD_WHOLE, Tally, duration

#: Lifetimes take twice as long as a history; so all kinds get about the same time.
_MIXED: Final = ("histories", "histories", "lifetimes", "sessions")
#: Between two lines of progress where they can't be written over each other.
_LINE_EVERY_S: Final = 10.0
INTERRUPTED: Final = 130


class Teller:
    """Says how a run goes: progress on one stream, what is to be kept on another."""

    def __init__(self, tally: Tally, progress: TextIO) -> None:
        self.tally = tally
        self._progress = progress
        self._next_line_s = 0.0

    def done(self, outcome: Outcome) -> None:
        """Add an outcome, and tell of it."""
        self.tally.add(outcome)
        if outcome.failure is not None:
            self._clear()
            if len(self.tally.failures) <= TOLD_WHOLE:
                typer.echo(f"{outcome.failure.report}\n")
            else:
                typer.echo(f"{outcome.case} FAILED too: {outcome.failure.broken}")
        if self._progress.isatty():
            self._progress.write(f"\r\x1b[K{self.tally.progress()}")
        elif asyncio.get_running_loop().time() >= self._next_line_s:
            self._next_line_s = asyncio.get_running_loop().time() + _LINE_EVERY_S
            self._progress.write(f"{self.tally.progress()}\n")
        self._progress.flush()

    async def smaller(self, failed: Outcome, play: Play) -> None:
        """Look for a failure with fewer faults, and tell of it."""
        typer.echo(f"{failed.case}: leaving out faults ...")
        smallest = await reduced(failed, play)
        assert smallest.failure is not None
        of = f"of {len(failed.failure.faults)}" if failed.failure else ""
        typer.echo(f"{len(smallest.failure.faults)} {of} faults are enough:\n")
        typer.echo(f"{smallest.failure.report}\n")
        kept = as_text(smallest.case, smallest.failure.broken)
        typer.echo(f"to keep it, once it is mended: tests/simulation/corpus/NAME.toml\n{kept}")

    def end(self, *, interrupted: bool) -> None:
        """Tell what the run comes to."""
        self._clear()
        lines = [*self.tally.counters(), self.tally.verdict(interrupted=interrupted)]
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


def simulate(chosen: Sequence[Case], processes: int, command: Sequence[str] = WORKER) -> int:
    """Play cases in worker processes, and tell of them; the exit code."""
    tell = Teller(Tally(len(chosen)), sys.stderr)
    try:
        asyncio.run(_run(chosen, processes, command, tell))
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


def command(
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="The first of them.")] = 0,
    kind: Annotated[str, typer.Option(help=f"{', '.join(KINDS)}, or all.")] = "all",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes; otherwise one per core.")
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
    kinds = _MIXED if kind == "all" else (kind,)
    processes = workers or len(os.sched_getaffinity(0))
    raise typer.Exit(simulate(list(cases(kinds, seed, seeds)), min(processes, seeds)))


_app: Final = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
)
_app.command()(command)

if __name__ == "__main__":
    _app()
