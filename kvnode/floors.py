"""How far each partition's deleted records have been purged: a promise, then a fact.

A tombstone may leave the disk only when every owner has it: a replica that has the document and not
the tombstone would bring the document back. Owners agree on that, a bucket of endings at a time
(``kvnode.ending``), by comparing what they hold; see ``kvnode.services.purge``.

Rules
-----
1. The floor is a bucket number: DELETED records in the buckets below it are gone, or on their way.
   It only grows, and so do the other two numbers.
2. An owner *promises* a floor when it holds exactly what the asking owner holds in the buckets
   below it. Once all have promised, the floor is a fact, and any owner may take it from another.
3. An owner that meets a floor which it never promised was not asked: its disk is old, or it was
   given up for too long an absence. What it has may be deleted already: it must be fenced.
4. A document that was created before the latest purged deletion may be the one that was deleted. A
   copy of it that comes from elsewhere and is unknown here is *late*, and not merged unasked.
"""

import struct
from typing import Final

import msgspec

_ROW: Final = struct.Struct(">QQQB")


class Floor(msgspec.Struct, frozen=True):
    """One partition's; zero where nothing was purged yet."""

    #: First bucket that is not purged.
    bucket: int = 0
    #: What this node has agreed to.
    promised: int = 0
    #: When the last purged deletion was made.
    newest_deleted_ms: int = 0
    #: What this node holds of the partition is not to be believed: see rule 3.
    fenced: bool = False

    def encode(self) -> bytes:
        """The value of its row."""
        return _ROW.pack(self.bucket, self.promised, self.newest_deleted_ms, self.fenced)

    def promise(self, bucket: int) -> "Floor":
        """Agree to a floor."""
        return msgspec.structs.replace(self, promised=max(self.promised, bucket))

    def advance(self, bucket: int, newest_deleted_ms: int) -> "Floor":
        """What all owners have promised has become a fact."""
        return Floor(
            max(self.bucket, bucket),
            max(self.promised, bucket),
            max(self.newest_deleted_ms, newest_deleted_ms),
            self.fenced,
        )

    def meet(self, bucket: int, newest_deleted_ms: int) -> "Floor":
        """Learn of a peer's floor: take it over, and be fenced if it was never promised here."""
        if bucket <= self.bucket:
            return self
        learned = self.advance(bucket, newest_deleted_ms)
        return msgspec.structs.replace(learned, fenced=self.fenced or bucket > self.promised)


def decode_floor(encoded: bytes) -> Floor:
    """The inverse of ``Floor.encode``."""
    bucket, promised, newest_deleted_ms, fenced = _ROW.unpack(encoded)
    return Floor(bucket, promised, newest_deleted_ms, bool(fenced))
