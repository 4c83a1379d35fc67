"""The bytes of a record: the same on disk, on the wire and in a hint.

Rules
-----
1. The encoding is canonical: equal records have equal bytes, so bytes can be compared.
2. The CRC covers the document's id too: bytes that a fault moved under another key don't decode.
3. The header holds everything but the content, and the content's SHA-256 is in it; two records
   with equal headers are equal. ``header_of`` is therefore an exact and short digest.

Layout (big-endian), documented with an example in kvnode/storage/FORMAT.md.
"""

import struct
from typing import Final

import crc32c

from kvnode.errors import CorruptRecord
from kvnode.record import (
    CHECKSUM_BYTES,
    CONTENT_BYTES_MAX,
    FINGERPRINT_BYTES,
    Create,
    Record,
    Tombstone,
)

VERSION: Final = 1
_HAS_CREATE: Final = 1
_HAS_TOMBSTONE: Final = 2

_CRC: Final = struct.Struct(">I")
#: crc, version, flags
_START: Final = struct.Struct(">IBB")
#: version, flags, created_at_ms, expires_at_ms, checksum, fingerprint, deleted_at_ms, delete_at_ms
_BODY: Final = struct.Struct(f">BBQQ{CHECKSUM_BYTES}s{FINGERPRINT_BYTES}sQQ")
HEADER_BYTES: Final = _CRC.size + _BODY.size
RECORD_BYTES_MAX: Final = HEADER_BYTES + CONTENT_BYTES_MAX
_NO_CREATE: Final = Create(b"", 0, 0, bytes(CHECKSUM_BYTES))
_NO_TOMBSTONE: Final = Tombstone(0, 0)

_crc32c = crc32c.crc32c


def encode(document_id: bytes, record: Record) -> bytes:
    """The canonical bytes of ``record`` under ``document_id``."""
    create = record.create or _NO_CREATE
    tombstone = record.tombstone or _NO_TOMBSTONE
    flags = (_HAS_CREATE if record.create is not None else 0) | (
        _HAS_TOMBSTONE if record.tombstone is not None else 0
    )
    body = (
        _BODY.pack(
            VERSION,
            flags,
            create.created_at_ms,
            create.expires_at_ms,
            create.checksum,
            create.fingerprint,
            tombstone.deleted_at_ms,
            tombstone.delete_at_ms,
        )
        + create.content
    )
    return _CRC.pack(_crc32c(body, _crc32c(document_id))) + body


def verify(document_id: bytes, encoded: bytes) -> None:
    """Check length, CRC, version and flags without building the record.

    Raises:
        CorruptRecord: the bytes are not a record of this document.
    """
    size = len(encoded)
    if not HEADER_BYTES <= size <= RECORD_BYTES_MAX:
        msg = f"record of {size} bytes, expected {HEADER_BYTES}..{RECORD_BYTES_MAX}"
        raise CorruptRecord(msg)
    crc, version, flags = _START.unpack_from(encoded)
    # A copy of the body costs a third of a view of it.
    found = _crc32c(encoded[_CRC.size :], _crc32c(document_id))
    if found != crc:
        msg = f"record's CRC is {crc:08x}, its bytes give {found:08x}"
        raise CorruptRecord(msg)
    if version != VERSION:
        msg = f"record has format version {version}, this build reads {VERSION}"
        raise CorruptRecord(msg)
    if not _HAS_CREATE <= flags <= _HAS_CREATE | _HAS_TOMBSTONE:
        msg = f"record has flags {flags:#x}: neither a create nor a tombstone"
        raise CorruptRecord(msg)


def decode(document_id: bytes, encoded: bytes) -> Record:
    """The record that ``encode`` made these bytes from.

    Raises:
        CorruptRecord: the bytes are not a record of this document.
    """
    verify(document_id, encoded)
    (
        _,
        flags,
        created_at_ms,
        expires_at_ms,
        checksum,
        fingerprint,
        deleted_at_ms,
        delete_at_ms,
    ) = _BODY.unpack_from(encoded, _CRC.size)
    if flags == _HAS_CREATE:
        content = encoded[HEADER_BYTES:]
        return Record(Create(content, created_at_ms, expires_at_ms, checksum, fingerprint))
    create = None
    if flags & _HAS_CREATE:
        content = encoded[HEADER_BYTES:]
        create = Create(content, created_at_ms, expires_at_ms, checksum, fingerprint)
    return Record(create, Tombstone(deleted_at_ms, delete_at_ms))


def header_of(encoded: bytes) -> bytes:
    """All but the content: equal headers mean equal records."""
    return encoded[:HEADER_BYTES]
