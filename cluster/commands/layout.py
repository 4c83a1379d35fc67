"""Commands by which nodes join and leave a region: layout, leave, forget."""

import time
from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
import typer
from rich.console import Console

from cluster import changes, growth, report
from cluster.commands.options import (
    EXIT_DEGRADED,
    NodeArgument,
    NodesArgument,
    Output,
    OutputOption,
    UsageError,
    VarOption,
    complete_node,
    console,
    note,
    print_json,
)
from cluster.findings import LAYOUT_STUCK_S
from cluster.growth import Newcomer
from cluster.ids import NodeId
from cluster.launch import named, say
from cluster.layoutviews import LayoutView, PlanView, Staged, in_words, moved
from cluster.settings import ClusterSettings, NodeSettings
from cluster.startup import LaunchError
from cluster.vardir import DEFAULT_ROOT, VarDirectory

_WATCH_S: Final = 1.0

app = typer.Typer(help="Who owns what, and how that changes: show, stage, plan, commit, revert.")

RegionOption = Annotated[
    str | None, typer.Option("--region", help="Such as b; needed if there are several.")
]
WaitOption = Annotated[bool, typer.Option(help="Watch until the owners have changed.")]


@app.callback(invoke_without_command=True)
def show(
    context: typer.Context,
    var: VarOption = DEFAULT_ROOT,
    output: OutputOption = Output.TABLE,
    watch: Annotated[bool, typer.Option("--watch", help="Look again each second.")] = False,
) -> None:
    """Show who owns how much of each region, what is staged, and how far a change is.

    Exit code 1: a change does not go on.
    """
    if context.invoked_subcommand is not None:
        return
    settings = VarDirectory(var).settings()
    try:
        while True:
            said = {one: changes.all_views(settings, one) for one in settings.region_names}
            best = {region: changes.newest(views) for region, views in said.items()}
            if output is Output.JSON:
                print_json(msgspec.to_builtins(best), one_line=watch)
            else:
                for region, views in said.items():
                    _print(best[region], views)
            if not watch:
                break
            time.sleep(_WATCH_S)
    except KeyboardInterrupt:
        return
    if any(view.still_s >= LAYOUT_STUCK_S for view in best.values()):
        raise typer.Exit(EXIT_DEGRADED)


@app.command()
def stage(
    var: VarOption = DEFAULT_ROOT,
    add: Annotated[
        list[str] | None, typer.Option(metavar="NODE", help="A new node; made and started.")
    ] = None,
    zone: Annotated[str | None, typer.Option(help="Of new nodes; else the least used.")] = None,
    remove: Annotated[
        list[str] | None,
        typer.Option(metavar="NODE", help="A member.", autocompletion=complete_node),
    ] = None,
    weight: Annotated[
        list[str] | None,
        typer.Option(metavar="NODE=W", help="Its share; W alone is that of new nodes."),
    ] = None,
    region: RegionOption = None,
) -> None:
    """Say what is to change. Nothing is changed yet; what was staged before stays staged."""
    directory = VarDirectory(var)
    weights, of_new = _weights(weight or [])
    if not add and not remove and not weights:
        raise UsageError("say what is to change: --add NODE, --remove NODE or --weight NODE=W.")
    if of_new is not None and not add:
        raise UsageError(f"--weight {of_new:g}: say whose, as in --weight a1={of_new:g}.")
    members = named(directory, [*(remove or []), *weights])
    new = [Newcomer(name, region, zone, of_new) for name in add or []]
    added = growth.add(directory, new, console()) if new else []
    where = _one_region([*members, *added])
    wanted = Staged(tuple(added), tuple(map(NodeId, remove or [])), weights)
    changes.stage(changes.first_member(directory.settings(), where), wanted)
    commit_ = directory.command("stele layout commit")
    say(
        console(),
        f"staged; {directory.command('stele layout plan')} shows what would move, "
        f"{commit_} begins it",
    )


@app.command()
def plan(
    var: VarOption = DEFAULT_ROOT,
    output: OutputOption = Output.TABLE,
    region: RegionOption = None,
) -> None:
    """Show what a commit would move. Nothing is changed."""
    settings = VarDirectory(var).settings()
    view = changes.plan(_where_staged(settings, region))
    if output is Output.JSON:
        print_json(msgspec.to_builtins(view))
    else:
        _print_plan(view)


@app.command()
def commit(
    var: VarOption = DEFAULT_ROOT,
    output: OutputOption = Output.TABLE,
    region: RegionOption = None,
    wait: WaitOption = True,
) -> None:
    """Begin what is staged, and watch it. It goes on to its end, whoever is restarted meanwhile."""
    directory = VarDirectory(var)
    settings = directory.settings()
    screen = console() if output is Output.TABLE else Console(stderr=True)
    first = _where_staged(settings, region)
    view = changes.plan(first)
    changes.commit(first, view.epoch)
    say(screen, f"region {view.region}: {view.moves} replicas move, in {view.steps} steps")
    _end(directory, view.region, view.epoch, output, screen, wait=wait)


@app.command()
def revert(var: VarOption = DEFAULT_ROOT, region: RegionOption = None) -> None:
    """Forget what is staged. Nodes that were added go on running, and take no part."""
    changes.revert(_where_staged(VarDirectory(var).settings(), region))
    say(console(), "nothing is staged any more")


