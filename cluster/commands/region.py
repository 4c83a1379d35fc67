"""Commands by which an operator gives up a region, and takes it back: region gone, region back."""

import time
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Final

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cluster import operations
from cluster.answers import Answers, unreachable
from cluster.commands.options import EXIT_DEGRADED, UsageError, VarOption, console
from cluster.interrupts import Interrupted, Interrupts
from cluster.launch import say
from cluster.operations import Declined, LifecycleView, NoAnswer, RegionsView
from cluster.settings import ClusterSettings, NodeSettings
from cluster.startup import LaunchError
from cluster.vardir import DEFAULT_ROOT, VarDirectory

_TIMEOUT_S: Final = 5.0
#: A word that nothing hinders is everywhere by then.
_HEARD_WITHIN_S: Final = 5.0
_POLL_S: Final = 0.2

app = typer.Typer(help="Give up a region that is lost, and take it back.", no_args_is_help=True)

RegionArgument = Annotated[str, typer.Argument(metavar="REGION", help="Such as b.")]
YesOption = Annotated[bool, typer.Option("--yes", help="I have read what this does.")]


@app.command()
def gone(region: RegionArgument, var: VarOption = DEFAULT_ROOT, yes: YesOption = False) -> None:
    """Say that a region is lost: the others wait for it no more.

    What only that region had is lost with this word. Its nodes, if any still run, serve nothing
    from the moment they hear of it, and come back only rebuilt from another region.
    """
    directory = VarDirectory(var)
    settings, nodes = _named(directory, region)
    alive = [node.id for node in nodes if _answers(node)]
    if not yes:
        lives = f"{', '.join(alive)} of it still answer{'s' * (len(alive) == 1)}! " if alive else ""
        raise LaunchError(
            f"{lives}what region {region} acknowledged and no other region has got will be lost, "
            "its nodes serve nothing from then on, and until they hear of it their clients may be "
            "shown what the other regions delete; "
            f"{directory.command(f'stele region gone --yes {region}')} does it all the same."
        )
    told, silent = _tell(settings, region, gone=True)
    unaware = _unaware(told)
    say(console(), f"region {region} is gone; {', '.join(node.id for node in told)} know it")
    if waited_for := dict.fromkeys([*unaware, *silent]):
        say(console(), f"purges wait until {', '.join(waited_for)} know it too; they are told")
        raise typer.Exit(EXIT_DEGRADED)
    say(console(), "deletions are purged without it; the other regions keep nothing for it")


@app.command()
def back(region: RegionArgument, var: VarOption = DEFAULT_ROOT) -> None:
    """Say that a region that was given up takes part again; watch it being rebuilt."""
    directory = VarDirectory(var)
    settings, nodes = _named(directory, region)
    told, silent = _tell(settings, region, gone=False)
    say(console(), f"region {region} counts again; {', '.join(node.id for node in told)} know it")
    if silent:
        say(console(), f"{', '.join(silent)} will be told when they run")
    running = [node for node in nodes if _answers(node)]
    if len(running) < len(nodes):
        missing = " ".join(node.id for node in nodes if node not in running)
        start = directory.command(f"stele start {missing}")
        replace = directory.command(f"stele replace {missing}")
        say(console(), f"{start} starts the rest of it, {replace} those whose disks are lost")
    if running and not _rebuilt(running):
        raise typer.Exit(EXIT_DEGRADED)


def _named(var: VarDirectory, region: str) -> tuple[ClusterSettings, list[NodeSettings]]:
    settings = var.settings()
    names = settings.region_names
    if region not in names:
        raise UsageError(f"{var.cluster_file} has no region {region}; it has {', '.join(names)}.")
    if len(names) == 1:
        raise UsageError(f"region {region} is the only one; there is no other to go on without it.")
    return settings, list(settings.region_nodes(region))


def _answers(node: NodeSettings) -> bool:
    try:
        operations.readiness(node, _TIMEOUT_S)
    except NoAnswer:
        return False
    return True


def _tell(
    settings: ClusterSettings, region: str, *, gone: bool
) -> tuple[list[NodeSettings], list[str]]:
    """Tell all nodes of other regions. Returns those that were told, and those that are silent."""
    told: list[NodeSettings] = []
    silent: list[str] = []
    others = [node for node in settings.node if node.region != region]
    for node in others:
        try:
            operations.speak_of_region(node, region, _TIMEOUT_S, gone=gone)
        except NoAnswer:
            silent.append(node.id)
        except Declined as error:
            raise LaunchError(f"{error}.") from error
        else:
            told.append(node)
    if not told:
        raise unreachable(others)
    return told, silent


def _unaware(told: Sequence[NodeSettings]) -> list[str]:
    """Who has not heard of it within a short time, as far as those who were told know."""
    deadline_s = time.monotonic() + _HEARD_WITHIN_S
    while True:
        views: dict[str, RegionsView] = Answers(told, operations.regions).given
        unaware = dict.fromkeys(one for view in views.values() for one in view.unaware)
        if not unaware or time.monotonic() > deadline_s:
            return list(unaware)
        time.sleep(_POLL_S)


def _rebuilt(nodes: Sequence[NodeSettings]) -> bool:
    """Watch nodes until they are ready; whether they are, and nobody lost patience before."""
    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    ]
    ask = partial(Answers[LifecycleView], nodes, operations.lifecycle)
    with Interrupts() as interrupts, Progress(*columns, console=console(), transient=True) as bars:
        time.sleep(_POLL_S)
        tasks = {
            name: bars.add_task(name, total=len(view.fenced)) for name, view in ask().given.items()
        }
        while not all(map(_is_ready, nodes)):
            for name, view in ask().given.items():
                if name in tasks:
                    total = max(bars.tasks[tasks[name]].total or 0, len(view.fenced))
                    done = total - len(view.fenced)
                    bars.update(tasks[name], total=total, completed=done)
            try:
                interrupts.check()
            except Interrupted:
                say(console(), "the nodes go on by themselves; `stele status` shows the rest")
                return False
            time.sleep(_POLL_S)
    say(console(), f"{', '.join(node.id for node in nodes)} rebuilt and ready")
    return True


def _is_ready(node: NodeSettings) -> bool:
    """Or it takes no part, and never will by being waited for."""
    try:
        readiness = operations.readiness(node, _TIMEOUT_S)
    except NoAnswer:
        return False
    return readiness.ready or not readiness.takes_part
