"""Records in a message: their ids and bytes in turn. Between regions packed, and compressed.

    batch := msgpack [id, record, id, record, ...]    codec 0: as it is, 1: compressed by zlib

Compressing costs the sender's event loop; it pays where texts are alike, and not where they are
noise. So when a batch does not shrink, the next ones are not tried.
"""

import zlib
from collections.abc import Iterable, Sequence
from typing import Final

import msgpack

from cluster.ids import DOCUMENT_ID_BYTES

PLAIN: Final = 0
ZLIB: Final = 1
#: Records of one batch; those of one read of the outbox.
RECORDS_MAX: Final = 1024
#: Of a batch once it is unpacked.
UNPACKED_BYTES_MAX: Final = 1024 * 1024
#: A batch that shrinks to more than this part of its size was not worth it.
_WORTH: Final = 0.8
#: Batches that are then not tried.
_PASSED_OVER: Final = 64
#: The fastest: the others cost more than the bytes that they save.
_LEVEL: Final = 1


class Packer:
    """Packs the batches to one region."""

    def __init__(self) -> None:
        self._passed_over = 0

    def pack(self, pairs: Iterable[tuple[bytes, bytes]]) -> tuple[int, bytes]:
        """(codec, batch) of (id, record) pairs."""
        plain: bytes = msgpack.packb([part for pair in pairs for part in pair])
        if self._passed_over:
            self._passed_over -= 1
            return PLAIN, plain
        packed = zlib.compress(plain, _LEVEL)
        if len(packed) > _WORTH * len(plain):
            self._passed_over = _PASSED_OVER
            return PLAIN, plain
        return ZLIB, packed


def unpack(codec: object, batch: object) -> list[object]:
    """The flat list of a batch; its elements are yet to be checked. Raises ValueError."""
    if not isinstance(batch, bytes) or codec not in (PLAIN, ZLIB):
        raise ValueError("not a batch")
    if codec == ZLIB:
        unpacking = zlib.decompressobj()
        try:
            batch = unpacking.decompress(batch, UNPACKED_BYTES_MAX)
        except zlib.error as error:
            raise ValueError(f"not a batch: {error}") from error
        if not unpacking.eof:
            raise ValueError("a batch that is cut short, or too large")
    try:
        flat = msgpack.unpackb(batch, max_map_len=0, max_ext_len=0)
    except (ValueError, msgpack.UnpackException) as error:
        raise ValueError(f"not a batch: {error}") from error
    if not isinstance(flat, list):
        raise ValueError("a batch is a list")  # noqa: TRY004 (of a peer's bytes, not of a caller's)
    return flat


def pairs_of(flat: Sequence[object], records_max: int) -> list[tuple[bytes, bytes]]:
    """(document id, encoded record) of a flat list, all checked before the first is used.

    Raises:
        TypeError: it is none.
    """
    if len(flat) > 2 * records_max:
        raise TypeError("too many records")
    ids, records = flat[::2], flat[1::2]
    if len(ids) != len(records):
        raise TypeError("an id without a record")
    pairs = []
    for document_id, encoded in zip(ids, records, strict=True):
        if not isinstance(encoded, bytes):
            raise TypeError("record is not bytes")
        pairs.append((check_id(document_id), encoded))
    return pairs


def check_id(document_id: object) -> bytes:
    """What came from the wire as an id. Raises TypeError."""
    if not (isinstance(document_id, bytes) and len(document_id) == DOCUMENT_ID_BYTES):
        raise TypeError("document id is not 16 bytes")
    return document_id
