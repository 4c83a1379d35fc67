"""The key layout. DO NOT CHANGE: these bytes are on disk (FORMAT.md).

    r tail16 id[:14]                       -> record
    h len(target) target tail16 id[:14]    -> held_at_ms(8) record     a hint for `target`
    v tail16 id[:14]                       -> fingerprint(16)          a vote on a key's body
    i                                      -> identity
    n                                      -> count(8) newest_ms(8)    of the records

A record's key starts with the last 16 bits of its id, which select the partition: a partition,
whatever their number, is one range scan.
"""

from typing import Final

from cluster.ids import DocumentId, NodeId

RECORD_PREFIX: Final = b"r"
HINT_PREFIX: Final = b"h"
IDENTITY_KEY: Final = b"i"
RECORDS_KEY: Final = b"n"
_TAIL_VALUES: Final = 1 << 16


def record_key(document_id: bytes) -> bytes:
    """Where a document's record is."""
    return b"r" + document_id[14:] + document_id[:14]


def vote_key(document_id: bytes) -> bytes:
    """Where a replica's vote on the body of a key's document is."""
    return b"v" + document_id[14:] + document_id[:14]


def document_id_of(record_key: bytes) -> DocumentId:
    """The inverse of ``record_key``; also of the tail of a hint's key behind its prefix."""
    return DocumentId(record_key[-14:] + record_key[-16:-14])


def partition_range(partition: int, partitions: int) -> tuple[bytes, bytes]:
    """(start, stop) keys of a partition's records."""
    width = _TAIL_VALUES // partitions
    stop = (partition + 1) * width
    start_key = b"r" + (partition * width).to_bytes(2, "big")
    return start_key, b"r" + stop.to_bytes(2, "big") if stop < _TAIL_VALUES else b"s"


def hint_prefix(target: NodeId) -> bytes:
    """What all hints for one target start with; no target's prefix is a prefix of another's."""
    name = target.encode()
    return HINT_PREFIX + bytes((len(name),)) + name


def hint_key(target: NodeId, document_id: bytes) -> bytes:
    """Where the hint of one document for one target is."""
    return hint_prefix(target) + document_id[14:] + document_id[:14]


def hint_target_of(hint_key: bytes) -> NodeId:
    """The node that a hint is for."""
    return NodeId(hint_key[2 : 2 + hint_key[1]].decode())


def prefix_stop(prefix: bytes) -> bytes:
    """The first key behind all that start with ``prefix`` (whose last byte is not 0xff)."""
    return prefix[:-1] + bytes((prefix[-1] + 1,))
