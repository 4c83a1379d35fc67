"""What is taken for a late copy of a purged document, and what never may be: a new one."""

from hypothesis import given
from hypothesis import strategies as st

from cluster.settings import LifecycleSettings
from kvnode.codec import encode
from kvnode.ending import Ending, Family
from kvnode.floors import Floor
from kvnode.lifecycle import Admission, Lifecycle
from kvnode.record import Create, Record, Tombstone
from kvnode.storage.memory import MemoryDisk, MemoryEngine
from tests.support.handcranked import HandCrankedLoop
from tests.support.replicas import new_replica

_ID = bytes(16)
_DELETED_MS = 1_000_000
_BUCKET_MS = 1000


@given(
    skew_ms=st.integers(0, 60_000),
    longer_ms=st.integers(0, 60_000),
    behind=st.floats(0, 1),
    later_ms=st.integers(0, 10_000),
)
def test_what_is_created_after_a_purge_is_no_late_copy_however_wrong_a_clock_is(
    skew_ms: int, longer_ms: int, behind: float, later_ms: int
) -> None:
    """Deletions are remembered for at least as long as clocks differ: so the cluster file demands.

    Else an acknowledged create, of a node whose clock is behind, would be set aside as a late copy
    of something that its owners have purged; and be dropped, for none of them knows it.
    """
    retention_ms = skew_ms + longer_ms
    settings = LifecycleSettings(
        tombstone_retention_s=max(retention_ms, 1) / 1000,
        purge_bucket_s=_BUCKET_MS / 1000,
        clock_skew_max_s=skew_ms / 1000,
    )
    lifecycle = Lifecycle(HandCrankedLoop(), settings, 1)
    delete_at_ms = _DELETED_MS + max(retention_ms, 1)
    bucket = delete_at_ms // _BUCKET_MS + 1
    lifecycle.set_floor(0, Floor(bucket=bucket, newest_deleted_ms=_DELETED_MS))
    # The earliest time at which a clock says that the bucket is over, and what another one says.
    purged_ms = bucket * _BUCKET_MS + skew_ms
    created_ms = purged_ms + later_ms - int(behind * skew_ms)
    new = Ending(Family.LASTING, 0, created_ms, 0)
    assert lifecycle.admit(0, new, vouched=False) is Admission.STORE
    old = Ending(Family.LASTING, 0, _DELETED_MS, 0)
    assert lifecycle.admit(0, old, vouched=False) is Admission.LATE


@given(told_first=st.booleans())
def test_what_is_put_aside_is_judged_as_it_is_by_then(told_first: bool) -> None:
    """A co-owner may have told its end since it was listed: that is no late copy, and must stay."""
    clock = HandCrankedLoop()
    replica = new_replica(
        MemoryEngine(MemoryDisk(), clock.as_loop, failed=_raise), clock, partitions=1
    )
    live = encode(_ID, Record(Create(b"x", 1, 0, b"c" * 32, b"f" * 16)))
    replica.join(_ID, live, vouched=True)
    bucket = 1 + _DELETED_MS // replica.lifecycle.bucket_ms
    replica.set_floor(0, Floor(bucket=bucket, newest_deleted_ms=_DELETED_MS, fenced=True))
    if told_first:
        delete_at_ms = (bucket + 1) * replica.lifecycle.bucket_ms
        end = encode(_ID, Record(tombstone=Tombstone(_DELETED_MS, delete_at_ms)))
        replica.join(_ID, end, vouched=True)
    assert replica.set_aside_late(_ID) is not told_first
    assert (replica.records.latest(_ID) is not None) is told_first


def _raise(error: BaseException) -> None:
    raise error
