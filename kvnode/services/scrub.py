"""Reading every record against its checksum, and replacing what fails from its other owners.

Rules
-----
1. One pass reads all records, some at a time, and then rests for the interval.
2. A damaged record is never merged into: a sound copy of an owner takes its place. Until one has
   been found it stays as it is, answered as "unknown", and is counted.
3. After each leaf its digest is made anew from what was read, unless a write is under way. So what
   lies where the disk can't be read is missing from the digest: anti-entropy fetches it again.
   After the leaves come the buckets: a damaged record was in one digest, and what took its place
   may belong to another.
"""

from array import array
from typing import Final

from cluster.ids import DocumentId, format_document_id
from kvnode.codec import verify
from kvnode.ending import Family, ending_of
from kvnode.errors import CorruptRecord, StoreError
from kvnode.hashtree import DIGEST_BYTES, LEAVES, Bucket, Span, digest_of, tail_of
from kvnode.log import Log
from kvnode.ports import Clock
from kvnode.replica import Replica
from kvnode.rpc.connection import Lost
from kvnode.rpc.operations import FetchResult
from kvnode.services.asking import CoOwners
from kvnode.services.budget import Budget
from kvnode.services.loop import Work

#: Leaves of one unit of work, and records after which it ends sooner, with whole leaves or buckets.
_UNIT_LEAVES: Final = 16_384
_UNIT_RECORDS: Final = 128

_Page = list[tuple[DocumentId, bytes]]


class Scrub:
    """A service (``kvnode.services.loop``)."""

    name = "scrub"

    def __init__(
        self,
        replica: Replica,
        owners: CoOwners,
        *,
        interval_s: float,
        budget: Budget,
        clock: Clock,
        log: Log,
    ) -> None:
        self.interval_s = interval_s
        self._replica = replica
        self._owners = owners
        self._budget = budget
        self._clock = clock
        self._log = log
        self._tail = 0
        #: Still to be read in this pass.
        self._buckets: list[Bucket] = []
        self.passes = 0
        self.corrupt_count = 0
        self.healed_count = 0
        self.corrected_leaves = 0

    @property
    def progress(self) -> float:
        """Of the pass under way, 0 to 1."""
        return self._tail / LEAVES

    async def run_once(self) -> Work:
        """Read some leaves."""
        if not self._budget.allowed_bytes(self.name, self._clock.monotonic_s()):
            return Work.THROTTLED
        if self._buckets:
            left = _UNIT_RECORDS
            while self._buckets and left > 0:
                left -= 1 + self._check_bucket(self._buckets.pop())
            return Work.BUSY if self._buckets else self._pass_ends()
        damaged: list[DocumentId] = []
        first = self._tail
        size_bytes = self._read_some(damaged)
        self._budget.spend(self.name, size_bytes + self._tail - first)
        for document_id in damaged:
            await self._heal(document_id)
        if self._tail < LEAVES:
            return Work.BUSY
        self._buckets = list(self._replica.records.forest.all_buckets())
        return Work.BUSY if self._buckets else self._pass_ends()

    def _pass_ends(self) -> Work:
        self._tail = 0
        self.passes += 1
        return Work.IDLE

    def _check_bucket(self, bucket: Bucket) -> int:
        """Check a bucket's digest, if its records are sound; how many were looked at."""
        records = self._replica.records
        digest, after, count = 0, b"", 0
        while page := records.in_bucket(bucket, after, _UNIT_RECORDS):
            count += len(page)
            for document_id, _ in page:
                try:
                    encoded = records.durable(document_id)
                    if encoded is None:
                        continue
                    verify(document_id, encoded)
                except CorruptRecord:
                    return count  # healed first
                ending = ending_of(encoded)
                self._budget.spend(self.name, len(encoded))
                lasting = ending.family is Family.LASTING
                if not lasting and records.forest.bucket(document_id, ending) == bucket:
                    digest ^= digest_of(document_id, encoded)
            after = page[-1][0]
        if records.correct_bucket(bucket, digest):
            self._log.warning("bucket.corrected", partition=bucket.partition)
        return count

    def _read_some(self, damaged: list[DocumentId]) -> int:
        """Check the records of the next leaves, and their digests; how many bytes they have."""
        first = self._tail
        page, self._tail = self._whole_leaves(first)
        digests = array("Q", bytes(DIGEST_BYTES * (self._tail - first)))
        unsure: dict[int, None] = {}
        size_bytes = 0
        for document_id, encoded in page:
            size_bytes += len(encoded)
            try:
                verify(document_id, encoded)
            except CorruptRecord:
                damaged.append(document_id)
                unsure[tail_of(document_id)] = None
                continue
            if ending_of(encoded).family is Family.LASTING:
                digests[tail_of(document_id) - first] ^= digest_of(document_id, encoded)
        for tail in self._replica.records.forest.unlike(first, digests):
            if tail not in unsure and self._replica.records.correct_leaf(
                tail, digests[tail - first]
            ):
                self.corrected_leaves += 1
                self._log.warning("leaf.corrected", tail=tail)
        return size_bytes

    def _whole_leaves(self, first: int) -> tuple[_Page, int]:
        """The records of some leaves, and the leaf behind them."""
        in_span = self._replica.records.in_span
        stop = min(first + _UNIT_LEAVES, LEAVES)
        page = in_span(Span(first, stop - first), b"", _UNIT_RECORDS)
        if len(page) < _UNIT_RECORDS:
            return page, stop
        last = tail_of(page[-1][0])  # may go on behind the page
        whole = [one for one in page if tail_of(one[0]) < last]
        if whole:
            return whole, last
        after = page[-1][0]
        while more := in_span(Span(last, 1), after, _UNIT_RECORDS):
            page += more
            after = more[-1][0]
        return page, last + 1

    async def _heal(self, document_id: DocumentId) -> None:
        self.corrupt_count += 1
        document = format_document_id(document_id)
        spoken, floor = self._replica.standing.changes, self._replica.floor_of(document_id)
        for owner, asked in self._owners.fetch(document_id).items():
            answer = await asked
            if self._replica.standing.changes != spoken:
                break  # it may have been given long ago by somebody who counts no more
            if self._replica.floor_of(document_id) != floor:
                break  # or the document was purged meanwhile
            if isinstance(answer, Lost) or answer[0] != FetchResult.FOUND:
                continue
            try:
                verify(document_id, answer[1])
                self._replica.join(document_id, answer[1], vouched=True)
            except StoreError:
                continue
            await self._replica.durable()
            self.healed_count += 1
            self._log.warning("record.healed", document=document, source=owner)
            return
        self._log.warning("record.damaged", document=document)
