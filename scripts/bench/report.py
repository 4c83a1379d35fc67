"""The table: on a terminal, and as a page's Markdown."""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table

from cluster.launch import say
from scripts.bench.regions import RegionsResult
from scripts.bench.result import Change, Result, RowResult, Run
from scripts.bench.rows import BARE_GET, BARE_POST


class Marks(NamedTuple):
    """The page keeps what is around these, and what is between them is replaced."""

    begin: str
    end: str


TABLE: Final = Marks("<!-- begin of the measured table -->", "<!-- end of the measured table -->")
REGIONS: Final = Marks(
    "<!-- begin of the measured regions -->", "<!-- end of the measured regions -->"
)
EMPTY_PAGE: Final = "".join(f"{marks.begin}\n{marks.end}\n" for marks in (TABLE, REGIONS))
_COLUMNS: Final = (
    "",
    "per second",
    "p50 ms",
    "p99 ms",
    "p999 ms",
    "CPU us",
    "x bare GET",
    "x bare POST",
    "target",
    "",
)
_BARE: Final = {BARE_GET.name: "GET", BARE_POST.name: "POST"}
_CHANGE_COLUMNS: Final = ("now, in multiples of before", "per second", "CPU", "CPU / bare", "")


class PageError(Exception):
    """The page has no place for the table. The message is one whole sentence."""


def print_result(result: Result, console: Console) -> None:
    """The tables and what one must know to read them."""
    if result.rows:
        _print_table(_COLUMNS, [_cells(row) for row in result.rows], console)
        say(console, "")
        for line in (*_notes(result), *_machine(result)):
            say(console, line)
    if result.regions is not None:
        say(console, "")
        for line in regions_markdown(result, result.regions).splitlines():
            say(console, line)


def print_changes(changes: Sequence[Change], console: Console) -> None:
    """Against an earlier run."""
    cells = [
        [
            change.title,
            f"{change.operations_per_s:.2f}",
            f"{change.cpu_us:.2f}",
            "-" if change.ratio is None else f"{change.ratio:.2f}",
            "WORSE" if change.worse else "",
        ]
        for change in changes
    ]
    say(console, "")
    _print_table(_CHANGE_COLUMNS, cells, console)


def markdown(result: Result) -> str:
    """The same table as a block of Markdown."""
    lines = [_row(_COLUMNS), _row(["---", *["---:"] * (len(_COLUMNS) - 2), "---"])]
    lines += [_row(_cells(row)) for row in result.rows]
    lines += ["", *(f"- {line}" for line in (*_notes(result), *_machine(result)))]
    return "\n".join(lines) + "\n"


def on_page(page: str, result: Result) -> str:
    """``page`` with all that was measured in its places. Raises PageError without them."""
    if result.rows:
        page = with_table(page, markdown(result))
    if result.regions is not None:
        page = with_table(page, regions_markdown(result, result.regions), REGIONS)
    return page


def with_table(page: str, table: str, marks: Marks = TABLE) -> str:
    """``page`` with the table between two marks. Raises PageError without them."""
    before, begin, rest = page.partition(marks.begin)
    _, end, after = rest.partition(marks.end)
    if not (begin and end):
        raise PageError(
            f"the page lacks the lines {marks.begin} and {marks.end}, between which the table goes."
        )
    return f"{before}{marks.begin}\n{table}{marks.end}{after}"


def regions_markdown(result: Result, regions: RegionsResult) -> str:
    """What was measured between two regions."""
    rows, seconds = regions.backlog_rows, regions.caught_up_s
    sent = regions.sent_bytes / 2**20
    lines = [
        _row(["between two regions", "p50 ms", "p99 ms"]),
        _row(["---", "---:", "---:"]),
        _row(
            [
                "a create is read in the other region after",
                f"{regions.arrival_ms_p50:,.0f}",
                f"{regions.arrival_ms_p99:,.0f}",
            ]
        ),
        _row(
            [
                "what is known of the region there is old by",
                f"{regions.known_ms_p50:,.0f}",
                f"{regions.known_ms_p99:,.0f}",
            ]
        ),
        "",
        f"- {regions.nodes} nodes in each region, default settings. {regions.offered_per_s:,.0f} "
        f"creates per second in one region for {regions.seconds:.0f} s, half of the "
        f"{regions.most_per_s:,.0f} that it takes beside the other region and the generator; "
        f"{regions.probes:,} probes.",
        f"- Catching up with {rows:,} documents of 1 KB, as an hour leaves at {rows / 3600:.3g} "
        f"a second: {seconds:.1f} s, {rows / seconds:,.0f} documents and {sent / seconds:.1f} MiB "
        f"per second, {sent:,.0f} MiB in all.",
        *(f"- {line}" for line in _machine(result)),
    ]
    return "\n".join(lines) + "\n"


def summary(title: str, operations_per_s: float, cpu_us: float) -> str:
    """A line of progress."""
    return f"{title:<22}{operations_per_s:>10,.0f}/s {cpu_us:>8.1f} us CPU"


def _cells(row: RowResult) -> list[str]:
    target = "" if row.ratio_max is None else f"<= {row.ratio_max:g} x {_BARE[row.yardstick]}"
    return [
        row.title,
        f"{row.operations_per_s:,.0f}",
        *(f"{value_us / 1000:.2f}" for value_us in (row.p50_us, row.p99_us, row.p999_us)),
        f"{row.cpu_us:.1f}",
        *(f"{row.ratios[name]:.2f}" if name in row.ratios else "" for name in _BARE),
        target,
        {None: "", True: "met", False: "missed"}[row.met],
    ]


def _notes(result: Result) -> Iterator[str]:
    run, rows = result.run, result.rows
    yield (
        f"{run.nodes} nodes, {run.copies} copies, every write fsynced before it is acknowledged; "
        f"{run.documents:,} documents of 1 KB loaded, read in random order from all nodes."
    )
    yield (
        "CPU: microseconds per operation, summed over all server processes; an operation is one "
        "document, also in a bulk request. Quantiles are of requests."
    )
    yield (
        "Bare: one aiohttp + uvloop process that answers with the same bytes and does nothing else."
    )
    yield (
        f"{_rounds(run)}; medians, and ratios within a round. Load by {run.generator}, closed loop."
    )
    most = max(row.server_cores + row.generator_cores for row in rows)
    yield (
        f"Servers and load generators share {result.machine.cores} cores (up to {most:.1f} busy): "
        "throughput and quantiles are what is left after the generators, CPU per operation is what "
        "counts."
    )


def _machine(result: Result) -> Iterator[str]:
    machine = result.machine
    libraries = ", ".join(f"{name} {version}" for name, version in machine.libraries.items())
    yield (
        f"{machine.cpu}, {machine.cores} cores, {machine.memory_bytes / 2**30:.0f} GiB, "
        f"{machine.file_system}, {machine.kernel}; {machine.python}, {libraries}; "
        f"{result.run.measured_at}."
    )
    if machine.fsync_is_free:
        yield f"The nodes wrote to {machine.file_system}, where fsync costs nothing: use a disk."
    if machine.load_average > 0.25 * machine.cores:
        yield f"The machine was not idle before (load average {machine.load_average:.1f})."


def _rounds(run: Run) -> str:
    rounds = "one round" if run.rounds == 1 else f"{run.rounds} rounds"
    return f"{rounds} of {run.seconds} s a row"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], console: Console) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for number, heading in enumerate(columns):
        first_or_last = number in {0, len(columns) - 1}
        table.add_column(heading, no_wrap=True, justify="left" if first_or_last else "right")
    for cells in rows:
        table.add_row(*cells)
    console.print(table)
