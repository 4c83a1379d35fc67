"""The key layout. DO NOT CHANGE: these bytes are on disk (FORMAT.md).

    r tail16 id[:14]                       -> record
    h len(target) target tail16 id[:14]    -> held_at_ms(8) record     a hint for `target`
    v tail16 id[:14]                       -> fingerprint(16)          a vote on a key's body
    x len(target) target partition(2)      -> lost_at_ms(8)            hints for `target` were lost
    q tail16 id[:14]                       -> held_at_ms(8) state(1) record   a copy in quarantine
    e bucket tail16 id[:14]                -> deleted_at_ms(8)         the record ends in `bucket`
    l chunk(1)                             -> see ``kvnode.leaflog``   leaves of the hash trees
    m slot(2)                              -> see ``kvnode.leaflog``   leaves that changed since
    t bucket                               -> digest(8)                a bucket of the hash trees
    f partition(2)                         -> a partition's purge floor (``kvnode.floors``)
    b node                                 -> see ``kvnode.boots``     boots of a peer
    o number(8) boot_id(8)                 -> nothing                  a boot of this node
    w sequence(8)                          -> see ``kvnode.outbox``    a write for other regions
    a region                               -> see ``kvnode.outbox``    how far a region has come
    y len(region) region partition(2)      -> since_ms(8)              compare with a region
    g region                               -> word(8)                  see ``kvnode.standing``
    c number(8)                            -> see ``kvnode.conflicts`` a key had two bodies
    k region                               -> see ``kvnode.services.layouts``   who owns what there
    i                                      -> identity
    d                                      -> replaced: this database is in a damaged one's place
    n                                      -> see ``kvnode.records``   sums of the records

bucket := family(1) partition(2) number(6); see ``kvnode.ending`` and ``kvnode.hashtree``.


A record's key starts with the last 16 bits of its id, which select the partition: a partition,
whatever their number, is one range scan.
"""

from typing import Final

from cluster.ids import DocumentId, NodeId
from kvnode.ending import Family
from kvnode.hashtree import LEAVES, Bucket

RECORD_PREFIX: Final = b"r"
HINT_PREFIX: Final = b"h"
DEBT_PREFIX: Final = b"x"
IDENTITY_KEY: Final = b"i"
REPLACED_KEY: Final = b"d"
RECORDS_KEY: Final = b"n"
TREE_PREFIX: Final = b"t"
LEAVES_PREFIX: Final = b"l"
CHANGES_PREFIX: Final = b"m"
ENDING_PREFIX: Final = b"e"
FLOOR_PREFIX: Final = b"f"
QUARANTINE_PREFIX: Final = b"q"
BOOT_PREFIX: Final = b"b"
OWN_BOOT_PREFIX: Final = b"o"
OUTBOX_PREFIX: Final = b"w"
CURSOR_PREFIX: Final = b"a"
REGION_DEBT_PREFIX: Final = b"y"
STANDING_PREFIX: Final = b"g"
CONFLICT_PREFIX: Final = b"c"
LAYOUT_PREFIX: Final = b"k"
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


def ending_range(family: Family, partition: int) -> tuple[bytes, bytes]:
    """(start, stop) keys of the index entries of all of a partition's records of a family."""
    prefix = ENDING_PREFIX + bytes((family,)) + partition.to_bytes(2, "big")
    return prefix, prefix_stop(prefix)


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


def hint_tails(target: NodeId, start: bytes, stop: bytes) -> range:
    """The tails of the ids of all hints for a target that may be between two keys."""
    prefix = hint_prefix(target)
    tail_at = slice(len(prefix), len(prefix) + 2)
    if stop <= prefix or start >= prefix_stop(prefix):
        return range(0)
    first = int.from_bytes(start[tail_at], "big") if start.startswith(prefix) else 0
    last = int.from_bytes(stop[tail_at], "big") if stop.startswith(prefix) else _TAIL_VALUES - 1
    return range(first, last + 1)


def debt_key(target: NodeId, partition: int) -> bytes:
    """Where it is that hints of a target's partition were lost."""
    name = target.encode()
    return DEBT_PREFIX + bytes((len(name),)) + name + partition.to_bytes(2, "big")


def debt_of(key: bytes) -> tuple[NodeId, int]:
    """(target, partition): the inverse of ``debt_key``."""
    return hint_target_of(key), int.from_bytes(key[-2:], "big")


def quarantine_key(document_id: bytes) -> bytes:
    """Where a copy is that must not be merged before its other owners were asked."""
    return QUARANTINE_PREFIX + document_id[14:] + document_id[:14]


