"""A deletion that comes when all owners have agreed that there is nothing left to come."""

from hypothesis import given
from hypothesis import strategies as st

from cluster.settings import LifecycleSettings
from kvnode.codec import encode
from kvnode.ending import Family, ending_of
from kvnode.floors import Floor
from kvnode.lifecycle import Lifecycle
from kvnode.record import Create, Record, Tombstone, merge

PROMISED = 10
BUCKET_MS, SKEW_MS, RETENTION_MS = 1_000, 2_000, 50_000
NOW_S = 100.0
SETTINGS = LifecycleSettings(
    tombstone_retention_s=RETENTION_MS / 1000,
    purge_bucket_s=BUCKET_MS / 1000,
    clock_skew_max_s=SKEW_MS / 1000,
)


class _Clock:
    def wall_ms(self) -> int:
        return int(NOW_S * 1000)

    def monotonic_s(self) -> float:
        return NOW_S


def _lifecycle() -> Lifecycle:
    lifecycle = Lifecycle(_Clock(), SETTINGS, partitions=1)
    lifecycle.set_floor(0, Floor(promised=PROMISED))
    return lifecycle


def _met(created_ms: int, tombstone: Tombstone) -> tuple[Record, Record, Record]:
    """What is held, what it comes to when joined, and what is made of it."""
    held = Record(Create(b"x", created_ms, 0, b"c" * 32, b"f" * 16))
    joined = merge(held, Record(tombstone=tombstone))
    return held, joined, _lifecycle().met_alive(0, held, joined)


@given(st.integers(0, 200_000), st.integers(0, 100_000), st.integers(0, 20_000))
def test_a_deletion_is_never_stored_below_what_was_agreed(
    created_ms: int, deleted_ms: int, delete_at_ms: int
) -> None:
    """It would leave this disk at once, while the document lives on with the other owners."""
    held, joined, made = _met(created_ms, Tombstone(deleted_ms, delete_at_ms))
    if delete_at_ms // BUCKET_MS >= PROMISED:
        assert made is joined
    elif deleted_ms + SKEW_MS < created_ms:
        assert made is held, "another life of its key is deleted by what ended the one before"
    else:
        ending = ending_of(encode(bytes(16), made))
        assert ending.family is Family.DELETED
        assert ending.ends_at_ms // BUCKET_MS >= PROMISED
        assert merge(joined, made) == merge(made, joined) == made, "the old date comes back"


def test_a_deletion_that_comes_late_is_kept_for_as_long_as_a_new_one() -> None:
    """So that all owners have heard of it before it is purged."""
    _, _, made = _met(5_000, Tombstone(6_000, 7_000))
    assert made.tombstone == Tombstone(6_000, int(NOW_S * 1000) + RETENTION_MS)
