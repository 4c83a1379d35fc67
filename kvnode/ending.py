"""When a record ends: what the lifecycle needs to know of it, read from its bytes.

Rules
-----
1. A record is of one family at a time: LASTING until it is deleted; EXPIRING, it has a time to
   live; DELETED, it has a tombstone, whatever else it has.
2. EXPIRING and DELETED records end at a time. Times are counted in buckets, and whole buckets are
   removed from disk and left out of comparisons, so that replicas which remove the same records at
   different moments don't repair one another.
3. An EXPIRING bucket is over when its end has passed, a clock's error included: each stale copy
   expires by itself, so nobody has to be asked.
4. A DELETED bucket is over only when the partition's purge floor says so (``kvnode.floors``).
"""

import struct
from enum import IntEnum
from typing import Final

import msgspec

from kvnode.codec import HEADER_BYTES

#: flags, created_at_ms, expires_at_ms, (checksum, fingerprint), deleted_at_ms, delete_at_ms
_TIMES: Final = struct.Struct(">BQQ48xQQ")
_TIMES_AT: Final = 5
_HAS_TOMBSTONE: Final = 2
assert _TIMES_AT + _TIMES.size == HEADER_BYTES


class Family(IntEnum):
    """How a record ends. The numbers are on disk."""

    LASTING = 0
    EXPIRING = 1
    DELETED = 2


class Ending(msgspec.Struct, frozen=True, gc=False):
    """What a record's header says about its end."""

    family: Family
    #: When it ends; 0 for LASTING.
    ends_at_ms: int
    #: Of the create; 0 for a lone tombstone.
    created_at_ms: int
    #: Of the tombstone; 0 without one.
    deleted_at_ms: int


def ending_of(encoded: bytes) -> Ending:
    """The ending of an encoded record that was verified."""
    flags, created_at_ms, expires_at_ms, deleted_at_ms, delete_at_ms = _TIMES.unpack_from(
        encoded, _TIMES_AT
    )
    if flags & _HAS_TOMBSTONE:
        return Ending(Family.DELETED, delete_at_ms, created_at_ms, deleted_at_ms)
    family = Family.EXPIRING if expires_at_ms else Family.LASTING
    return Ending(family, expires_at_ms, created_at_ms, 0)


def first_open(now_ms: int, bucket_ms: int) -> int:
    """The number of the first bucket that is not over at a time: the one that contains it."""
    return now_ms // bucket_ms
