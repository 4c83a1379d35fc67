"""The records on this node's disk, and what is kept in step with them.

Rules
-----
1. Whatever follows from the records (their count, the hash trees, the index of those that end) is
   put in the same batch as the records themselves: a crash can't part them.
2. What a batch changes in sum is put once, when it closes.
3. The stored trees are believed only if they add up to the total that is stored beside the count;
   otherwise they are built anew from the records before the node serves.

``kvnode.replica`` is the one that changes records; it decides, this file keeps the books.
"""

import contextlib
import struct
from collections.abc import Iterable, Iterator
from typing import Final

from cluster.ids import DocumentId, partition_of
from kvnode.codec import verify
from kvnode.ending import Ending, Family, ending_of
from kvnode.errors import CannotStart, CorruptRecord
from kvnode.hashtree import Bucket, HashForest, Span, digest_of
from kvnode.leaflog import LeafLog
from kvnode.ports import Engine
from kvnode.presence import Presence
from kvnode.storage.keys import (
    CHANGES_PREFIX,
    ENDING_PREFIX,
    LEAVES_PREFIX,
    RECORD_PREFIX,
    RECORDS_KEY,
    TREE_PREFIX,
    bucket_key,
    bucket_of_key,
    document_id_of,
    ending_key,
    ending_prefix,
    ending_range,
    partition_range,
    prefix_stop,
    record_key,
    tail_key,
)
from kvnode.storage.ranges import readable_with

#: How many there are, how many of them are deleted, when the id of the newest was minted, the XOR
#: of all trees, bucket_ms.
_SUMS: Final = struct.Struct(">QQQQQ")
_DELETED_AT: Final = struct.Struct(">Q")


