"""Play scenarios with real processes: ``python -m scripts.scenarios``, ``make scenarios``.

Exit codes: 0 when everything was seen that must be; 1 otherwise; 2 bad arguments; 130 interrupted.
Whatever the code, nothing that was started still runs, unless --keep asks for it.
"""

import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import typer

from cluster.interrupts import Interrupted
from cluster.vardir import VarDirectory
from scripts.local_cluster import ClusterError
from scripts.scenarios.catalogue import SCENARIOS, Scenario
from scripts.scenarios.stage import Failed, Stage


def _chosen(names: Sequence[str]) -> list[Scenario]:
    known = {scenario.name: scenario for scenario in SCENARIOS}
    for name in names:
        if name not in known:
            raise typer.BadParameter(f"there is no {name}; there are {', '.join(known)}.")
    return [known[name] for name in names or known]


def _play(scenario: Scenario, *, keep: bool) -> str | None:
    """Play one in a directory of its own; why it failed, or None."""
    directory = Path(tempfile.mkdtemp(prefix=f"stele-{scenario.name}-"))
    stage = Stage(directory, typer.echo)
    typer.echo(f"{scenario.name}: {scenario.description}\n")
    reason = None
    interrupted = True
    try:
        scenario.play(stage)
        interrupted = False
    except (Failed, ClusterError, OSError) as error:
        reason, interrupted = str(error), False
    finally:
        stays = keep and not interrupted
        stage.close(keep_running=stays)
        if interrupted or not (reason or keep):
            shutil.rmtree(directory, ignore_errors=True)
    verdict = f"FAILED: {reason}" if reason else "passed: all of it was seen"
    typer.echo(f"{stage.elapsed_s:6.1f} s  {scenario.name} {verdict}")
    var = VarDirectory(directory / "var")
    if stays:
        typer.echo(f"it still runs: {var.command('stele status')}, {var.command('stele clean')}")
    elif reason:
        typer.echo(f"what its nodes logged is in {var.root / 'log'}")
    typer.echo("")
    return reason


def play(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="All of them otherwise.")
    ] = None,
    show: Annotated[bool, typer.Option("--list", help="Name them and what they do.")] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave each cluster running, to look at it.")
    ] = False,
) -> None:
    """Play scenarios: what must not go wrong, done to real processes whose months last seconds."""
    chosen = _chosen(names or ())
    if show:
        for scenario in chosen:
            typer.echo(f"{scenario.name:<22}{scenario.title}")
        return
    try:
        failed = [scenario.name for scenario in chosen if _play(scenario, keep=keep)]
    except KeyboardInterrupt:
        raise Interrupted from None
    if failed:
        typer.echo(f"{len(failed)} of {len(chosen)} FAILED: {', '.join(failed)}")
        raise typer.Exit(1)
    typer.echo(f"{len(chosen)} of {len(chosen)} passed")


_app: Final = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
)
_app.command()(play)


def main() -> None:
    """Entry point."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        _app()
    except Interrupted:
        typer.echo("scenarios: interrupted; what was started has been stopped.", err=True)
        sys.exit(130)


if __name__ == "__main__":
    main()
