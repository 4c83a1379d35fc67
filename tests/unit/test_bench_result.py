"""From measurements to numbers: medians, ratios within a round, and what counts as worse."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.bench.machine import Machine
from scripts.bench.result import Measurement, Result, RowResult, Run, compare, summarise
from scripts.bench.rows import BARE_GET, BARE_POST, BULKS, CREATES, READS, ROWS, Row
from scripts.bench.sample import Sample

READ_ONE = READS[1]
CREATE_ONE = CREATES[2]
BULK_CREATE = BULKS[2]

cpu_seconds = st.floats(0.01, 100)


def measured(row: Row, turn: tuple[int, int], cpu_s: float, requests: int = 1000) -> Measurement:
    """One row in one round, with as much of the rest as is needed."""
    return Measurement(
        row=row,
        turn=turn,
        sample=Sample(requests, requests / 8, 0, 0, [(500.0, requests)]),
        server_cpu_s=cpu_s,
        generator_cpu_s=1.0,
        seconds=8.0,
    )


def row_result(name: str, ratio: float | None, cpu_us: float = 50.0) -> RowResult:
    """A line of an earlier or later table."""
    return RowResult(
        name=name,
        title=name,
        operations=1000,
        operations_per_s=125.0,
        p50_us=1.0,
        p99_us=2.0,
        p999_us=3.0,
        cpu_us=cpu_us,
        cpu_us_by_round=[cpu_us],
        server_cores=1.0,
        generator_cores=1.0,
        ratios={} if ratio is None else {"bare-get": ratio},
        yardstick="bare-get",
        ratio_max=2.0,
    )


@given(st.lists(cpu_seconds, min_size=3, max_size=3), cpu_seconds, st.floats(1.0, 10))
def test_a_machine_that_slows_down_does_not_change_a_ratio(
    speeds: list[float], bare_s: float, true_ratio: float
) -> None:
    """Each round at its own speed: only measurements of one round may be divided."""
    measurements = []
    for number, speed in enumerate(speeds):
        measurements.append(measured(BARE_GET, (0, number), bare_s * speed))
        measurements.append(measured(READ_ONE, (0, number), bare_s * speed * true_ratio))

    (_, read) = summarise(ROWS, measurements)

    assert read.ratio == pytest.approx(true_ratio)


def test_one_bad_round_of_three_does_not_decide() -> None:
    """Of 2, 2 and 9 times the yardstick, 2 is what it costs."""
    measurements = [
        measured(row, (0, number), cpu_s)
        for number, worst in enumerate((2.0, 9.0, 2.0))
        for row, cpu_s in ((BARE_GET, 1.0), (READ_ONE, worst))
    ]

    (_, read) = summarise(ROWS, measurements)

    assert read.ratio == 2.0
    assert read.cpu_us == 2000.0
    assert read.cpu_us_by_round == [2000.0, 9000.0, 2000.0]
    assert read.met


def test_a_target_is_met_up_to_its_bound_and_missed_beyond() -> None:
    """`At most twice` includes twice."""
    for cpu_s, met in ((2.0, True), (2.001, False)):
        measurements = [measured(BARE_GET, (0, 0), 1.0), measured(READ_ONE, (0, 0), cpu_s)]
        bare, read = summarise(ROWS, measurements)
        assert (bare.met, read.met) == (None, met)


def test_creates_are_judged_by_the_bare_create_and_shown_beside_the_bare_read_too() -> None:
    """The yardstick is the handler that returns the same bytes."""
    measurements = [
        measured(BARE_GET, (1, 0), 1.0),
        measured(BARE_POST, (1, 0), 2.0),
        measured(CREATE_ONE, (1, 0), 6.0),
    ]

    *_, create = summarise(ROWS, measurements)

    assert create.ratios == {"bare-get": 6.0, "bare-post": 3.0}
    assert create.ratio == 3.0


def test_bulk_costs_count_per_document_and_latencies_per_request() -> None:
    """A hundred documents in a request: a hundredth of its CPU time each."""
    measurements = [
        measured(BARE_POST, (1, 0), 1.0),
        measured(BULK_CREATE, (1, 0), 50.0),
    ]

    _, bulk = summarise(ROWS, measurements)

    assert bulk.operations == 100_000
    assert bulk.operations_per_s == 12_500
    assert bulk.cpu_us == 500.0
    assert bulk.ratio == 0.5
    assert bulk.p50_us == 500.0


def test_rows_that_were_not_measured_are_left_out() -> None:
    """With --only, the table has what was asked for."""
    results = summarise(ROWS, [measured(BARE_GET, (0, 0), 1.0)])

    assert [row.name for row in results] == ["bare-get"]


@given(st.floats(0.1, 10), st.floats(0.1, 10), st.floats(0.1, 10))
def test_worse_is_more_cpu_relative_to_the_yardstick_by_over_a_tenth(
    before: float, after: float, slower_machine: float
) -> None:
    """A machine that is slower today makes no row worse."""
    (change,) = compare(
        [row_result("read-1", before)], [row_result("read-1", after, 50.0 * slower_machine)]
    )

    assert change.ratio is not None
    assert change.cpu_us == pytest.approx(slower_machine)
    assert change.worse == (after / before > 1.1)


def test_a_bare_row_and_a_row_without_past_are_never_worse() -> None:
    """There is nothing that they could be compared with."""
    old = [row_result("bare-get", None, 10.0)]
    new = [row_result("bare-get", None, 90.0), row_result("read-1", 9.0)]

    (change,) = compare(old, new)

    assert (change.title, change.ratio, change.worse) == ("bare-get", None, False)


def test_a_result_is_read_back_from_its_json() -> None:
    """--compare reads what an earlier run wrote."""
    result = Result(
        machine=Machine(
            cpu="A processor",
            cores=2,
            memory_bytes=2**34,
            kernel="Linux 6.1",
            file_system="ext4",
            python="CPython 3.11.7",
            libraries={"aiohttp": "3.14.5"},
            load_average=0.1,
        ),
        run=Run(
            measured_at="2026-01-01T00:00:00Z",
            seconds=8,
            rounds=3,
            documents=20_000,
            nodes=3,
            copies=3,
            generator="wrk",
        ),
        rows=[row_result("bare-get", None), row_result("read-1", 1.5)],
    )

    assert msgspec.json.decode(msgspec.json.encode(result), type=Result) == result
