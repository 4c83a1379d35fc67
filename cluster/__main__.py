"""The ``stele`` command.

Exit codes: 0 done; 1 not done, or degraded; 2 what was typed or a file's content is wrong; 3 no
node can be reached; 130 interrupted. Errors are one sentence on standard error.

Here are the commands that start, stop and mend nodes; those that look, and those that clients could
run as well, are in ``cluster.commands``.
"""

import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from cluster import balancer, launch, report
from cluster import repair as repairs
from cluster.answers import Unreachable
from cluster.commands import (
    config,
    documents,
    edge,
    layout,
    live,
    prometheus,
    region,
    traces,
    views,
)
from cluster.commands.options import (
    EXIT_DEGRADED,
    EXIT_UNREACHABLE,
    EXIT_USAGE,
    NodeArgument,
    NodesArgument,
    Output,
    OutputOption,
    UsageError,
    VarOption,
    complete_node,
    console,
    print_json,
)
from cluster.interrupts import Interrupted
from cluster.launch import Wanted
from cluster.startup import LaunchError
from cluster.topology import TopologyError
from cluster.vardir import DEFAULT_ROOT, VarDirectory, VarError

app = typer.Typer(
    help="Run a Stele cluster, and see what it does.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.command()
def up(
    var: VarOption = DEFAULT_ROOT,
    nodes: Annotated[
        int | None, typer.Option(help="How many in a region; 3 for a new cluster.")
    ] = None,
    port_base: Annotated[int | None, typer.Option(help="8000 for a new cluster.")] = None,
    regions: Annotated[int | None, typer.Option(help="1 to 3; 2 for a new cluster.")] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="TOML file whose settings override a new cluster's.", metavar="FILE"),
    ] = None,
) -> None:
    """Start a cluster, creating it if need be; return when it is ready."""
    wanted = Wanted(nodes=nodes, regions=regions, port_base=port_base, config=config)
    directory = VarDirectory(var)
    settings = launch.up(directory, wanted, console())
    report.print_welcome(settings, balancer.look(directory, settings), console())


@app.command()
def down(var: VarOption = DEFAULT_ROOT) -> None:
    """Stop every node and keep the documents."""
    launch.down(VarDirectory(var), console())


@app.command()
def clean(var: VarOption = DEFAULT_ROOT) -> None:
    """Stop every node and remove the cluster with its documents."""
    launch.clean(VarDirectory(var), console())


@app.command()
def start(nodes: NodesArgument, var: VarOption = DEFAULT_ROOT) -> None:
    """Start nodes of a running or stopped cluster."""
    _start(VarDirectory(var), nodes)


@app.command()
def stop(
    nodes: NodesArgument,
    var: VarOption = DEFAULT_ROOT,
    kill: Annotated[bool, typer.Option("--kill", help="By SIGKILL, as a crash would.")] = False,
) -> None:
    """Stop nodes, each out of the load balancers' rotation first; the others go on."""
    launch.stop(VarDirectory(var), nodes, console(), kill=kill)


@app.command()
def restart(nodes: NodesArgument, var: VarOption = DEFAULT_ROOT) -> None:
    """Stop nodes and start them again, as after an edit of cluster.toml."""
    launch.stop(VarDirectory(var), nodes, console(), kill=False)
    _start(VarDirectory(var), nodes)


@app.command()
def replace(
    nodes: NodesArgument,
    var: VarOption = DEFAULT_ROOT,
    in_place: Annotated[
        bool,
        typer.Option("--in-place", help="They run, and believe nothing they hold till then."),
    ] = False,
) -> None:
    """Start stopped nodes on empty directories and rebuild them from their peers.

    All nodes of a region are rebuilt from another region. What they had is kept beside them.
    """
    directory = VarDirectory(var)
    if in_place:
        for node in launch.named(directory, nodes):
            repairs.rebuild(node, console())
        return
    late = launch.replace(directory, nodes, console())
    follow = directory.command("stele status")
    for one in late:
        launch.say(console(), f"{one.id} runs, but is not ready yet: {one.unready}; {follow} tells")
    if late:
        raise typer.Exit(1)
    was = "was rebuilt and is ready" if len(nodes) == 1 else "were rebuilt and are ready"
    launch.say(console(), f"{', '.join(nodes)} {was}")


