"""Leases: nothing is purged without a node while one of its leases runs."""

from math import inf

from hypothesis import given
from hypothesis import strategies as st

from kvnode.leases import LEASE_SHARE, lease_end_s

times = st.none() | st.floats(min_value=0.0, max_value=1000.0)


@given(heard_s=st.lists(times, max_size=8), kept_s=st.floats(min_value=1.0, max_value=100.0))
def test_while_a_lease_runs_no_majority_can_be_without_this_node(
    heard_s: list[float | None], kept_s: float
) -> None:
    """Whoever heard it within the time for which tombstones are kept does not purge without it."""
    end_s = lease_end_s(heard_s, LEASE_SHARE * kept_s)
    if end_s in (inf, -inf):
        return
    still_minding = [
        sent_s for sent_s in heard_s if sent_s is not None and end_s <= sent_s + kept_s
    ]
    without = len(heard_s) - len(still_minding)
    assert 2 * without <= len(heard_s) + 1


@given(heard_s=st.lists(times, max_size=8))
def test_a_lease_lasts_as_long_as_that_is_so(heard_s: list[float | None]) -> None:
    """It is no shorter than need be: one owner less that minds it, and there is a majority."""
    end_s = lease_end_s(heard_s, 10.0)
    if end_s in (inf, -inf):
        return
    later = [sent_s for sent_s in heard_s if sent_s is not None and sent_s + 10.0 > end_s]
    assert 2 * (len(heard_s) - len(later)) > len(heard_s) + 1 - 2


@given(owners=st.integers(min_value=1, max_value=8))
def test_without_any_answer_there_is_no_lease(owners: int) -> None:
    """Nobody has said whose disk this is."""
    assert lease_end_s([None] * owners, 10.0) == -inf


def test_an_owner_without_others_needs_nobody() -> None:
    """There is nobody to purge anything."""
    assert lease_end_s([], 10.0) == inf


@given(sent_s=st.floats(min_value=0.0, max_value=1000.0))
def test_of_two_owners_each_needs_the_others_word_once(sent_s: float) -> None:
    """Neither is a majority, so neither purges without the other."""
    assert lease_end_s([sent_s], 10.0) == inf
    assert lease_end_s([None], 10.0) == -inf