class RecordStore:
    """See the module's rules.

    Args:
        bucket_ms: Length of a bucket of records that end.
    """

    def __init__(self, engine: Engine, partitions: int, bucket_ms: int) -> None:
        self._engine = engine
        self.forest = HashForest(partitions, bucket_ms)
        #: Records in the database, deleted and expired ones included.
        self.count = 0
        #: Of these, the deleted ones: tombstones.
        self.deleted_count = 0
        self._presence = Presence(0)
        #: How far the index of stored ids has come; None when it is complete.
        self._indexed_to: bytes | None = RECORD_PREFIX
        #: Whether something was passed over.
        self._unreadable = False
        self._leaf_log = LeafLog(engine)
        self._changed = False
        engine.before_commit(self._close_batch)

    # One record ---------------------------------------------------------------------------

    def durable(self, document_id: bytes) -> bytes | None:
        """What is durable. Raises CorruptRecord when the engine can't read it."""
        if self._presence.surely_absent(document_id):
            return None
        return self._engine.get(record_key(document_id))

    def latest(self, document_id: bytes) -> bytes | None:
        """What was put last, durable or not. Raises CorruptRecord."""
        if self._presence.surely_absent(document_id):
            return None
        return self._engine.latest(record_key(document_id))

    def put(self, document_id: bytes, encoded: bytes, ending: Ending, before: bytes | None) -> None:
        """Store a record in the place of ``before``, which is what ``latest`` gave."""
        self._changed = True
        if before is None:
            self._presence.add(document_id)
            self.count += 1
        else:
            self._forget(document_id, before)
        self._remember(document_id, encoded, ending)
        self._engine.put(record_key(document_id), encoded)

    def replace_damaged(self, document_id: bytes, encoded: bytes) -> None:
        """Write a sound copy over a record whose bytes are damaged.

        The trees hold the digest of what it was, which nobody knows: the scrub sets them right. A
        bucket that was empty is made known to it. What family it was of the index knows.
        """
        self._changed = True
        was = self.indexed(document_id)
        if was is not None:
            self.deleted_count -= was.family is Family.DELETED
            self.drop_entry(document_id, was)
        ending = ending_of(encoded)
        self.deleted_count += ending.family is Family.DELETED
        if ending.family is not Family.LASTING:
            bucket = self.forest.bucket(document_id, ending)
            if not self.forest.digest_of_bucket(bucket):
                self.forest.set_bucket(bucket, digest_of(document_id, encoded))
            self._engine.put(
                self._ending_key(document_id, ending), _DELETED_AT.pack(ending.deleted_at_ms)
            )
        self._engine.put(record_key(document_id), encoded)

    def correct_leaf(self, tail: int, digest: int) -> bool:
        """Make a leaf's digest what its durable records add up to; whether it was another.

        Not while something is on its way to the disk: it is in the digest already.
        """
        if not self._engine.settled() or self.forest.digest_of_span(Span(tail, 1)) == digest:
            return False
        self.forest.restore_leaf(tail, digest)
        self.forest.mark(tail)
        self._changed = True
        # Something must be put, for a batch to close.
        self._engine.put(RECORDS_KEY, self._sums())
        return True

    def correct_bucket(self, bucket: Bucket, digest: int) -> bool:
        """As ``correct_leaf``, of a bucket."""
        if not self._engine.settled() or self.forest.digest_of_bucket(bucket) == digest:
            return False
        self.forest.set_bucket(bucket, digest)
        self._changed = True
        self._engine.put(RECORDS_KEY, self._sums())
        return True

    def remove(self, document_id: bytes, encoded: bytes) -> None:
        """Take a record off the disk: it is expired or purged, or its bytes were quarantined."""
        self._changed = True
        self.count -= 1
        self._forget(document_id, encoded)
        self._engine.delete(record_key(document_id))

    def remove_damaged(self, document_id: bytes, bucket: Bucket) -> None:
        """Take a damaged record off the disk that has ended: the index tells when, not its bytes.

        What its digest was nobody knows: whoever empties the bucket sets that right.
        """
        self._changed = True
        self.count -= 1
        self.deleted_count -= bucket.family is Family.DELETED
        self.drop_entry(document_id, bucket)
        self._engine.delete(record_key(document_id))

    def drop_entry(self, document_id: bytes, bucket: Bucket) -> None:
        """Take an entry out of the index: its record ends elsewhere, or is gone."""
        self._engine.delete(ending_key(bucket, document_id))

    def _remember(self, document_id: bytes, encoded: bytes, ending: Ending) -> None:
        self.forest.toggle(document_id, encoded, ending)
        self.deleted_count += ending.family is Family.DELETED
        if ending.family is not Family.LASTING:
            deleted_at = _DELETED_AT.pack(ending.deleted_at_ms)
            self._engine.put(self._ending_key(document_id, ending), deleted_at)

    def _forget(self, document_id: bytes, encoded: bytes) -> None:
        ending = ending_of(encoded)
        self.forest.toggle(document_id, encoded, ending)
        self.deleted_count -= ending.family is Family.DELETED
        if ending.family is not Family.LASTING:
            self._engine.delete(self._ending_key(document_id, ending))

    def _ending_key(self, document_id: bytes, ending: Ending) -> bytes:
        return ending_key(self.forest.bucket(document_id, ending), document_id)

    # Many records -------------------------------------------------------------------------

    def in_span(self, span: Span, after: bytes, limit: int) -> list[tuple[DocumentId, bytes]]:
        """Durable records whose tail is in a span, in key order, behind the id ``after``.

        What can't be read is left out, here and below.
        """
        start = tail_key(span.first) if not after else record_key(after) + b"\x00"
        stop = tail_key(span.first + span.width)
        found, _ = self._engine.salvage(start, stop, limit)
        return [(document_id_of(key), encoded) for key, encoded in found]

    def in_bucket(self, bucket: Bucket, after: bytes, limit: int) -> list[tuple[DocumentId, int]]:
        """(id, deleted_at_ms) of a bucket's records, in key order, behind the id ``after``."""
        prefix = ending_prefix(bucket)
        start = ending_key(bucket, after) + b"\x00" if after else prefix
        found, _ = self._engine.salvage(start, prefix_stop(prefix), limit)
        return [(document_id_of(key), _DELETED_AT.unpack(value)[0]) for key, value in found]

    def indexed(self, document_id: bytes) -> Bucket | None:
        """The bucket under which a record that ends is indexed, also when its bytes are damaged."""
        partition = partition_of(document_id, self.forest.partitions)
        for family in (Family.EXPIRING, Family.DELETED):
            for number, _ in self.forest.buckets(family, partition, 0):
                bucket = Bucket(family, partition, number)
                with contextlib.suppress(CorruptRecord):  # a row that can't be read is none
                    if self._engine.latest(ending_key(bucket, document_id)) is not None:
                        return bucket
        return None

    def some_of(self, partition: int, limit: int) -> list[tuple[DocumentId, bytes]]:
        """Some of a partition's durable records, whatever they are."""
        return self.in_span(self.forest.span_of(partition), b"", limit)

    def forget(self, ids: Iterable[DocumentId]) -> None:
        """Take records off the disk that others have: nobody compares their partition here."""
        for document_id in ids:
            stored = self.latest(document_id)
            if stored is None:
                continue
            try:
                verify(document_id, stored)
            except CorruptRecord:
                was = self.indexed(document_id)
                if was is not None:
                    self.remove_damaged(document_id, was)
                    continue
                self._changed = True  # the leaf stays wrong: the scrub sets it right
                self.count -= 1
                self._engine.delete(record_key(document_id))
            else:
                self.remove(document_id, stored)

    async def compact(self, partition: int) -> int:
        """Give back the space of a partition's removed records; bytes that were gone through."""
        ranges = [partition_range(partition, self.forest.partitions)]
        ranges += [ending_range(family, partition) for family in Family]
        return sum([await self._engine.compact(start, stop) for start, stop in ranges])

    # Start ----------------------------------------------------------------------------------

    def restore(self) -> bool:
        """Take up what is in the database. False: the trees don't add up; see ``rebuild``.

        Raises:
            CannotStart: buckets had another length, so floors and index mean something else.
        """
        stored = self._engine.get(RECORDS_KEY)
        if stored is None:
            return True
        self.count, self.deleted_count, newest_ms, total, bucket_ms = _SUMS.unpack(stored)
        if bucket_ms != self.forest.bucket_ms:
            msg = (
                f"lifecycle.purge_bucket_s is {self.forest.bucket_ms / 1000:g}, and was "
                f"{bucket_ms / 1000:g} when this database was written; it can't be changed"
            )
            raise CannotStart(msg)
        self._presence = Presence(newest_ms)
        for key, value in readable_with(self._engine, TREE_PREFIX):
            self.forest.restore_bucket(bucket_of_key(key), int.from_bytes(value, "big"))
        chunks = [value for _, value in readable_with(self._engine, LEAVES_PREFIX)]
        changes = [value for _, value in readable_with(self._engine, CHANGES_PREFIX)]
        self._leaf_log.restore(self.forest, chunks, changes)
        return bool(self.forest.total == total)

    def rebuild(self) -> Iterator[int]:
        """Build count, trees and index anew from the records; yields how many were read.

        Only while nothing else changes records.
        """
        self.forest = HashForest(self.forest.partitions, self.forest.bucket_ms)
        self.count = self.deleted_count = 0
        for prefix in (TREE_PREFIX, LEAVES_PREFIX, CHANGES_PREFIX, ENDING_PREFIX):
            for key, _ in readable_with(self._engine, prefix):
                self._engine.delete(key)
        for key, encoded in readable_with(self._engine, RECORD_PREFIX):
            self.count += 1
            document_id = document_id_of(key)
            with contextlib.suppress(CorruptRecord):  # the scrub finds it and replaces it
                verify(document_id, encoded)
                self._remember(document_id, encoded, ending_of(encoded))
            yield self.count
        self._changed = True

    def index_some(self, limit: int) -> bool:
        """Show some more of the stored ids to ``kvnode.presence``; whether there are more.

        Nothing is surely absent that may be where the disk can't be read: then it never completes.
        """
        if self._indexed_to is None:
            return False
        found, gaps = self._engine.salvage(self._indexed_to, prefix_stop(RECORD_PREFIX), limit)
        self._unreadable = self._unreadable or bool(gaps)
        for key, _ in found:
            self._presence.add_stored(document_id_of(key))
        if len(found) < limit:
            self._presence.complete = not self._unreadable
            self._indexed_to = None
            return False
        self._indexed_to = found[-1][0] + b"\x00"
        return True

    def _close_batch(self) -> None:
        if not self._changed:
            return
        self._changed = False
        leaves, buckets = self.forest.take_changed()
        if leaves:
            self._leaf_log.put(self.forest, leaves)
        for bucket, digest in buckets:
            if digest:
                self._engine.put(bucket_key(bucket), digest.to_bytes(8, "big"))
            else:
                self._engine.delete(bucket_key(bucket))
        self._engine.put(RECORDS_KEY, self._sums())

    def _sums(self) -> bytes:
        forest, newest_ms = self.forest, self._presence.newest_ms
        return _SUMS.pack(self.count, self.deleted_count, newest_ms, forest.total, forest.bucket_ms)
