"""Taking off the disk what has ended.

Rules
-----
1. EXPIRING records go when their bucket is over, a clock's error included: by then no replica
   serves them, and a stale copy of one expires by itself.
2. DELETED records go when their bucket is below the partition's purge floor: all owners have agreed
   (``kvnode.services.purge``). This service decides nothing.
"""

from typing import Final

from cluster.ids import DocumentId
from kvnode.ending import Family
from kvnode.errors import CorruptRecord
from kvnode.hashtree import Bucket
from kvnode.log import Log
from kvnode.replica import Replica
from kvnode.services.loop import Work

#: Records of one unit of work.
_UNIT_RECORDS: Final = 200
#: Purged ids that are kept for ``kvnode.services.verify``.
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
        #: The ids that were purged last, oldest first.
        self.purged: dict[DocumentId, None] = {}
        #: Records removed by partition, since its space was given back (``reclaim``).
        self.removed: dict[int, int] = {}
        self._next = 0

    async def run_once(self) -> Work:
        """Remove some records of one partition."""
        for _ in range(self._partitions):
            firsts = self._firsts(self._next)
            bucket = self._first_due(self._next, firsts)
            if bucket is not None:
                await self._remove(bucket, firsts)
                return Work.BUSY
            self._next = (self._next + 1) % self._partitions
        return Work.IDLE

    def is_due(self, partition: int) -> bool:
        """Whether something that has ended is still there."""
        return self._first_due(partition, self._firsts(partition)) is not None

    def _firsts(self, partition: int) -> dict[Family, int]:
        """The buckets from which on records are kept."""
        lifecycle = self._replica.lifecycle
        return {
            Family.EXPIRING: lifecycle.first_kept(),
            Family.DELETED: lifecycle.floor(partition).bucket,
        }

    def _first_due(self, partition: int, firsts: dict[Family, int]) -> Bucket | None:
        for family, first in firsts.items():
            oldest = self._replica.records.forest.oldest(family, partition)
            if oldest is not None and oldest < first:
                return Bucket(family, partition, oldest)
        return None

    async def _remove(self, bucket: Bucket, firsts: dict[Family, int]) -> None:
        removed = 0
        for document_id, _ in self._replica.records.in_bucket(bucket, b"", _UNIT_RECORDS):
            try:
                removed += self._replica.remove_ended(
                    document_id,
                    expiring=firsts[Family.EXPIRING],
                    deleted=firsts[Family.DELETED],
                )
            except CorruptRecord:
                continue  # the scrub replaces it first
            if bucket.family is Family.DELETED:
                self._remember(document_id)
        await self._replica.durable()
        self.removed[bucket.partition] = self.removed.get(bucket.partition, 0) + removed
        if not removed:  # the index names what is not there, or nothing
            self._log.warning("sweep.found_nothing", family=bucket.family.name.lower())
            self._replica.records.forget_bucket(bucket)
        elif bucket.family is Family.DELETED:
            self.purged_count += removed
            self._log.info("document.purged", documents=removed)
        else:
            self.expired_count += removed
            self._log.info("document.expired", documents=removed)

    def _remember(self, document_id: DocumentId) -> None:
        self.purged[document_id] = None
        if len(self.purged) > _SAMPLE:
            del self.purged[next(iter(self.purged))]
