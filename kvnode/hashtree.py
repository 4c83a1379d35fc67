"""One XOR hash tree per partition: whether two replicas' records are the same, and where not.

Rules
-----
1. A record's digest covers its id and its whole header, and so its state and its content's
   checksum. A leaf is the XOR of the digests of its records: adding and removing cost the same, in
   any order, and equal sets of records have equal leaves.
2. LASTING records are in the leaf of their id's tail (16 bits), so a leaf is one short range of
   keys, and a partition is a range of leaves. Roots are kept; the inner nodes below them are
   computed when they are asked for.
3. EXPIRING and DELETED records are in buckets by the time at which they end (``kvnode.ending``). A
   comparison names the first bucket of each that counts; what is before it is being removed.
4. Changed leaves and buckets are handed out once, to be stored in the batch of the records.

Source: DeCandia et al., "Dynamo", SOSP 2007, section 4.7 (Merkle trees, there without XOR);
Bellare and Micciancio, "A New Paradigm for Collision-Free Hashing", EUROCRYPT 1997 (XOR of hashes).
"""

import struct
from array import array
from collections.abc import Iterable, Iterator
from functools import reduce
from hashlib import blake2b
from operator import xor
from typing import Final

import msgspec

from kvnode.codec import HEADER_BYTES
from kvnode.ending import Ending, Family

LEAVES: Final = 1 << 16
#: Children of an inner node.
FANOUT: Final = 16
DIGEST_BYTES: Final = 8


