"""Measure throughput, latency and CPU per operation: ``python -m scripts.bench``, ``make bench``.

Exit codes: 0 measured, whether or not the targets are met; 1 not measured (something failed, or an
answer was not a success), or with --compare a row is worse than before; 2 bad arguments; 130
interrupted. Whatever the code, nothing that was started still runs.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer
from rich.console import Console

from cluster.interrupts import Interrupted
from cluster.launch import say
from scripts.bench import report, result, stage
from scripts.bench.cpu import ServerGone
from scripts.bench.drive import Generator, LoadError, installed_generator
from scripts.bench.measure import Plan, measure
from scripts.bench.regions import BACKLOG_PER_S
from scripts.bench.result import Result
from scripts.bench.rows import ROWS
from scripts.bulk import BulkError
from scripts.local_cluster import ClusterError

_DIRECTORY: Final = Path("bench")
_RESULT: Final = _DIRECTORY / "result.json"
#: A quick run's numbers must not take the place of real ones.
_QUICK_RESULT: Final = _DIRECTORY / "quick.json"
_QUICK_DOCUMENTS: Final = 2_000
#: The name of what is measured between regions.
REGIONS: Final = "regions"
#: Wide enough for the table where no terminal says how wide it is.
_WIDTH_WITHOUT_TERMINAL: Final = 120


def _write(measured: Result, json: Path, page: Path | None) -> None:
    json.parent.mkdir(parents=True, exist_ok=True)
    json.write_bytes(msgspec.json.format(msgspec.json.encode(measured), indent=2) + b"\n")
    if page:
        text = page.read_text(encoding="utf-8") if page.exists() else report.EMPTY_PAGE
        page.write_text(report.on_page(text, measured), encoding="utf-8")


def _check_page(page: Path | None) -> None:
    """Before minutes of measuring, not after them."""
    if page and page.exists():
        for marks in (report.TABLE, report.REGIONS):
            report.with_table(page.read_text(encoding="utf-8"), "", marks)


def _earlier(file: Path | None) -> Result | None:
    if file is None:
        return None
    try:
        return msgspec.json.decode(file.read_bytes(), type=Result)
    except (OSError, msgspec.MsgspecError) as error:
        raise typer.BadParameter(f"{file} is no earlier result: {error}") from error


def _chosen(names: Sequence[str]) -> list[str]:
    known = [*(row.name for row in ROWS if row.server == "cluster"), REGIONS]
    for name in names:
        if name not in known:
            raise typer.BadParameter(f"there is no row {name}; there are {', '.join(known)}.")
    return list(names) or known


def bench(
    seconds: Annotated[int, typer.Option(min=1, help="Of each row in each round.")] = 8,
    rounds: Annotated[int, typer.Option(min=1, help="The median of them counts.")] = 3,
    documents: Annotated[int, typer.Option(min=100, help="Loaded before reading.")] = 20_000,
    quick: Annotated[bool, typer.Option("--quick", help="A second a row: does it work?")] = False,
    only: Annotated[list[str] | None, typer.Option(metavar="ROW", help="Such as read-1.")] = None,
    generator: Annotated[
        Generator | None, typer.Option(help="What sends the load; wrk where it is installed.")
    ] = None,
    directory: Annotated[
        Path, typer.Option(metavar="DIR", help="Where the nodes write: on a disk.")
    ] = _DIRECTORY,
    json: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help=f"Default {_RESULT}, of a quick run {_QUICK_RESULT}."),
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A page to put the table into.")
    ] = None,
    compare: Annotated[
        Path | None, typer.Option(metavar="OLD.json", help="The result of an earlier run.")
    ] = None,
) -> None:
    """Measure a local cluster of its own against a bare HTTP handler."""
    console = Console(width=None if sys.stdout.isatty() else _WIDTH_WITHOUT_TERMINAL)
    chosen = _chosen(only or ())
    backlog = _QUICK_DOCUMENTS if quick else 3600 * BACKLOG_PER_S
    plan = Plan(
        seconds=1 if quick else seconds,
        rounds=1 if quick else rounds,
        documents=_QUICK_DOCUMENTS if quick else documents,
        generator=generator or installed_generator(),
        rows=[name for name in chosen if name != REGIONS],
        backlog=backlog if REGIONS in chosen else 0,
    )
    before = _earlier(compare)
    _check_page(markdown)
    measured = measure(plan, directory, console)
    report.print_result(measured, console)
    file = json or (_QUICK_RESULT if quick else _RESULT)
    _write(measured, file, markdown)
    say(console, f"written to {file}{f' and {markdown}' if markdown else ''}")
    if before:
        changes = result.compare(before.rows, measured.rows)
        report.print_changes(changes, console)
        if any(change.worse for change in changes):
            raise typer.Exit(1)


def main() -> None:
    """Entry point."""
    try:
        _app()
    except (
        BulkError,
        ClusterError,
        LoadError,
        ServerGone,
        report.PageError,
        stage.StageError,
    ) as error:
        _fail(str(error), 1)
    except Interrupted:
        _fail("interrupted; what was started has been stopped.", 130)


def _fail(sentence: str, code: int) -> None:
    typer.echo(f"bench: {sentence}", err=True)
    sys.exit(code)


_app: Final = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
)
_app.command()(bench)

if __name__ == "__main__":
    main()
