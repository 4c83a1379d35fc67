"""Document stores for tests of what lies above the store."""

import asyncio

from kvnode.record import Record, Sighting, merge
from kvnode.results import Fetched, Stored


class MemoryStore:
    """A ``DocumentStore`` of one process's memory that acknowledges as many replicas as asked.

    It joins records like any replica, and leaves what an idempotency key's second body means to the
    service. Tests look at ``records`` and ``writes``, and set ``failure`` and ``gate``.
    """

    def __init__(self, *, copies: int = 3, partition: int | None = None) -> None:
        self.copies = copies
        self.partition = partition
        self.records: dict[bytes, Record] = {}
        #: Calls that changed or might have changed something, as (operation, id, deadline_s).
        self.writes: list[tuple[str, bytes, float]] = []
        #: Raised by every call, after it was counted.
        self.failure: Exception | None = None
        #: Every call waits for it.
        self.gate: asyncio.Event | None = None
        #: Calls that have come as far as the gate.
        self.arrived = 0
        #: What the last call was asked for: (quorum, sloppy).
        self.asked: tuple[int, bool] | None = None
        #: Whether in each region.
        self.each_region = False
        #: What the last read was to find at least.
        self.seen: Sighting | None = None

    def mint_partition(self) -> int | None:
        """See ``DocumentStore``."""
        return self.partition

    async def create(
        self,
        document_id: bytes,
        record: Record,
        *,
        keyed: bool,
        write_quorum: int,
        sloppy: bool,
        deadline_s: float,
        each_region: bool = False,
    ) -> Stored:
        """See ``DocumentStore``."""
        assert keyed or document_id not in self.records
        self.each_region = each_region
        return await self._write("create", document_id, record, write_quorum, sloppy, deadline_s)

    async def read(
        self,
        document_id: bytes,
        *,
        read_quorum: int,
        sloppy: bool,
        deadline_s: float,
        seen: Sighting | None = None,
        each_region: bool = False,
    ) -> Fetched:
        """See ``DocumentStore``."""
        self.seen, self.each_region = seen, each_region
        await self._reached(read_quorum, sloppy)
        return Fetched(self.records.get(document_id), read_quorum, read_quorum, self.copies)

    async def delete(
        self,
        document_id: bytes,
        record: Record,
        *,
        write_quorum: int,
        sloppy: bool,
        deadline_s: float,
        each_region: bool = False,
    ) -> Stored:
        """See ``DocumentStore``."""
        assert record.create is None
        self.each_region = each_region
        return await self._write("delete", document_id, record, write_quorum, sloppy, deadline_s)

    async def _write(
        self,
        operation: str,
        document_id: bytes,
        record: Record,
        write_quorum: int,
        sloppy: bool,
        deadline_s: float,
    ) -> Stored:
        self.writes.append((operation, document_id, deadline_s))
        await self._reached(write_quorum, sloppy)
        known = self.records.get(document_id)
        joined = record if known is None else merge(known, record)
        self.records[document_id] = joined
        return Stored(joined, write_quorum, write_quorum, self.copies, hints=0)

    async def _reached(self, quorum: int, sloppy: bool) -> None:
        assert 1 <= quorum <= self.copies
        self.asked = (quorum, sloppy)
        self.arrived += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.failure is not None:
            raise self.failure
