"""Commands about cluster files."""

from pathlib import Path
from typing import Annotated, Final

import typer

from cluster.commands.options import EXIT_USAGE, Output, OutputOption, print_json
from cluster.topology import (
    TopologyError,
    has_settings_only,
    plan_cluster,
    read_cluster_file,
)

_ANY_CLUSTER_ID: Final = "0" * 32
#: For as many copies as there can be.
_ENOUGH_NODES: Final = 9

app = typer.Typer(help="Cluster files.", no_args_is_help=True, rich_markup_mode=None)


@app.command("check")
def check_config(
    file: Annotated[Path, typer.Argument(metavar="FILE")], output: OutputOption = Output.TABLE
) -> None:
    """Say whether a cluster file, or a CONFIG of settings alone, is sound. Exit code 2: it is not.

    What is wrong is one sentence: the key, what is allowed there, and what was found.
    """
    try:
        sentence = _check(file)
    except TopologyError as error:
        if output is Output.TABLE:
            raise
        print_json({"file": str(file), "sound": False, "reason": str(error)})
        raise typer.Exit(EXIT_USAGE) from error
    if output is Output.JSON:
        print_json({"file": str(file), "sound": True})
    else:
        typer.echo(f"{file} is sound: {sentence}.")


def _check(file: Path) -> str:
    """What it is. Raises TopologyError."""
    if has_settings_only(file):
        plan_cluster(
            cluster_id=_ANY_CLUSTER_ID, nodes=_ENOUGH_NODES, regions=1, port_base=1, config=file
        )
        return "settings for a new cluster, to be used as CONFIG"
    settings = read_cluster_file(file)
    regions = len(settings.region_names)
    return (
        f"{len(settings.node)} nodes in {regions} region{'s' if regions > 1 else ''}, "
        f"{settings.replication.copies} copies in each, "
        f"{settings.replication.partitions} partitions"
    )
