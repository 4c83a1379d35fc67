"""What a replica knows about one document, as a join-semilattice.

Rules
-----
1. ``merge`` is the only way in which a stored record changes. It is commutative, associative
   and idempotent, so messages may be late, lost, doubled and reordered.
2. The create with the smaller (created_at_ms, checksum) wins. Two different creates under one
   id exist only when one idempotency key met two bodies on two sides of a partition.
3. The tombstone with the larger delete_at_ms wins. Any tombstone hides any create.
4. Both orders are total (every field takes part after the ones named above), for a tie broken
   by arrival order would leave replicas different for ever.

Source: Shapiro et al., "Conflict-free Replicated Data Types", SSS 2011, section 2.2.
"""

import hashlib
from enum import Enum
from typing import ClassVar, Final

import msgspec

CONTENT_BYTES_MAX: Final = 2048
CHECKSUM_BYTES: Final = 32
FINGERPRINT_BYTES: Final = 16
REGION_TAG_BYTES: Final = 2
#: ``expires_at_ms`` of a document that never expires.
NEVER_MS: Final = 0


class Status(Enum):
    """Derived from a record and the time; never stored."""

    ACTIVE = "ACTIVE"
    DELETED = "DELETED"


class Create(msgspec.Struct, frozen=True, gc=False):
    """The document as it was created. ``content`` is UTF-8; ``checksum`` is its SHA-256."""

    content: bytes
    created_at_ms: int
    expires_at_ms: int
    checksum: bytes
    #: BLAKE2b of the body that an idempotency key came with, all zero without a key.
    fingerprint: bytes = bytes(FINGERPRINT_BYTES)

    def order(self) -> tuple[int, bytes, int, bytes, bytes]:
        """Smaller wins."""
        return (
            self.created_at_ms,
            self.checksum,
            self.expires_at_ms,
            self.fingerprint,
            self.content,
        )


class Tombstone(msgspec.Struct, frozen=True, gc=False):
    """A deletion. The row may leave the disk after ``delete_at_ms``."""

    deleted_at_ms: int
    delete_at_ms: int


class Record(msgspec.Struct, frozen=True, gc=False):
    """At least one of the two parts is present."""

    create: Create | None = None
    tombstone: Tombstone | None = None

    def status(self, now_ms: int) -> Status:
        """ACTIVE, or DELETED: by a tombstone, or because its time to live has passed."""
        if self.tombstone is not None or self.create is None:
            return Status.DELETED
        expires_at_ms = self.create.expires_at_ms
        if expires_at_ms != NEVER_MS and expires_at_ms <= now_ms:
            return Status.DELETED
        return Status.ACTIVE


class Sighting(msgspec.Struct, frozen=True, gc=False):
    """A create that somebody was shown: enough of it to tell what is older."""

    HEAD_BYTES: ClassVar[int] = 3

    created_at_ms: int
    #: The first bytes of its checksum: only bodies that one key got in one millisecond need them.
    checksum_head: bytes
    #: Where it was shown: ``region_tag``.
    region: bytes = b""

    @property
    def fields(self) -> list[int | bytes]:
        """As it travels."""
        return [self.created_at_ms, self.checksum_head, self.region]

    def is_in(self, record: Record | None) -> bool:
        """Whether a record is this one, or above it in the lattice."""
        if record is None:
            return False
        if record.tombstone is not None or record.create is None:
            return True
        create = record.create
        if create.created_at_ms != self.created_at_ms:
            return create.created_at_ms < self.created_at_ms
        return create.checksum[: self.HEAD_BYTES] <= self.checksum_head


def region_tag(region: str) -> bytes:
    """A region's name in two bytes."""
    return hashlib.blake2b(region.encode(), digest_size=REGION_TAG_BYTES).digest()


def merge(a: Record, b: Record) -> Record:
    """The join of two records; ``a`` itself when ``b`` adds nothing to it."""
    create = a.create
    if b.create is not None and (create is None or b.create.order() < create.order()):
        create = b.create
    tombstone = a.tombstone
    if b.tombstone is not None and (
        tombstone is None or _tombstone_order(b.tombstone) > _tombstone_order(tombstone)
    ):
        tombstone = b.tombstone
    if create is a.create and tombstone is a.tombstone:
        return a
    return Record(create, tombstone)


def _tombstone_order(tombstone: Tombstone) -> tuple[int, int]:
    return tombstone.delete_at_ms, tombstone.deleted_at_ms
