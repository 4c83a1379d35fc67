"""Load generators' reports: counted once, weighted right, and never made up."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from scripts.bench.sample import NoSample, Sample, combine, format_report, parse_report, quantile

counts = st.integers(0, 10**9)
values = st.integers(0, 10**7).map(float)
latencies = st.lists(st.tuples(values, st.integers(1, 50).map(float)))
samples = st.builds(Sample, counts, st.floats(0, 1e6), counts, counts, latencies)


@given(counts, st.integers(1, 10**9), counts, counts, latencies, st.text())
@example(5, 7, 0, 0, [(3.0, 1.0)], "sample\n1\t1\t0\t0")
def test_a_report_is_parsed_to_what_was_counted(
    requests: int,
    elapsed_us: int,
    refused: int,
    broken: int,
    shares: list[tuple[float, float]],
    before: str,
) -> None:
    """Before it, wrk prints a summary of its own, which must not be taken for the report."""
    report = format_report(requests, elapsed_us, refused, broken, shares)

    sample = parse_report(f"{before}\n{report}")

    assert (sample.requests, sample.refused, sample.broken) == (requests, refused, broken)
    assert sample.rate_per_s == pytest.approx(requests * 1e6 / elapsed_us)
    assert sample.latencies == [(value, share * requests) for value, share in shares]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "unable to connect to 127.0.0.1:9 Connection refused\n",
        "1\t1\t0\t0\n",
        "sample\n",
        "sample\n1\t1\t0\n",
        "sample\n1\t0\t0\t0\n",
        "sample\n1\t1\t0\t0\n12\n",
        "sample\n1\t1\t0\t0\nnothing\t1\n",
    ],
)
def test_what_is_no_report_is_refused(text: str) -> None:
    """A generator that died must fail the run, not count as one that sent nothing."""
    with pytest.raises(NoSample):
        parse_report(text)


@given(st.lists(samples, max_size=4))
def test_generators_side_by_side_add_up(several: list[Sample]) -> None:
    """Counts and rates are sums, and a latency seen by any of them was seen."""
    together = combine(several)

    assert together.requests == sum(one.requests for one in several)
    assert together.rate_per_s == pytest.approx(sum(one.rate_per_s for one in several))
    assert together.refused == sum(one.refused for one in several)
    assert together.broken == sum(one.broken for one in several)
    assert sorted(together.latencies) == sorted(pair for one in several for pair in one.latencies)


@given(latencies.filter(bool), st.integers(1, 1000))
def test_a_quantile_is_that_of_the_values_written_out(
    pairs: list[tuple[float, float]], permille: int
) -> None:
    """Against the definition: sort every single value, and take the one at the rank."""
    written_out = sorted(value for value, weight in pairs for _ in range(int(weight)))
    rank = -(-permille * len(written_out) // 1000)

    assert quantile(pairs, permille / 1000) == written_out[rank - 1]


def test_the_quantile_of_nothing_is_zero() -> None:
    """A run in which no request was answered fails elsewhere, in words."""
    assert quantile([], 0.99) == 0
