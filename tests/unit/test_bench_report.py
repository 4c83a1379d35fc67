"""The table on a page: it replaces the old one and touches nothing else."""

from io import StringIO

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from scripts.bench import report
from scripts.bench.machine import Machine
from scripts.bench.regions import RegionsResult
from scripts.bench.report import EMPTY_PAGE, REGIONS, TABLE, PageError
from scripts.bench.result import Change, Result, Run
from tests.unit.test_bench_result import row_result

MACHINE = Machine(
    cpu="A processor",
    cores=2,
    memory_bytes=2**34,
    kernel="Linux 6.1",
    file_system="ext4",
    python="CPython 3.11.7",
    libraries={"aiohttp": "3.14.5", "uvloop": "0.22.1"},
    load_average=0.0,
)
RESULT = Result(
    machine=MACHINE,
    run=Run(
        measured_at="2026-01-01T00:00:00Z",
        seconds=8,
        rounds=3,
        documents=20_000,
        nodes=3,
        copies=3,
        generator="wrk",
    ),
    rows=[row_result("bare-get", None), row_result("read-1", 1.5), row_result("read-2", 2.5)],
)

#: Whatever a person writes, except the marks themselves.
prose = st.text().filter(lambda text: not any(mark in text for mark in (*TABLE, *REGIONS)))
BEGIN, END = TABLE
BETWEEN = RegionsResult(
    nodes=3,
    most_per_s=2000.0,
    offered_per_s=1000.0,
    seconds=24.0,
    arrival_ms_p50=150.0,
    arrival_ms_p99=310.0,
    probes=600,
    known_ms_p50=200.0,
    known_ms_p99=400.0,
    backlog_rows=180_000,
    sent_bytes=150 * 2**20,
    caught_up_s=40.0,
)


def _printed(console_prints: Console) -> str:
    assert isinstance(console_prints.file, StringIO)
    return console_prints.file.getvalue()


@given(prose, prose, prose)
def test_a_new_table_takes_the_place_of_the_old_one(before: str, old: str, after: str) -> None:
    """And doing it again changes nothing more."""
    page = f"{before}{BEGIN}{old}{END}{after}"

    once = report.with_table(page, "the table\n")

    assert once == f"{before}{BEGIN}\nthe table\n{END}{after}"
    assert report.with_table(once, "the table\n") == once


@pytest.mark.parametrize("page", ["", "# Prose\n", BEGIN, END, f"{END}{BEGIN}"])
def test_a_page_without_a_place_for_the_table_is_refused(page: str) -> None:
    """Appending would leave an old table standing above the new one."""
    with pytest.raises(PageError, match=BEGIN):
        report.with_table(page, "the table\n")


def test_the_markdown_has_a_line_for_each_row_and_says_what_was_met() -> None:
    """The columns agree in number, or no viewer shows a table."""
    lines = report.markdown(RESULT).splitlines()

    table = [line for line in lines if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1
    assert [line.split("|")[1].strip() for line in table[2:]] == ["bare-get", "read-1", "read-2"]
    assert [line.split("|")[-2].strip() for line in table[2:]] == ["", "met", "missed"]
    assert "A processor, 2 cores" in "\n".join(lines)


def test_a_page_that_is_made_anew_can_take_the_next_table_too() -> None:
    """--markdown FILE, run twice."""
    measured = msgspec.structs.replace(RESULT, regions=BETWEEN)
    page = report.on_page(EMPTY_PAGE, measured)

    assert report.on_page(page, measured) == page


def test_what_was_not_measured_stays_on_the_page() -> None:
    """--only regions leaves the rows alone, and the other way round."""
    both = report.on_page(EMPTY_PAGE, msgspec.structs.replace(RESULT, regions=BETWEEN))

    assert "4,500 documents" in both
    assert report.on_page(both, RESULT) == both
    assert report.on_page(both, msgspec.structs.replace(RESULT, rows=[], regions=BETWEEN)) == both


def test_what_makes_numbers_doubtful_is_said() -> None:
    """Files in memory and a busy machine; of a sound machine neither is said."""
    doubtful = msgspec.structs.replace(MACHINE, file_system="tmpfs", load_average=1.5)

    assert "fsync costs nothing" not in report.markdown(RESULT)
    assert "not idle" not in report.markdown(RESULT)
    page = report.markdown(msgspec.structs.replace(RESULT, machine=doubtful))
    assert "fsync costs nothing" in page
    assert "not idle" in page


def test_the_terminal_shows_every_row_whole() -> None:
    """In the 120 columns that a pipe is given, no cell is cut."""
    console = Console(file=StringIO(), width=120)

    report.print_result(RESULT, console)

    shown = _printed(console)
    assert all(row.title in shown for row in RESULT.rows)
    assert "missed" in shown
    assert "…" not in shown


def test_a_row_that_got_worse_is_flagged() -> None:
    """Only that one."""
    console = Console(file=StringIO(), width=120)
    changes = [
        Change(title="bare GET", operations_per_s=0.5, cpu_us=2.0, ratio=None),
        Change(title="read, R=1", operations_per_s=1.0, cpu_us=1.0, ratio=1.05),
        Change(title="read, R=2", operations_per_s=0.9, cpu_us=1.2, ratio=1.2),
    ]

    report.print_changes(changes, console)

    flagged = [line for line in _printed(console).splitlines() if "WORSE" in line]
    assert len(flagged) == 1
    assert "read, R=2" in flagged[0]
