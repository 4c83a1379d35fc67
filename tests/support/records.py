"""Hypothesis strategies for records: narrow ranges, for ties are where merges go wrong."""

from hypothesis import strategies as st

from cluster.ids import DOCUMENT_ID_BYTES
from kvnode.record import CHECKSUM_BYTES, FINGERPRINT_BYTES, Create, Record, Tombstone

U64_MAX = (1 << 64) - 1

document_ids = st.binary(min_size=DOCUMENT_ID_BYTES, max_size=DOCUMENT_ID_BYTES)

_few_ms = st.integers(0, 2)
creates = st.builds(
    Create,
    content=st.sampled_from([b"", b"x", b"y"]),
    created_at_ms=_few_ms,
    expires_at_ms=_few_ms,
    checksum=st.sampled_from([bytes(CHECKSUM_BYTES), b"\xff" * CHECKSUM_BYTES]),
    fingerprint=st.sampled_from([bytes(FINGERPRINT_BYTES), b"\xff" * FINGERPRINT_BYTES]),
)
tombstones = st.builds(Tombstone, deleted_at_ms=_few_ms, delete_at_ms=_few_ms)
records = (
    st.builds(Record, create=creates)
    | st.builds(Record, tombstone=tombstones)
    | st.builds(Record, create=creates, tombstone=tombstones)
)

_any_ms = st.integers(0, U64_MAX)
_any_creates = st.builds(
    Create,
    content=st.binary(max_size=64),
    created_at_ms=_any_ms,
    expires_at_ms=_any_ms,
    checksum=st.binary(min_size=CHECKSUM_BYTES, max_size=CHECKSUM_BYTES),
    fingerprint=st.binary(min_size=FINGERPRINT_BYTES, max_size=FINGERPRINT_BYTES),
)
_any_tombstones = st.builds(Tombstone, deleted_at_ms=_any_ms, delete_at_ms=_any_ms)
#: Over the whole range of every field.
any_records = (
    st.builds(Record, create=_any_creates)
    | st.builds(Record, tombstone=_any_tombstones)
    | st.builds(Record, create=_any_creates, tombstone=_any_tombstones)
)
