"""The writes that other regions have yet to get: one log a node, and how far each region has come.

Rules
-----
1. Whoever coordinates a write appends it here, in the stretch that puts its own copy, so in one
   batch with it. What comes from another region, a hint, a repair or a comparison is not appended:
   each write is shipped by the node that coordinated it, to every other region. So there are no
   loops.
2. An entry names a document: what is shipped is this node's copy at that time. A coordinator that
   has no copy of its own keeps the whole record in its entry.
3. A region's cursor is behind what it has acknowledged, without a gap; it moves only then. What
   all regions have acknowledged leaves the log.
4. An entry's time is the wall clock, made monotone: never before an earlier entry, and never before
   what a region was told (6), which is why that is on disk before it is told.
5. The log is bounded. Beyond the bound the oldest entries are dropped, and in the same batch their
   partitions are *owed* a comparison with each region that had yet to get them. The same is owed
   for all partitions by a node that has lost its log with its disk.
6. A region's *watermark* here is the time before which nothing is left to do for it: that of the
   oldest entry it has not acknowledged or of the oldest debt, else now.

``kvnode.services.shipping`` moves the entries, ``kvnode.services.settling`` pays the debts.
"""

import struct
from collections.abc import Sequence
from typing import Final

import msgspec

from cluster.ids import DocumentId, partition_of
from kvnode.errors import CorruptRecord
from kvnode.ports import Clock, Engine
from kvnode.storage.keys import (
    CURSOR_PREFIX,
    OUTBOX_PREFIX,
    REGION_DEBT_PREFIX,
    cursor_key,
    outbox_key,
    prefix_stop,
    region_debt_key,
    region_debt_of,
    sequence_of,
)
from kvnode.storage.ranges import all_with

#: Bytes of the log up to and with this entry, when it was coordinated, its document.
ENTRY: Final = struct.Struct(">QQ16s")
#: The last entry acknowledged, bytes of the log up to it, what was told.
CURSOR: Final = struct.Struct(">QQQ")
_KEY_BYTES: Final = 9
#: Rows that leave the log at once, and those read at once.
_TRIM_MAX: Final = 4096
_READ_MAX: Final = 1024
_SEQUENCE_MAX: Final = 1 << 62


class Entry(msgspec.Struct, frozen=True):
    """One write."""

    sequence: int
    #: Of the log, up to and with this one.
    written_bytes: int
    coordinated_ms: int
    document_id: DocumentId
    #: None: this node's own copy.
    record: bytes | None


class Cursor(msgspec.Struct):
    """How far a region has come."""

    sequence: int = 0
    written_bytes: int = 0
    told_ms: int = 0


class RegionDebt(msgspec.Struct, frozen=True):
    """A partition that must be compared with a region."""

    region: str
    partition: int
    #: Writes of this time and later may be missing there.
    since_ms: int
    #: Of this debt, in this process: when more is owed, it is another one.
    number: int


