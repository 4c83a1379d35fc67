"""Names of nodes and documents, and where a document's id places it.

Rules
-----
1. An id carries its place: its last 16 bits, read as a number, select the partition. No lookup.
2. Ids are made from arguments alone (time, random bytes, key), so the same inputs on any node
   in any region give the same id.
3. The text form is canonical lower-case UUID text, and only that: one document, one URL.

Source: RFC 9562 (UUIDv7 section 5.7, UUIDv8 section 5.8).
"""

import hashlib
from typing import Final, NewType

NodeId = NewType("NodeId", str)
#: 16 bytes.
DocumentId = NewType("DocumentId", bytes)
#: 0 .. partitions-1.
PartitionId = NewType("PartitionId", int)

DOCUMENT_ID_BYTES: Final = 16
#: Random bytes that ``uuid7`` consumes.
UUID7_RANDOM_BYTES: Final = 10
_TAIL_VALUES: Final = 1 << 16
_CANONICAL_LENGTH: Final = 36
_HEX: Final = frozenset("0123456789abcdef")


def partition_of(document_id: bytes, partitions: int) -> PartitionId:
    """The partition of an id: the top bits of its uniformly random 16-bit tail.

    ``partitions`` is a power of two in 1..65536.
    """
    return PartitionId((document_id[14] << 8 | document_id[15]) * partitions >> 16)


def uuid7(wall_ms: int, random: bytes) -> DocumentId:
    """A time-ordered id from a clock reading and 10 random bytes (74 of whose bits are used)."""
    return DocumentId(
        wall_ms.to_bytes(6, "big")
        + bytes((0x70 | random[0] & 0x0F, random[1], 0x80 | random[2] & 0x3F))
        + random[3:10]
    )


def uuid7_in_partition(
    wall_ms: int, random: bytes, partition: PartitionId, partitions: int
) -> DocumentId:
    """Like ``uuid7``, with the tail moved into ``partition``: its maker can be an owner.

    The bits of the tail below the partition's stay random.
    """
    width = _TAIL_VALUES // partitions
    tail = partition * width + (random[8] << 8 | random[9]) % width
    return DocumentId(uuid7(wall_ms, random)[:14] + tail.to_bytes(2, "big"))


def uuid8_of_key(cluster_id: bytes, tenant: str, idempotency_key: str) -> DocumentId:
    """The id of an idempotency key: retries meet the same record on any node, in any region.

    Args:
        cluster_id: 16 bytes; keys the hash, so ids of one cluster say nothing about another.
        tenant: Namespace of the key; the empty string while there is one tenant.
        idempotency_key: At most 255 printable ASCII characters.
    """
    digest = bytearray(
        hashlib.blake2b(
            len(tenant).to_bytes(2, "big") + tenant.encode() + idempotency_key.encode(),
            digest_size=DOCUMENT_ID_BYTES,
            key=cluster_id,
            person=b"stele-id",
        ).digest()
    )
    digest[6] = 0x80 | digest[6] & 0x0F
    digest[8] = 0x80 | digest[8] & 0x3F
    return DocumentId(bytes(digest))


def format_document_id(document_id: bytes) -> str:
    """Canonical text: 8-4-4-4-12 lower-case hexadecimal digits."""
    text = document_id.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def parse_document_id(text: str) -> DocumentId | None:
    """The id, or None when ``text`` is not a UUID in canonical lower case."""
    if (
        len(text) != _CANONICAL_LENGTH
        or text[8] != "-"
        or text[13] != "-"
        or text[18] != "-"
        or text[23] != "-"
    ):
        return None
    digits = text.replace("-", "")
    # bytes.fromhex also takes spaces and upper case, so every character is checked first.
    if len(digits) != 2 * DOCUMENT_ID_BYTES or not _HEX.issuperset(digits):
        return None
    return DocumentId(bytes.fromhex(digits))
