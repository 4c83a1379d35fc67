"""The ``stele`` command.

Exit codes: 0 done; 1 not done, or degraded; 2 what was typed or a file's content is wrong; 3 no
node can be reached; 130 interrupted. Errors are one sentence on standard error.
"""

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cluster import balancer, doctor, launch, report, status
from cluster import repair as repairs
from cluster.doctor import Severity
from cluster.envoy import envoy_configuration
from cluster.haproxy import haproxy_configuration
from cluster.interrupts import Interrupted
from cluster.launch import Wanted
from cluster.startup import LaunchError
from cluster.topology import TopologyError, read_cluster_file
from cluster.vardir import DEFAULT_ROOT, VarDirectory, VarError

#: Wide enough for the status table where no terminal says how wide it is.
_WIDTH_WITHOUT_TERMINAL = 120


class Balancer(StrEnum):
    """Programs that can be the edge."""

    ENVOY = "envoy"
    HAPROXY = "haproxy"


class Output(StrEnum):
    """How results are shown."""

    TABLE = "table"
    JSON = "json"


VarOption = Annotated[
    Path,
    typer.Option("--var", envvar="STELE_VAR", help="Directory of the cluster.", metavar="DIR"),
]
NodesArgument = Annotated[
    list[str], typer.Argument(metavar="NODE...", help="Such as a2; edge is the load balancer.")
]

app = typer.Typer(
    help="Run a local Stele cluster.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
config_app = typer.Typer(help="Cluster files.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(config_app, name="config")
edge_app = typer.Typer(help="The load balancer.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(edge_app, name="edge")


@app.command()
def up(
    var: VarOption = DEFAULT_ROOT,
    nodes: Annotated[int | None, typer.Option(help="How many; 3 for a new cluster.")] = None,
    port_base: Annotated[int | None, typer.Option(help="8000 for a new cluster.")] = None,
    regions: Annotated[int | None, typer.Option(help="1 in this version.")] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="TOML file whose settings override a new cluster's.", metavar="FILE"),
    ] = None,
) -> None:
    """Start a cluster, creating it if need be; return when it is ready."""
    wanted = Wanted(nodes=nodes, regions=regions, port_base=port_base, config=config)
    directory = VarDirectory(var)
    settings = launch.up(directory, wanted, _console())
    report.print_welcome(settings, balancer.look(directory, settings), _console())


@app.command()
def down(var: VarOption = DEFAULT_ROOT) -> None:
    """Stop every node and keep the documents."""
    launch.down(VarDirectory(var), _console())


@app.command()
def clean(var: VarOption = DEFAULT_ROOT) -> None:
    """Stop every node and remove the cluster with its documents."""
    launch.clean(VarDirectory(var), _console())


@app.command("status")
def show_status(
    var: VarOption = DEFAULT_ROOT,
    output: Annotated[Output, typer.Option("-o", "--output")] = Output.TABLE,
) -> None:
    """Show every node. Exit code 0: all is well, 1: degraded, 3: no node answers."""
    directory = VarDirectory(var)
    settings = directory.settings()
    views, edge = status.look(directory, settings.node), balancer.look(directory, settings)
    state = status.judge(views, edge)
    if output is Output.JSON:
        typer.echo(report.status_json(directory, views, edge, state))
    else:
        report.print_status(directory, views, edge, state, _console())
    raise typer.Exit(state.value)


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
    launch.stop(VarDirectory(var), nodes, _console(), kill=kill)


@app.command()
def restart(nodes: NodesArgument, var: VarOption = DEFAULT_ROOT) -> None:
    """Stop nodes and start them again, as after an edit of cluster.toml."""
    launch.stop(VarDirectory(var), nodes, _console(), kill=False)
    _start(VarDirectory(var), nodes)


@app.command()
def replace(
    node: Annotated[str, typer.Argument(metavar="NODE", help="Such as a2; it must be stopped.")],
    var: VarOption = DEFAULT_ROOT,
) -> None:
    """Start a node on an empty directory and rebuild it from its peers; the old one is kept."""
    directory = VarDirectory(var)
    for one in launch.replace(directory, node, _console()):
        follow = directory.command("stele status")
        launch.say(_console(), f"{node} runs, but is not ready yet: {one.unready}; {follow} tells")
        raise typer.Exit(1)
    launch.say(_console(), f"{node} was rebuilt and is ready")


@app.command()
def repair(
    nodes: Annotated[list[str] | None, typer.Argument(metavar="[NODE...]")] = None,
    var: VarOption = DEFAULT_ROOT,
    wait: Annotated[bool, typer.Option(help="Watch until all has been compared.")] = True,
) -> None:
    """Compare the copies of nodes (all, if none is named) with their peers' now, and level them."""
    directory = VarDirectory(var)
    chosen = launch.named(directory, nodes) if nodes else directory.settings().node
    if not repairs.repair(chosen, _console(), wait=wait):
        raise typer.Exit(1)


@app.command()
def trust(
    node: Annotated[str, typer.Argument(metavar="NODE", help="Such as a2.")],
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
    repairs.trust(chosen, _console())


@app.command("doctor")
def show_doctor(
    var: VarOption = DEFAULT_ROOT,
    output: Annotated[Output, typer.Option("-o", "--output")] = Output.TABLE,
) -> None:
    """Look for what is wrong, and say what to do. Exit code 0: nothing, 1: something is."""
    directory = VarDirectory(var)
    settings = directory.settings()
    edge = balancer.look(directory, settings)
    findings = doctor.diagnose(directory, settings, doctor.examine(directory, settings), edge)
    if output is Output.JSON:
        typer.echo(report.findings_json(findings))
    else:
        report.print_findings(findings, _console())
    if any(finding.severity is not Severity.NOTE for finding in findings):
        raise typer.Exit(1)


@config_app.command("check")
def check_config(file: Annotated[Path, typer.Argument(metavar="FILE")]) -> None:
    """Say whether a cluster file is sound."""
    settings = read_cluster_file(file)
    typer.echo(
        f"{file} is sound: {len(settings.node)} nodes, {settings.replication.copies} copies, "
        f"{settings.replication.partitions} partitions."
    )


@edge_app.command("config")
def print_edge_config(
    var: VarOption = DEFAULT_ROOT,
    balancer_: Annotated[Balancer, typer.Option("--for", help="Which program.")] = Balancer.ENVOY,
    file: Annotated[
        Path | None, typer.Option(help="A cluster file, in place of VAR's.", metavar="FILE")
    ] = None,
) -> None:
    """Print the configuration of a load balancer for this cluster."""
    settings = read_cluster_file(file) if file else VarDirectory(var).settings()
    if not settings.edge.port:
        raise LaunchError("edge.port = 0 in the cluster file: say where the edge is to listen.")
    if balancer_ is Balancer.ENVOY:
        typer.echo(json.dumps(envoy_configuration(settings), indent=2))
    else:
        typer.echo(haproxy_configuration(settings), nl=False)


def _start(var: VarDirectory, nodes: list[str]) -> None:
    late = launch.start(var, nodes, _console())
    for one in late:
        launch.say(_console(), f"{one.id} runs, but is not ready yet: {one.unready}")
    if late:
        raise typer.Exit(1)
    launch.say(_console(), f"{', '.join(nodes)} ready")


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else _WIDTH_WITHOUT_TERMINAL)


def main() -> None:
    """Entry point of ``stele`` and ``python -m cluster``."""
    try:
        app()
    except (TopologyError, VarError) as error:
        _fail(str(error), 2)
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