@app.command()
def repair(
    nodes: Annotated[
        list[str] | None, typer.Argument(metavar="[NODE...]", autocompletion=complete_node)
    ] = None,
    var: VarOption = DEFAULT_ROOT,
    output: OutputOption = Output.TABLE,
    wait: Annotated[bool, typer.Option(help="Watch until all has been compared.")] = True,
) -> None:
    """Compare the copies of nodes (all, if none is named) with their peers' now, and level them."""
    directory = VarDirectory(var)
    chosen = launch.named(directory, nodes) if nodes else directory.settings().node
    in_words = output is Output.TABLE
    screen = console() if in_words else Console(stderr=True)
    repaired = repairs.repair(chosen, screen, wait=wait)
    if not in_words:
        print_json({"nodes": msgspec.to_builtins(repaired.jobs), "silent": repaired.silent})
    if repaired.silent:
        raise typer.Exit(EXIT_DEGRADED)


@app.command()
def drain(
    nodes: NodesArgument,
    var: VarOption = DEFAULT_ROOT,
    back: Annotated[bool, typer.Option("--back", help="Serve again.")] = False,
    wait: Annotated[bool, typer.Option(help="Watch until they can be stopped.")] = True,
) -> None:
    """Take nodes out of service without stopping them: clients leave, writes are handed on.

    A node that is drained serves again with --back, or after a restart.
    """
    directory = VarDirectory(var)
    chosen, names = launch.named(directory, nodes), " ".join(nodes)
    if back:
        if repairs.end_drain(chosen, console()):
            raise typer.Exit(EXIT_DEGRADED)
        launch.say(console(), f"{', '.join(nodes)} ready again")
        return
    stop = directory.command(f"stele stop {names}")
    again = directory.command(f"stele drain --back {names}")
    if not repairs.drain(chosen, console(), wait=wait):
        said = f"{', '.join(nodes)} drained: no client asks, nothing is left to hand on"
        launch.say(console(), f"{said}; {stop}, or {again}")
    elif wait:
        raise typer.Exit(EXIT_DEGRADED)
    else:
        launch.say(console(), f"{', '.join(nodes)} draining; `stele doctor` tells when it is done")


@app.command()
def trust(
    node: NodeArgument,
    var: VarOption = DEFAULT_ROOT,
    yes: Annotated[bool, typer.Option("--yes", help="I have read what this does.")] = False,
) -> None:
    """Serve what a fenced node holds. For partitions whose every owner is fenced.

    A document that was deleted and purged while this node was away may come back with it.
    """
    directory = VarDirectory(var)
    (chosen,) = launch.named(directory, [node])
    if not yes:
        raise LaunchError(
            f"documents that were deleted while {node} was away may come back with it; "
            f"{directory.command(f'stele trust --yes {node}')} does it all the same."
        )
    repairs.trust(chosen, console())


def _start(var: VarDirectory, nodes: list[str]) -> None:
    late = launch.start(var, nodes, console())
    for one in late:
        launch.say(console(), f"{one.id} runs, but is not ready yet: {one.unready}")
    if late:
        raise typer.Exit(1)
    launch.say(console(), f"{', '.join(nodes)} ready")


app.command("status")(views.show_status)
app.command("doctor")(views.show_doctor)
app.command("ring")(views.show_ring)
app.command("owners")(views.show_owners)
app.command("hints")(views.show_hints)
app.command("events")(live.follow_events)
app.command("traces")(traces.list_traces)
app.command("trace")(traces.show_trace)
app.command("top")(live.show_top)
app.command()(documents.put)
app.command()(documents.get)
app.command()(documents.rm)
app.command()(documents.load)
app.command()(layout.leave)
app.command()(layout.forget)
app.add_typer(layout.app, name="layout")
app.add_typer(config.app, name="config")
app.add_typer(edge.app, name="edge")
app.add_typer(region.app, name="region")
app.add_typer(prometheus.app, name="prometheus")


def main() -> None:
    """Entry point of ``stele`` and ``python -m cluster``."""
    try:
        app()
    except (TopologyError, VarError, UsageError) as error:
        _fail(str(error), EXIT_USAGE)
    except Unreachable as error:
        _fail(str(error), EXIT_UNREACHABLE)
    except LaunchError as error:
        _fail(str(error), 1)
    except Interrupted:
        _fail("interrupted; what this command had started was stopped again.", 130)
    except OSError as error:
        _fail(f"{error.filename or 'the system'}: {error.strerror or error}.", 1)


def _fail(sentence: str, code: int) -> None:
    typer.echo(f"stele: {sentence}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
