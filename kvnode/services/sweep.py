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
        self._next = 0

    async def run_once(self) -> Work:
        """Remove some records of one partition."""
        lifecycle, forest = self._replica.lifecycle, self._replica.records.forest
        for _ in range(self._partitions):
            partition = self._next
            firsts = {
                Family.EXPIRING: lifecycle.first_kept(),
                Family.DELETED: lifecycle.floor(partition).bucket,
            }
            for family, first in firsts.items():
                oldest = forest.oldest(family, partition)
                if oldest is not None and oldest < first:
                    await self._remove(Bucket(family, partition, oldest), firsts)
                    return Work.BUSY
            self._next = (partition + 1) % self._partitions
        return Work.IDLE

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
