"""Reading every record against its checksum, and replacing what fails from its other owners.

Rules
-----
1. One pass reads all records, some at a time, and then rests for the interval.
2. A damaged record is never merged into: a sound copy of an owner takes its place. Until one has
   been found it stays as it is, answered as "unknown", and is counted.
3. After each leaf its digest is made anew from what was read, unless a write is under way. So what
   lies where the disk can't be read is missing from the digest: anti-entropy fetches it again.
"""

from typing import Final

from cluster.ids import DocumentId
from kvnode.codec import verify
from kvnode.ending import Family, ending_of
from kvnode.errors import CorruptRecord, StoreError
from kvnode.hashtree import LEAVES, Span, digest_of
from kvnode.log import Log
from kvnode.ports import Clock
from kvnode.replica import Replica
from kvnode.rpc.connection import Lost
from kvnode.rpc.operations import FetchResult
from kvnode.services.asking import CoOwners
from kvnode.services.budget import Budget
from kvnode.services.loop import Work

#: Leaves of one unit of work, and bytes after which it ends sooner.
_UNIT_LEAVES: Final = 64
_UNIT_BYTES: Final = 256 * 1024
_PAGE: Final = 1000


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
        size_bytes = 0
        damaged: list[DocumentId] = []
        for _ in range(_UNIT_LEAVES):
            if self._tail == LEAVES or size_bytes > _UNIT_BYTES:
                break
            size_bytes += self._read_leaf(self._tail, damaged)
            self._tail += 1
        self._budget.spend(self.name, size_bytes + _UNIT_LEAVES)
        for document_id in damaged:
            await self._heal(document_id)
        if self._tail < LEAVES:
            return Work.BUSY
        self._tail = 0
        self.passes += 1
        return Work.IDLE

    def _read_leaf(self, tail: int, damaged: list[DocumentId]) -> int:
        """Check all records of a leaf, and its digest; how many bytes they have."""
        digest = size_bytes = 0
        after = b""
        whole = True
        span = Span(tail, 1)
        while True:
            page = self._replica.records.in_span(span, after, _PAGE)
            for document_id, encoded in page:
                size_bytes += len(encoded)
                try:
                    verify(document_id, encoded)
                except CorruptRecord:
                    damaged.append(document_id)
                    whole = False
                    continue
                if ending_of(encoded).family is Family.LASTING:
                    digest ^= digest_of(document_id, encoded)
            if len(page) < _PAGE:
                break
            after = page[-1][0]
        if whole and self._replica.records.correct_leaf(tail, digest):
            self.corrected_leaves += 1
            self._log.warning("leaf.corrected", tail=tail)
        return size_bytes

    async def _heal(self, document_id: DocumentId) -> None:
        self.corrupt_count += 1
        for owner, asked in self._owners.fetch(document_id).items():
            answer = await asked
            if isinstance(answer, Lost) or answer[0] != FetchResult.FOUND:
                continue
            try:
                verify(document_id, answer[1])
                self._replica.join(document_id, answer[1], vouched=True)
            except StoreError:
                continue
            await self._replica.durable()
            self.healed_count += 1
            self._log.warning("record.healed", document=document_id.hex(), source=owner)
            return
        self._log.warning("record.damaged", document=document_id.hex())
