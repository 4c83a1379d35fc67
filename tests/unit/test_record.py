"""A record is a join-semilattice: how often and in which order it is told changes nothing."""

from functools import reduce
from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvnode.record import NEVER_MS, Create, Record, Status, Tombstone, merge
from tests.support.records import creates, records, tombstones

CREATE = Create(b"content", 5, 9, b"c" * 32, b"f" * 16)
TOMBSTONE = Tombstone(5, 9)


@given(records, records, records)
def test_merge_is_a_join(a: Record, b: Record, c: Record) -> None:
    """Commutative, associative, idempotent: order and repetition of delivery cannot matter."""
    assert merge(a, b) == merge(b, a)
    assert merge(merge(a, b), c) == merge(a, merge(b, c))
    assert merge(a, a) == a


@given(st.lists(records, min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_replicas_that_saw_the_same_records_agree(seen: list[Record], rng: Random) -> None:
    """Any delivery order, with duplicates, ends in the same record."""
    redelivered = seen + rng.choices(seen, k=3)
    rng.shuffle(redelivered)
    assert reduce(merge, redelivered) == reduce(merge, seen)


@given(records, records)
def test_merge_returns_its_first_argument_itself_when_the_second_adds_nothing(
    a: Record, b: Record
) -> None:
    """A replica writes only what changed, and it sees that by identity."""
    joined = merge(a, b)
    assert (joined is a) == (joined == a)
    assert merge(joined, b) is joined


@given(records, records)
def test_merge_invents_nothing(a: Record, b: Record) -> None:
    """Each part of a join is a part of one side, whole: no mixture of two creates."""
    joined = merge(a, b)
    assert joined.create in (a.create, b.create)
    assert joined.tombstone in (a.tombstone, b.tombstone)
    assert (joined.create is None) == (a.create is None and b.create is None)
    assert (joined.tombstone is None) == (a.tombstone is None and b.tombstone is None)


@given(creates, creates)
def test_the_create_with_the_smaller_time_and_then_checksum_wins(a: Create, b: Create) -> None:
    """Rule 2, in its own words."""
    wins = merge(Record(a), Record(b)).create
    assert wins is not None
    assert (wins.created_at_ms, wins.checksum) == min(
        (a.created_at_ms, a.checksum), (b.created_at_ms, b.checksum)
    )


@given(tombstones, tombstones)
def test_the_tombstone_with_the_larger_delete_at_wins(a: Tombstone, b: Tombstone) -> None:
    """Rule 3: the row stays for as long as anybody was promised."""
    wins = merge(Record(tombstone=a), Record(tombstone=b)).tombstone
    assert wins is not None
    assert wins.delete_at_ms == max(a.delete_at_ms, b.delete_at_ms)


@pytest.mark.parametrize("field", Create.__struct_fields__)
def test_creates_that_differ_in_one_field_only_still_have_one_winner(field: str) -> None:
    """Rule 4: a field that takes no part in the order would leave replicas different for ever."""
    value = getattr(CREATE, field)
    other = msgspec.structs.replace(
        CREATE, **{field: value + 1 if isinstance(value, int) else b"z" * len(value)}
    )
    assert CREATE.order() < other.order()
    assert merge(Record(other), Record(CREATE)) == merge(Record(CREATE), Record(other))


@pytest.mark.parametrize("field", Tombstone.__struct_fields__)
def test_tombstones_that_differ_in_one_field_only_still_have_one_winner(field: str) -> None:
    """Rule 4, for the other part."""
    other = msgspec.structs.replace(TOMBSTONE, **{field: 10})
    one, two = Record(tombstone=TOMBSTONE), Record(tombstone=other)
    assert merge(one, two) == merge(two, one) == two


@given(records, records, st.integers(0, 4))
def test_nothing_brings_a_tombstoned_record_back(a: Record, b: Record, now_ms: int) -> None:
    """Deletion is final: whatever is joined to a tombstone, before or after it, is deleted."""
    if a.tombstone is not None:
        assert merge(a, b).status(now_ms) is Status.DELETED
        assert merge(b, a).status(now_ms) is Status.DELETED


@given(records, st.integers(0, 4), st.integers(0, 4))
def test_no_passing_of_time_brings_a_record_back(record: Record, t1_ms: int, t2_ms: int) -> None:
    """Expiry is one moment: gone once, gone for good."""
    earlier_ms, later_ms = sorted((t1_ms, t2_ms))
    if record.status(earlier_ms) is Status.DELETED:
        assert record.status(later_ms) is Status.DELETED


def test_a_document_is_gone_at_the_very_moment_it_expires() -> None:
    """One moment for all replicas: at ``expires_at_ms`` itself it is gone."""
    record = Record(msgspec.structs.replace(CREATE, expires_at_ms=1000))
    assert record.status(999) is Status.ACTIVE
    assert record.status(1000) is Status.DELETED


def test_a_document_without_an_expiry_stays_active() -> None:
    """Zero is "never", not the year 1970."""
    record = Record(msgspec.structs.replace(CREATE, expires_at_ms=NEVER_MS))
    assert record.status(1 << 62) is Status.ACTIVE


def test_a_tombstone_without_a_create_is_deleted() -> None:
    """It came first: its create is late, or lost."""
    assert Record(tombstone=TOMBSTONE).status(0) is Status.DELETED
