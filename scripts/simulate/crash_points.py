"""Cut every canonical operation at every step, on every node: ``make crash-points``.

The operations are those of ``tests/simulation/crash_points.py``. What it comes to is written to
``docs/crash-points.md``; a point that breaks a promise is told with the command that replays it.
"""

import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import islice
from multiprocessing import get_context
from typing import Annotated, Final, NamedTuple, TextIO

import typer

from scripts.simulate.pool import ROOT
from scripts.simulate.tally import TOLD_WHOLE, duration
from tests.simulation.crash_points import (
    OPERATIONS,
    Point,
    cut,
    point_of,
    points_of,
    steps_of,
)

PAGE: Final = ROOT / "docs" / "crash-points.md"
_HEAD: Final = """# Crash points

Each operation is run once undisturbed, in the simulation, and its steps are counted: callbacks of
any process. Then it is run again for each step and each strike. After that step a node loses power,
or its process is killed, or all nodes lose power at once; what was struck starts again, the cluster
repairs itself, and the whole history is judged. Written by `make crash-points`; the operations are
in `tests/simulation/crash_points.py`, and `make test` cuts each of them at some of these points.

| operation | what | steps | nodes | points | seconds of CPU | promises broken |
|---|---|---|---|---|---|---|
"""
#: Points that a process is given at once.
_CHUNK: Final = 16


class Cuts(NamedTuple):
    """What became of some points."""

    number: int
    took_s: float
    #: Of each that broke a promise: the point, and what to read about it.
    broken: list[tuple[Point, str]]


def cuts(points: Sequence[Point]) -> Cuts:
    """Cut an operation at some points, in this process."""
    began_s, broken = time.process_time(), []
    for point in points:
        try:
            cut(point)
        except (Exception, BaseExceptionGroup) as error:  # noqa: BLE001 whatever it is, it is told
            told = [f"{type(error).__name__}: {error}", *getattr(error, "__notes__", [])]
            broken.append((point, "\n".join(told)))
    return Cuts(len(points), time.process_time() - began_s, broken)


class _Teller:
    """Says how far it is."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._began_s = time.monotonic()
        self.told = 0

    def progress(self, operation: str, done: int, of: int) -> None:
        """On one line, where it can be written over."""
        if self._stream.isatty():
            passed = duration(time.monotonic() - self._began_s)
            self._stream.write(f"\r\x1b[K{operation}: {done} of {of} points, {passed}")
            self._stream.flush()

    def broken(self, point: Point, report: str) -> None:
        """A point that broke a promise: the first ones whole."""
        self.told += 1
        typer.echo(f"\n{point} FAILED" + (f"\n{report}" if self.told <= TOLD_WHOLE else ""))


def _row(operation: str, pool: ProcessPoolExecutor, stride: int, tell: _Teller) -> str:
    points = list(points_of(operation, stride))
    done, took_s, broken = 0, 0.0, 0
    for result in pool.map(cuts, _chunks(points)):
        done, took_s = done + result.number, took_s + result.took_s
        for point, report in result.broken:
            broken += 1
            tell.broken(point, report)
        tell.progress(operation, done, len(points))
    scenario = OPERATIONS[operation].scenario
    meant = scenario.func if isinstance(scenario, partial) else scenario
    what = (meant.__doc__ or "").partition("\n")[0]
    nodes = len(OPERATIONS[operation].settings.node)
    steps = len(steps_of(operation))
    return f"| {operation} | {what} | {steps} | {nodes} | {done:,} | {took_s:,.0f} | {broken} |"


def _leave_interrupts_alone() -> None:
    """Ctrl-C is for the one that hands points out; the others end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _chunks(points: Sequence[Point]) -> Iterator[Sequence[Point]]:
    left = iter(points)
    while chunk := list(islice(left, _CHUNK)):
        yield chunk


def _replay(text: str) -> int:
    try:
        point = point_of(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    result = cuts([point])
    for _, report in result.broken:
        typer.echo(report)
    return 1 if result.broken else 0


def command(
    operation: Annotated[
        str | None, typer.Option(help="Only this one; then nothing is written.")
    ] = None,
    stride: Annotated[
        int, typer.Option(min=1, help="Every so manieth step; nothing is written above 1.")
    ] = 1,
    replay: Annotated[
        str | None, typer.Option(metavar="'OPERATION: STRIKE: STEP'", help="Cut it there.")
    ] = None,
) -> None:
    """Cut canonical operations of a simulated cluster at every step, on every node."""
    if replay is not None:
        raise typer.Exit(_replay(replay))
    if operation is not None and operation not in OPERATIONS:
        raise typer.BadParameter(f"{operation!r} is none of {', '.join(OPERATIONS)}")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # ends the processes as well
    tell, rows = _Teller(sys.stderr), []
    processes = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(processes, get_context("spawn"), _leave_interrupts_alone) as pool:
        for name in [operation] if operation is not None else OPERATIONS:
            rows.append(_row(name, pool, stride, tell))
            typer.echo(f"\n{rows[-1]}" if sys.stderr.isatty() else rows[-1])
    if operation is None and stride == 1:
        total = f"\n{len(OPERATIONS)} operations, {tell.told} promises broken.\n"
        PAGE.write_text(_HEAD + "\n".join(rows) + "\n" + total, encoding="utf-8")
    raise typer.Exit(1 if tell.told else 0)


_app: Final = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
)
_app.command()(command)

if __name__ == "__main__":
    _app()
