"""What is taken for a late copy of a purged document, and what never may be: a new one."""

from hypothesis import given
from hypothesis import strategies as st

from cluster.settings import LifecycleSettings
from kvnode.ending import Ending, Family
from kvnode.floors import Floor
from kvnode.lifecycle import Admission, Lifecycle
from tests.support.handcranked import HandCrankedLoop

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
