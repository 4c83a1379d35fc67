"""Commands about Prometheus."""

import json
from pathlib import Path
from typing import Annotated

import typer

from cluster.commands.options import VarOption
from cluster.prometheus import prometheus_targets
from cluster.topology import read_cluster_file
from cluster.vardir import DEFAULT_ROOT, VarDirectory

app = typer.Typer(help="Metrics.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def prometheus() -> None:
    """Metrics, and who reads them."""


@app.command("targets")
def print_targets(
    var: VarOption = DEFAULT_ROOT,
    file: Annotated[
        Path | None, typer.Option(help="A cluster file, in place of VAR's.", metavar="FILE")
    ] = None,
) -> None:
    """Print this cluster's nodes for Prometheus (file_sd_configs)."""
    settings = read_cluster_file(file) if file else VarDirectory(var).settings()
    typer.echo(json.dumps(prometheus_targets(settings), indent=2))
