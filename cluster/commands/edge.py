"""Commands about the edge: the load balancer before the nodes."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cluster.commands.options import VarOption
from cluster.envoy import envoy_configuration
from cluster.haproxy import haproxy_configuration
from cluster.startup import LaunchError
from cluster.topology import read_cluster_file
from cluster.vardir import DEFAULT_ROOT, VarDirectory


class Balancer(StrEnum):
    """Programs that can be the edge."""

    ENVOY = "envoy"
    HAPROXY = "haproxy"


app = typer.Typer(help="The load balancer.", no_args_is_help=True, rich_markup_mode=None)


@app.command("config")
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
