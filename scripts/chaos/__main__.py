"""Break a cluster of real processes under load, and judge it: ``make chaos``.

Exit codes: 0 when nothing was wrong; 1 otherwise; 2 bad arguments; 130 interrupted twice.
Whatever the code, nothing that was started still runs.
"""

import asyncio
import random
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Final

import typer

from cluster.interrupts import Interrupted
from cluster.topology import REGIONS_MAX
from scripts.chaos.arena import ABSENT_S, Arena
from scripts.chaos.plan import EVERY, BadPlan, Fault, kinds_named, parse, random_plan
from scripts.chaos.report import write_report
from scripts.chaos.run import Options, Outcome, Run
from scripts.local_cluster import NODES_MAX, ClusterError

#: Over what makes a node absent.
_AWAY_S: Final = ABSENT_S + 6.0
_REPORTS: Final = Path("chaos")
_TOLD_MAX: Final = 20
_NO_CLOCKS: Final = (
    "wall clocks: all nodes read the machine's; the simulation shifts them, one by one"
)
_SEEDS: Final = 1_000_000


def _planned(
    seed: int, names: list[str], duration_s: float, faults: str | None, plan: Path | None
) -> list[Fault]:
    try:
        if plan is not None:
            return parse(plan.read_text(encoding="utf-8"), names)
        kinds = kinds_named(faults) if faults else list(EVERY)
        return random_plan(seed, names, duration_s, kinds, away_s=_AWAY_S)
    except (BadPlan, OSError) as error:
        raise typer.BadParameter(str(error)) from error


def chaos(
    duration: Annotated[float, typer.Option(help="Seconds of load and faults.")] = 60.0,
    nodes: Annotated[int, typer.Option(min=3, max=NODES_MAX, help="In each region.")] = 3,
    regions: Annotated[int, typer.Option(min=1, max=REGIONS_MAX)] = 1,
    seed: Annotated[int | None, typer.Option(help="Of clients and faults; drawn if none.")] = None,
    faults: Annotated[str | None, typer.Option(help="Only these, as kill,pause,partition.")] = None,
    plan: Annotated[
        Path | None, typer.Option(help="A file of faults in place of random ones.")
    ] = None,
    rate: Annotated[float, typer.Option(help="Requests a second, at most.")] = 120.0,
    report: Annotated[
        Path | None, typer.Option(help="Directory of the report; chaos/seed-SEED if none.")
    ] = None,
) -> None:
    """Break a cluster of real processes under load, heal it, and judge what clients saw."""
    seed = random.randrange(_SEEDS) if seed is None else seed
    names = [f"{region}{number}" for region in "abc"[:regions] for number in range(1, nodes + 1)]
    options = Options(
        seed=seed,
        nodes=nodes,
        regions=regions,
        duration_s=duration,
        plan=_planned(seed, names, duration, faults, plan),
        rate=rate,
    )
    directory = Path(tempfile.mkdtemp(prefix=f"stele-chaos-{seed}-"))
    typer.echo(f"seed {seed}, {options.size}, {duration:g} s, {len(options.plan)} faults")
    try:
        outcome = _play(options, directory)
    except ClusterError as error:
        typer.echo(f"FAILED: {error}\n(its files are in {directory})", err=True)
        raise typer.Exit(1) from None
    except Interrupted:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    where = report or _REPORTS / f"seed-{seed}"
    page = write_report(outcome, where, [*outcome.left_out, _NO_CLOCKS])
    if outcome.verdict.passed:
        shutil.rmtree(directory, ignore_errors=True)
    else:
        typer.echo(f"the cluster's files and logs are in {directory}")
    for violation in outcome.violations[:_TOLD_MAX]:
        typer.echo(str(violation))
    typer.echo(f"report: {page}")
    typer.echo(f"seed {seed}: {outcome.verdict}")
    if not outcome.verdict.passed:
        raise typer.Exit(1)


def _play(options: Options, directory: Path) -> Outcome:
    arena = Arena(directory, options.nodes, options.regions, options.seed)

    async def main() -> Outcome:
        run = Run(options, arena, typer.echo)
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()
        asked = False

        def stop() -> None:
            nonlocal asked
            if asked:
                task.cancel()
            asked = True
            run.stop()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop)
        try:
            return await run.play()
        finally:
            await arena.close()

    try:
        return asyncio.run(main())
    except asyncio.CancelledError:
        raise Interrupted from None


_app: Final = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
)
_app.command()(chaos)


def main() -> None:
    """Entry point."""
    try:
        _app()
    except Interrupted:
        typer.echo("chaos: interrupted; what was started has been stopped.", err=True)
        sys.exit(130)


if __name__ == "__main__":
    main()