def leave(
    node: NodeArgument,
    var: VarOption = DEFAULT_ROOT,
    output: OutputOption = Output.TABLE,
    wait: WaitOption = True,
) -> None:
    """Have a node give all that it owns to others and leave its region; then it may be stopped."""
    directory = VarDirectory(var)
    (leaving,) = named(directory, [node])
    settings = directory.settings()
    screen = console() if output is Output.TABLE else Console(stderr=True)
    view = changes.look(settings, leaving.region)
    job = changes.leave(changes.first_member(settings, leaving.region), node)
    say(screen, f"{node} leaves region {leaving.region}: {job.total} replicas move")
    _end(directory, leaving.region, view.own.epoch, output, screen, wait=wait)
    if wait:
        stop, forget_ = (directory.command(f"stele {what} {node}") for what in ("stop", "forget"))
        say(screen, f"{node} owns nothing any more: {stop}, then {forget_}")


def forget(nodes: NodesArgument, var: VarOption = DEFAULT_ROOT) -> None:
    """Take stopped nodes that have left, or never joined, out of the cluster file."""
    growth.forget(VarDirectory(var), nodes, console())


def _end(
    var: VarDirectory,
    region: str,
    epoch: int,
    output: Output,
    screen: Console,
    *,
    wait: bool,
) -> None:
    if not wait:
        follow = var.command("stele layout --watch")
        say(screen, f"it goes on by itself; {follow} shows how far it is")
        return
    began_s = time.monotonic()
    view = changes.follow(var.settings(), region, epoch, screen)
    if output is Output.JSON:
        print_json(msgspec.to_builtins(view))
        return
    took = report.duration(time.monotonic() - began_s)
    say(screen, f"the owners have changed, in {took}")
    _print(view, [])


def _weights(typed: list[str]) -> tuple[dict[NodeId, float], float | None]:
    """Of members, and of new nodes."""
    weights: dict[NodeId, float] = {}
    of_new = None
    for one in typed:
        name, separator, number = one.rpartition("=")
        try:
            weight = float(number)
        except ValueError:
            raise UsageError(f"--weight {one}: {number!r} is no number.") from None
        if separator:
            weights[NodeId(name)] = weight
        else:
            of_new = weight
    return weights, of_new


def _one_region(nodes: list[NodeSettings]) -> str:
    regions = list(dict.fromkeys(node.region for node in nodes))
    if len(regions) > 1:
        raise UsageError(f"these are of regions {' and '.join(regions)}: change one at a time.")
    return regions[0]


def _where_staged(settings: ClusterSettings, region: str | None) -> NodeSettings:
    """The node at which a change is staged."""
    if region is not None and region not in settings.region_names:
        raise UsageError(f"there is no region {region}; there are {settings.region_names}.")
    regions = [region] if region else list(settings.region_names)
    firsts = {one: changes.first_member(settings, one) for one in regions}
    if len(firsts) > 1:
        firsts = {
            one: first
            for one, first in firsts.items()
            if changes.layout(first, changes.TIMEOUT_S).staged
        }
    if not firsts:
        raise LaunchError("nothing is staged: `stele layout stage` does that.")
    if len(firsts) > 1:
        raise UsageError(f"changes of regions {', '.join(firsts)} are staged: choose by --region.")
    (first,) = firsts.values()
    return first


def _print(view: LayoutView, views: Sequence[LayoutView]) -> None:
    """By the word of one node; what is staged, by that of the one that would begin it."""
    own, screen = view.own, console()
    changing = any(member.now != member.at_end for member in own.members)
    right = ("weight", "partitions", "at the end") if changing else ("weight", "partitions")
    table = report.new_table("node", "zone", right=right)
    table.add_column("")
    for one in own.members:
        does = "joins" if one.joining else "leaves" if one.leaving else ""
        at_end = [str(one.at_end)] if changing else []
        table.add_row(one.id, one.zone, f"{one.weight:g}", str(one.now), *at_end, does)
    screen.print(table)
    say(screen, f"\nregion {view.region}, epoch {own.epoch}: {in_words(view)}")
    if not own.is_stable:
        say(screen, f"{moved(views)} of {view.moves_total} replicas are where they will stay")
    if view.held_back:
        say(screen, f"{view.node} has yet to hand on {', '.join(view.held_back)}")
    if view.still_s >= LAYOUT_STUCK_S:
        note(f"nothing goes on for {report.duration(view.still_s)}; `stele doctor` says why")
    for said in views:
        if said.node == view.begins_at and said.staged:
            say(screen, f"staged: {_staged_words(said.staged)}")


def _staged_words(staged: Staged) -> str:
    words = [f"{node.id} joins in zone {node.zone}" for node in staged.add]
    words += [f"{name} leaves" for name in staged.remove]
    words += [f"{name} gets weight {weight:g}" for name, weight in staged.weights.items()]
    return ", ".join(words)


def _print_plan(view: PlanView) -> None:
    right = ("weight", "partitions", "at the end", "takes", "gives", "share")
    table = report.new_table("node", "zone", right=right)
    table.add_column("")
    for one in view.nodes:
        table.add_row(
            one.id,
            one.zone,
            f"{one.weight:g}",
            str(one.now),
            str(one.at_end),
            str(one.gained),
            str(one.lost),
            f"{one.at_end / view.partitions:.0%}",
            "joins" if one.joining else "leaves" if one.leaving else "",
        )
    screen = console()
    screen.print(table)
    say(
        screen,
        f"\nregion {view.region}, epoch {view.epoch}: {view.moves} replicas of {view.partitions} "
        f"partitions would move, in {view.steps} steps; share: of the region's documents",
    )
