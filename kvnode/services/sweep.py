"""Taking off the disk what has ended.

Rules
-----
1. EXPIRING records go when their bucket is over, a clock's error included: by then no replica
   serves them, and a stale copy of one expires by itself.
2. DELETED records go when their bucket is below the partition's purge floor: all owners have agreed
   (``kvnode.services.purge``). This service decides nothing. A fenced owner was not asked: what it
   alone knows to be deleted stays until its owners were compared (``kvnode.lifecycle``, rule 3).
"""

from typing import Final

from cluster.ids import DocumentId
from kvnode.ending import Family
from kvnode.hashtree import Bucket
from kvnode.log import Log
from kvnode.replica import Replica
from kvnode.services.loop import Work

#: Records of one unit of work.
_UNIT_RECORDS: Final = 200
#: Removed ids of a family that are kept for ``kvnode.services.verify``.
_SAMPLE: Final = 256


class Sweep:
    """A service (``kvnode.services.loop``)."""

    name = "sweep"

    def __init__(self, replica: Replica, partitions: int, *, interval_s: float, log: Log) -> None:
        self.interval_s = interval_s
        self._replica = replica
        self._partitions = partitions
        self._log = log
        self.expired_count = 0
        self.purged_count = 0
        self._told = (0, 0)
        #: By family the ids that were removed last, oldest first, and a time that had surely passed
        #: before they were: what was created since is another document under the same key.
        self.sampled: dict[Family, dict[DocumentId, int]] = {
            Family.DELETED: {},
            Family.EXPIRING: {},
        }
        #: Records removed by partition, since its space was given back (``reclaim``).
        self.removed: dict[int, int] = {}
        self._next = 0

    async def run_once(self) -> Work:
        """Remove some records, of as many partitions as it takes."""
        left = _UNIT_RECORDS
        first_kept = self._replica.lifecycle.first_kept()
        for _ in range(self._partitions):
            firsts = self._firsts(self._next, first_kept)
            for bucket in self._due(self._next, firsts):
                if left <= 0:
                    await self._replica.durable()
                    return Work.BUSY
                left -= self._remove(bucket, firsts, left)
            self._next = (self._next + 1) % self._partitions
        if left < _UNIT_RECORDS:
            await self._replica.durable()
            return Work.BUSY
        self._tell()
        return Work.IDLE

    def is_due(self, partition: int) -> bool:
        """Whether something that has ended is still there."""
        lifecycle = self._replica.lifecycle
        return bool(self._due(partition, self._firsts(partition, lifecycle.first_kept())))

    def _firsts(self, partition: int, first_kept: int) -> dict[Family, int]:
        """The buckets from which on records are kept."""
        floor = self._replica.lifecycle.floor(partition)
        return {Family.EXPIRING: first_kept, Family.DELETED: 0 if floor.fenced else floor.bucket}

    def _due(self, partition: int, firsts: dict[Family, int]) -> list[Bucket]:
        forest = self._replica.records.forest
        return [
            Bucket(family, partition, number)
            for family, first in firsts.items()
            for number in forest.before(family, partition, first)
        ]

    def _remove(self, bucket: Bucket, firsts: dict[Family, int], limit: int) -> int:
        """Remove records of a bucket; how many were looked at, or the bucket set right."""
        records = self._replica.records
        found = records.in_bucket(bucket, b"", limit)
        removed = 0
        for document_id, _ in found:
            removed += self._replica.remove_ended(
                document_id,
                bucket,
                expiring=firsts[Family.EXPIRING],
                deleted=firsts[Family.DELETED],
            )
            self.remember(bucket.family, document_id, self._replica.lifecycle.surely_past_ms())
        corrected = not found and records.correct_bucket(bucket, 0)
        if corrected:  # damaged records were in it, or others that nobody knows of
            self._log.warning("bucket.corrected", partition=bucket.partition)
        if bucket.family is Family.DELETED:
            self.purged_count += removed
        else:
            self.expired_count += removed
        self.removed[bucket.partition] = self.removed.get(bucket.partition, 0) + removed
        return len(found) + corrected

    def _tell(self) -> None:
        """One line for all that went since the last one."""
        purged, expired = self.purged_count - self._told[0], self.expired_count - self._told[1]
        if purged:
            self._log.info("document.purged", documents=purged)
        if expired:
            self._log.info("document.expired", documents=expired)
        self._told = (self.purged_count, self.expired_count)

    def remember(self, family: Family, document_id: DocumentId, before_ms: int) -> None:
        """An id to be verified; the oldest is forgotten when there are too many."""
        sampled = self.sampled[family]
        sampled[document_id] = before_ms
        if len(sampled) > _SAMPLE:
            del sampled[next(iter(sampled))]
