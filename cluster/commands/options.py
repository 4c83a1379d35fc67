"""What commands have in common: options, the console, and exit codes."""

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from cluster.topology import TopologyError
from cluster.vardir import DEFAULT_ROOT, VarDirectory, VarError

#: Wide enough for every table where no terminal says how wide it is.
_WIDTH_WITHOUT_TERMINAL: Final = 120

EXIT_DEGRADED: Final = 1
EXIT_USAGE: Final = 2
EXIT_UNREACHABLE: Final = 3


class Output(StrEnum):
    """How results are shown."""

    TABLE = "table"
    JSON = "json"


VarOption = Annotated[
    Path,
    typer.Option("--var", envvar="STELE_VAR", help="Directory of the cluster.", metavar="DIR"),
]
OutputOption = Annotated[Output, typer.Option("-o", "--output", help="For people or programs.")]


def complete_node(context: typer.Context, incomplete: str) -> list[str]:
    """For shells: the nodes of the cluster that is named so far, if there is one."""
    try:
        nodes = VarDirectory(context.params.get("var") or DEFAULT_ROOT).settings().node
    except (TopologyError, VarError):
        return []
    return [node.id for node in nodes if node.id.startswith(incomplete)]


NodesArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="NODE...",
        help="Such as a2; edge is the load balancer.",
        autocompletion=complete_node,
    ),
]
NodeArgument = Annotated[
    str, typer.Argument(metavar="NODE", help="Such as a2.", autocompletion=complete_node)
]
IdArgument = Annotated[str, typer.Argument(metavar="ID", help="A document's id.")]


def console() -> Console:
    """Standard output."""
    return Console(width=None if sys.stdout.isatty() else _WIDTH_WITHOUT_TERMINAL)


class UsageError(Exception):
    """What was typed is wrong. The message is one whole sentence."""


def print_json(value: object, *, one_line: bool = False) -> None:
    """To standard output, at once."""
    typer.echo(json.dumps(value, indent=None if one_line else 2))


def note(sentence: str) -> None:
    """To standard error: what a script that reads the result must not find in it."""
    typer.echo(sentence, err=True)