class Outbox:
    """One node's log, and its debts.

    Args:
        regions: All but the node's own; without any, nothing is ever written.
        bytes_max: Rule 5.
    """

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        regions: Sequence[str],
        partitions: int,
        bytes_max: int,
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._partitions = partitions
        self._bytes_max = bytes_max
        self.regions = tuple(regions)
        self.cursors = {region: Cursor() for region in regions}
        self._debts: dict[str, dict[int, RegionDebt]] = {region: {} for region in regions}
        self._debt_count = 0
        #: The first entry that is held, and the next one's number.
        self._first = self._next = 1
        self._written_bytes = 0
        self._last_ms = 0
        #: Entries that were dropped over the bound, and debts that were paid.
        self.dropped_count = 0
        self.repaid_count = 0

    # The log --------------------------------------------------------------------------------

    def append(self, document_id: bytes, record: bytes | None) -> None:
        """A write is being coordinated here; ``record`` unless this node puts a copy as well."""
        size_bytes = _KEY_BYTES + ENTRY.size + (len(record) if record is not None else 0)
        self._written_bytes += size_bytes
        head = ENTRY.pack(self._written_bytes, self._now_ms(), document_id)
        self._engine.put(outbox_key(self._next), head + record if record is not None else head)
        self._next += 1

    def read(self, after: int, size_bytes: int) -> list[Entry]:
        """Durable entries behind one, in order; about as many as ``size_bytes`` of records hold."""
        limit = max(1, min(_READ_MAX, size_bytes // ENTRY.size))
        found = self._engine.salvage(outbox_key(after + 1), prefix_stop(OUTBOX_PREFIX), limit)
        if found.gaps:
            self.lose_all()
            return []
        return [_entry(key, value) for key, value in found.pairs]

    def oldest(self, size_bytes: int) -> list[Entry]:
        """The first durable entries."""
        return self.read(self._first - 1, size_bytes)

    def acknowledge(self, region: str, upto: Entry) -> None:
        """A region has every entry up to this one, durably."""
        cursor = self.cursors[region]
        if upto.sequence > cursor.sequence:
            cursor.sequence, cursor.written_bytes = upto.sequence, upto.written_bytes
            self._put_cursor(region)
            self.trim()

    def trim(self) -> None:
        """Take off the disk what all regions have, or some of it."""
        last = min(cursor.sequence for cursor in self.cursors.values())
        stop = min(last + 1, self._first + _TRIM_MAX)
        for sequence in range(self._first, stop):
            self._engine.delete(outbox_key(sequence))
        self._first = max(self._first, stop)

    @property
    def last(self) -> int:
        """The number of the newest entry, durable or not."""
        return self._next - 1

    def waiting(self, region: str) -> int:
        """Entries that a region has yet to get."""
        return self.last - self.cursors[region].sequence

    def waiting_bytes(self, region: str) -> int:
        """What they take in the log."""
        return self._written_bytes - self.cursors[region].written_bytes

    def fullness(self, region: str) -> float:
        """The same as a share of the bound; beyond 1 the oldest are dropped."""
        return self.waiting_bytes(region) / max(self._bytes_max, 1)

    @property
    def held_bytes(self) -> int:
        """What the slowest region has yet to get."""
        return max(map(self.waiting_bytes, self.regions), default=0)

    @property
    def overflowing(self) -> bool:
        """Rule 5."""
        return self.held_bytes > self._bytes_max

    def drop(self, entries: Sequence[Entry]) -> None:
        """Give up the oldest entries: what they were for is owed from now on."""
        for region, cursor in self.cursors.items():
            for entry in entries:
                if entry.sequence > cursor.sequence:
                    partition = partition_of(entry.document_id, self._partitions)
                    self.owe(region, partition, entry.coordinated_ms)
            self.acknowledge(region, entries[-1])
        self.dropped_count += len(entries)

    # Debts ----------------------------------------------------------------------------------

    def owe(self, region: str, partition: int, since_ms: int) -> None:
        """A region may lack writes of a partition, of this time and later."""
        self._debt_count += 1
        before = self._debts[region].get(partition)
        since_ms = min(since_ms, before.since_ms) if before is not None else since_ms
        debt = RegionDebt(region, partition, since_ms, self._debt_count)
        self._debts[region][partition] = debt
        if before is None or since_ms != before.since_ms:
            self._engine.put(region_debt_key(region, partition), since_ms.to_bytes(8, "big"))

    def owe_all(self) -> None:
        """This disk is not the one of the last boot, or has lost part of its log."""
        for region, cursor in self.cursors.items():
            for partition in range(self._partitions):
                self.owe(region, partition, cursor.told_ms)

    def lose_all(self) -> None:
        """The log can't be read: everything is owed, and the log begins anew."""
        self.owe_all()
        last = Entry(self._next - 1, self._written_bytes, 0, DocumentId(b""), None)
        for region in self.regions:
            self.acknowledge(region, last)

    def owed(self, region: str) -> list[RegionDebt]:
        """In the order in which it was first owed."""
        return list(self._debts[region].values())

    def repaid(self, debt: RegionDebt) -> None:
        """A comparison that began when ``debt`` was owed has ended."""
        if self._debts[debt.region].get(debt.partition) == debt:
            del self._debts[debt.region][debt.partition]
            self._engine.delete(region_debt_key(debt.region, debt.partition))
            self.repaid_count += 1

    # The watermark --------------------------------------------------------------------------

    def watermark_ms(self, region: str) -> int:
        """Rule 6."""
        oldest_ms = self._oldest_ms(region)
        debts = self._debts[region].values()
        return min((debt.since_ms for debt in debts), default=oldest_ms)

    def tell(self, region: str) -> int:
        """The watermark; it may be told once what is put here is durable."""
        cursor = self.cursors[region]
        watermark_ms = self.watermark_ms(region)
        if watermark_ms > cursor.told_ms:
            cursor.told_ms = watermark_ms
            self._put_cursor(region)
        return cursor.told_ms

    def _oldest_ms(self, region: str) -> int:
        sequence = self.cursors[region].sequence + 1
        if sequence < self._next:
            try:
                value = self._engine.latest(outbox_key(sequence))
            except CorruptRecord:
                value = None
            if value is not None:
                return int(ENTRY.unpack_from(value)[1])
            self.lose_all()
        return self._now_ms()

    def _now_ms(self) -> int:
        """Rule 4."""
        self._last_ms = max(self._last_ms, self._clock.wall_ms())
        return self._last_ms

    # Start ----------------------------------------------------------------------------------

    def restore(self, *, is_new: bool) -> None:
        """Take up what is in the database; once, at start.

        Args:
            is_new: The node starts for the first time on this database. Otherwise a region without
                a cursor is a new one, and is owed everything.
        """
        rows = dict(all_with(self._engine, CURSOR_PREFIX))
        for region, cursor in self.cursors.items():
            row = rows.get(cursor_key(region))
            if row is not None:
                cursor.sequence, cursor.written_bytes, cursor.told_ms = CURSOR.unpack(row)
        known = [region for region in self.regions if cursor_key(region) in rows]
        self._find_ends([self.cursors[region] for region in known])
        for key, value in all_with(self._engine, REGION_DEBT_PREFIX):
            region, partition = region_debt_of(key)
            if region in self._debts:
                self.owe(region, partition, int.from_bytes(value, "big"))
        for region, cursor in self.cursors.items():
            if region not in known:
                cursor.sequence, cursor.written_bytes = self._next - 1, self._written_bytes
                self._put_cursor(region)
                for partition in range(0 if is_new else self._partitions):
                    self.owe(region, partition, 0)

    def _find_ends(self, known: Sequence[Cursor]) -> None:
        """Where the log begins and ends: all between is there, so the end can be searched for."""
        self._last_ms = max((cursor.told_ms for cursor in known), default=0)
        self._written_bytes = max((cursor.written_bytes for cursor in known), default=0)
        self._first = min((cursor.sequence for cursor in known), default=0) + 1
        last = max((cursor.sequence for cursor in known), default=0)
        low, high = last, _SEQUENCE_MAX  # the last entry is at ``low`` or behind, before ``high``
        stop = prefix_stop(OUTBOX_PREFIX)
        while high - low > 1:
            middle = (low + high) // 2
            found = self._engine.salvage(outbox_key(middle), stop, 1)
            low, high = (middle, high) if found.pairs or found.gaps else (low, middle)
        self._next = low + 1
        found = self._engine.salvage(outbox_key(low), stop, 1)
        if found.pairs:
            entry = _entry(*found.pairs[0])
            self._written_bytes = entry.written_bytes
            self._last_ms = max(self._last_ms, entry.coordinated_ms)
        elif found.gaps:
            self.lose_all()

    def _put_cursor(self, region: str) -> None:
        cursor = self.cursors[region]
        row = CURSOR.pack(cursor.sequence, cursor.written_bytes, cursor.told_ms)
        self._engine.put(cursor_key(region), row)


def _entry(key: bytes, value: bytes) -> Entry:
    written_bytes, coordinated_ms, document_id = ENTRY.unpack_from(value)
    record = value[ENTRY.size :] or None
    return Entry(sequence_of(key), written_bytes, coordinated_ms, DocumentId(document_id), record)