def tail_key(tail: int) -> bytes:
    """The first key of the records whose ids end with this tail; ``LEAVES``: behind all."""
    return RECORD_PREFIX + tail.to_bytes(2, "big") if tail < LEAVES else prefix_stop(RECORD_PREFIX)


def leaves_key(chunk: int) -> bytes:
    """Where a chunk of leaves is."""
    return LEAVES_PREFIX + bytes((chunk,))


def change_key(slot: int) -> bytes:
    """Where the leaves are that a batch changed."""
    return CHANGES_PREFIX + slot.to_bytes(2, "big")


def bucket_key(bucket: Bucket) -> bytes:
    """Where the digest of a bucket is."""
    return TREE_PREFIX + _bucket_bytes(bucket)


def bucket_of_key(key: bytes) -> Bucket:
    """The inverse of ``bucket_key``."""
    partition, number = int.from_bytes(key[2:4], "big"), int.from_bytes(key[4:], "big")
    return Bucket(Family(key[1]), partition, number)


def ending_prefix(bucket: Bucket) -> bytes:
    """What the index entries of all records of a bucket start with."""
    return ENDING_PREFIX + _bucket_bytes(bucket)


def ending_key(bucket: Bucket, document_id: bytes) -> bytes:
    """The index entry of a record that ends."""
    return ending_prefix(bucket) + document_id[14:] + document_id[:14]


def floor_key(partition: int) -> bytes:
    """Where a partition's purge floor is."""
    return FLOOR_PREFIX + partition.to_bytes(2, "big")


def partition_of_floor(key: bytes) -> int:
    """The inverse of ``floor_key``."""
    return int.from_bytes(key[len(FLOOR_PREFIX) :], "big")


def boot_key(node: NodeId) -> bytes:
    """Where the boot of a peer is that was seen last."""
    return BOOT_PREFIX + node.encode()


def node_of_boot(key: bytes) -> NodeId:
    """The inverse of ``boot_key``."""
    return NodeId(key[len(BOOT_PREFIX) :].decode())


def own_boot_key(number: int, boot_id: bytes) -> bytes:
    """What is there if this disk knows of a boot of its own node."""
    return OWN_BOOT_PREFIX + number.to_bytes(8, "big") + boot_id


def outbox_key(sequence: int) -> bytes:
    """Where a write is that other regions have yet to get."""
    return OUTBOX_PREFIX + sequence.to_bytes(8, "big")


def sequence_of(key: bytes) -> int:
    """The inverse of ``outbox_key``."""
    return int.from_bytes(key[len(OUTBOX_PREFIX) :], "big")


def cursor_key(region: str) -> bytes:
    """Where it is how far a region has come with the outbox."""
    return CURSOR_PREFIX + region.encode()


def region_debt_key(region: str, partition: int) -> bytes:
    """Where it is that a partition must be compared with a region."""
    name = region.encode()
    return REGION_DEBT_PREFIX + bytes((len(name),)) + name + partition.to_bytes(2, "big")


def region_debt_of(key: bytes) -> tuple[str, int]:
    """(region, partition): the inverse of ``region_debt_key``."""
    return key[2 : 2 + key[1]].decode(), int.from_bytes(key[-2:], "big")


def standing_key(region: str) -> bytes:
    """Where an operator's word about a region is."""
    return STANDING_PREFIX + region.encode()


def layout_key(region: str) -> bytes:
    """Where the newest layout of a region is that this node knows."""
    return LAYOUT_PREFIX + region.encode()


def region_of_standing(key: bytes) -> str:
    """The inverse of ``standing_key``."""
    return key[len(STANDING_PREFIX) :].decode()


def conflict_key(number: int) -> bytes:
    """Where it is that a key had two bodies."""
    return CONFLICT_PREFIX + number.to_bytes(8, "big")


def conflict_number_of(key: bytes) -> int:
    """The inverse of ``conflict_key``."""
    return int.from_bytes(key[len(CONFLICT_PREFIX) :], "big")


def _bucket_bytes(bucket: Bucket) -> bytes:
    return (
        bytes((bucket.family,))
        + bucket.partition.to_bytes(2, "big")
        + bucket.number.to_bytes(6, "big")
    )


def prefix_stop(prefix: bytes) -> bytes:
    """The first key behind all that start with ``prefix``, which is not all 0xff."""
    kept = prefix.rstrip(b"\xff")
    return kept[:-1] + bytes((kept[-1] + 1,))