class Span(msgspec.Struct, frozen=True, order=True):
    """A node of the tree over LASTING records: ``width`` leaves from ``first``."""

    first: int
    width: int

    def children(self) -> "list[Span]":
        """At most FANOUT; none for a leaf."""
        if self.width == 1:
            return []
        width = max(1, self.width // FANOUT)
        return [Span(first, width) for first in range(self.first, self.first + self.width, width)]


class Bucket(msgspec.Struct, frozen=True, order=True):
    """A bucket of a partition's EXPIRING or DELETED records."""

    family: Family
    partition: int
    number: int


def tail_of(document_id: bytes) -> int:
    """The leaf of an id's record, should it be LASTING."""
    return document_id[14] << 8 | document_id[15]


def digest_of(document_id: bytes, encoded: bytes) -> int:
    """64 bits of an encoded record under its id."""
    hashed = blake2b(document_id + encoded[:HEADER_BYTES], digest_size=DIGEST_BYTES)
    return int.from_bytes(hashed.digest(), "big")


class HashForest:
    """The trees of all of a node's partitions.

    Args:
        partitions: A power of two, at most LEAVES.
        bucket_ms: Length of a bucket.
    """

    def __init__(self, partitions: int, bucket_ms: int) -> None:
        self.partitions = partitions
        self.bucket_ms = bucket_ms
        self._width = LEAVES // partitions
        self._leaves = array("Q", bytes(LEAVES * DIGEST_BYTES))
        #: XOR of each partition's leaves.
        self._roots = [0] * partitions
        self._buckets: dict[Bucket, int] = {}
        #: Numbers of the buckets that hold something, by partition.
        self._numbers: dict[tuple[Family, int], dict[int, None]] = {}
        self._changed_leaves: dict[int, None] = {}
        self._changed_buckets: dict[Bucket, None] = {}
        #: XOR of everything, to recognise rows that don't belong together.
        self.total = 0

    # Changing -----------------------------------------------------------------------------

    def toggle(self, document_id: bytes, encoded: bytes, ending: Ending) -> None:
        """Add a record that was not there, or take away one that was."""
        digest = digest_of(document_id, encoded)
        self.total ^= digest
        if ending.family is Family.LASTING:
            tail = tail_of(document_id)
            self._leaves[tail] ^= digest
            self._roots[tail // self._width] ^= digest
            self._changed_leaves[tail] = None
            return
        bucket = self.bucket(document_id, ending)
        self._set_bucket(bucket, self._buckets.get(bucket, 0) ^ digest)
        self._changed_buckets[bucket] = None

    def bucket(self, document_id: bytes, ending: Ending) -> Bucket:
        """Where a record that ends belongs."""
        partition = tail_of(document_id) // self._width
        return Bucket(ending.family, partition, ending.ends_at_ms // self.bucket_ms)

    def set_bucket(self, bucket: Bucket, digest: int) -> None:
        """What is in a bucket is known, whatever its digest says."""
        self.restore_bucket(bucket, digest)
        self._changed_buckets[bucket] = None

    def mark(self, tail: int) -> None:
        """A leaf is to be stored."""
        self._changed_leaves[tail] = None

    def restore_leaf(self, tail: int, digest: int) -> None:
        """A leaf as it was stored."""
        change = self._leaves[tail] ^ digest
        self.total ^= change
        self._roots[tail // self._width] ^= change
        self._leaves[tail] = digest

    def restore_bucket(self, bucket: Bucket, digest: int) -> None:
        """A bucket as it was stored."""
        self.total ^= self._buckets.get(bucket, 0) ^ digest
        self._set_bucket(bucket, digest)

    def take_changed(self) -> tuple[list[tuple[int, int]], list[tuple[Bucket, int]]]:
        """(leaves, buckets) that changed since the last call, with their digests."""
        leaves = [(tail, self._leaves[tail]) for tail in self._changed_leaves]
        buckets = [(bucket, self._buckets.get(bucket, 0)) for bucket in self._changed_buckets]
        self._changed_leaves.clear()
        self._changed_buckets.clear()
        return leaves, buckets

    def _set_bucket(self, bucket: Bucket, digest: int) -> None:
        numbers = self._numbers.setdefault((bucket.family, bucket.partition), {})
        if digest:
            self._buckets[bucket] = digest
            numbers[bucket.number] = None
        else:
            self._buckets.pop(bucket, None)
            numbers.pop(bucket.number, None)

    def pack_leaves(self, first: int, count: int) -> bytes:
        """Some leaves' digests, DIGEST_BYTES each."""
        return struct.pack(f">{count}Q", *self._leaves[first : first + count])

    def unlike(self, first: int, digests: "array[int]") -> list[int]:
        """The leaves from ``first`` on that have other digests than these."""
        ours = self._leaves[first : first + len(digests)]
        if ours == digests:
            return []
        return [first + at for at, digest in enumerate(digests) if digest != ours[at]]

    # Comparing ----------------------------------------------------------------------------

    def span_of(self, partition: int) -> Span:
        """The root over a partition's LASTING records."""
        return Span(partition * self._width, self._width)

    def digest_of_span(self, span: Span) -> int:
        """XOR of a span's leaves."""
        return reduce(xor, self._leaves[span.first : span.first + span.width], 0)

    def digest_of_bucket(self, bucket: Bucket) -> int:
        """0 when nothing is in it."""
        return self._buckets.get(bucket, 0)

    def buckets(self, family: Family, partition: int, first: int) -> Iterator[tuple[int, int]]:
        """(number, digest) of a partition's buckets from ``first`` on that hold something."""
        for number in sorted(self._numbers.get((family, partition), ())):
            if number >= first:
                yield number, self._buckets[Bucket(family, partition, number)]

    def all_buckets(self) -> Iterator[Bucket]:
        """Those that hold something."""
        return iter(list(self._buckets))

    def root(self, partition: int, first_expiring: int, first_deleted: int) -> int:
        """One digest of all of a partition's records that count; see rule 3."""
        digest = self._roots[partition]
        for family, first in (
            (Family.EXPIRING, first_expiring),
            (Family.DELETED, first_deleted),
        ):
            for number in self._numbers.get((family, partition), ()):
                if number >= first:
                    digest ^= self._buckets[Bucket(family, partition, number)]
        return digest

    def before(self, family: Family, partition: int, first: int) -> list[int]:
        """Numbers of the buckets before ``first`` that hold something, ascending."""
        numbers = self._numbers.get((family, partition))
        return sorted(number for number in numbers if number < first) if numbers else []

    def oldest(self, family: Family, partition: int) -> int | None:
        """The lowest bucket number that holds something."""
        return min(self._numbers.get((family, partition), ()), default=None)


def digests_to_bytes(digests: Iterable[int]) -> bytes:
    """DIGEST_BYTES each, big-endian."""
    return b"".join(digest.to_bytes(DIGEST_BYTES, "big") for digest in digests)


def digests_from_bytes(packed: bytes) -> list[int]:
    """The inverse of ``digests_to_bytes``. Raises ValueError for a length that it can't have."""
    if len(packed) % DIGEST_BYTES:
        raise ValueError("not a whole number of digests")
    return [
        int.from_bytes(packed[at : at + DIGEST_BYTES], "big")
        for at in range(0, len(packed), DIGEST_BYTES)
    ]
