"""The one door to the engine: every path that changes or reads a record goes through here.

Rules
-----
1. A stored record changes by ``merge`` only: client write, hint, read repair alike.
2. Nothing is acknowledged before it is durable; ``done`` is called by the engine's barrier.
3. What belongs together (a record, its hint) is put in one synchronous stretch, so in one batch.
4. "Absent" is said only by an owner about a key that it read cleanly. A hint holder that finds
   nothing, an owner that finds a damaged record, and a fenced one say "unknown".
5. A copy that may be of a purged document is not merged but put into quarantine, durably, until the
   document's owners have been asked (``kvnode.lifecycle``).
6. While a partition is fenced, only what a co-owner vouches for is merged into it.
7. While it has no lease it is not believed either, for nobody has said that its disk is in order
   and that nothing was purged without it (``kvnode.leases``).
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from math import inf

import msgspec

from cluster.ids import partition_of
from kvnode.boots import Boots
from kvnode.codec import decode, encode, header_of, verify
from kvnode.conflicts import Conflict, Conflicts
from kvnode.ending import Family, ending_of
from kvnode.errors import CorruptRecord, DiskLow, Fenced, LateCopy, NotOwner, Overloaded
from kvnode.floors import Floor, decode_floor
from kvnode.hashtree import Bucket
from kvnode.hints import HintBook
from kvnode.hintstore import HintStore
from kvnode.layoutstore import LayoutStore
from kvnode.lifecycle import Admission, Lifecycle
from kvnode.outbox import Outbox
from kvnode.ports import Clock, Engine
from kvnode.quarantine import Quarantine
from kvnode.record import Create, Record, merge
from kvnode.records import RecordStore
from kvnode.rpc.operations import FetchResult
from kvnode.standing import Standing
from kvnode.storage.keys import (
    FLOOR_PREFIX,
    floor_key,
    partition_of_floor,
    vote_key,
)
from kvnode.storage.ranges import all_with

#: Called when a merge is durable, with what is held if that is not what was sent.
OnMerged = Callable[[bytes | None], None]


class Replica:
    """One node's records and hints.

    Args:
        owned: Which partitions' absence this node can vouch for, as a table by partition.
        region: The node's own.
        regions: The other ones, and how much may wait for them (``kvnode.outbox``).
        on_conflict: Hears of each key that had two bodies, once (``kvnode.conflicts``).
    """

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        hints: HintBook,
        owned: Callable[[int], bool],
        partitions: int,
        lifecycle: Lifecycle,
        *,
        region: str = "",
        regions: Sequence[str] = (),
        outbox_bytes_max: int = 0,
        on_conflict: Callable[[Conflict], None] = lambda _: None,
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._owned = owned
        self._partitions = partitions
        self.hints = hints
        self.hint_store = HintStore(engine, clock, hints, partitions)
        self.lifecycle = lifecycle
        self.records = RecordStore(engine, partitions, lifecycle.bucket_ms)
        self.quarantine = Quarantine(engine, clock)
        self.conflicts = Conflicts(engine, clock)
        self._on_conflict = on_conflict
        self.boots = Boots(engine)
        self.standing = Standing(engine, region, regions)
        self.layout_store = LayoutStore(engine)
        self.outbox = Outbox(engine, clock, regions, partitions, outbox_bytes_max)
        #: By partition: whether what is held of it is not to be believed.
        self.fenced = [False] * partitions
        #: By partition: until when other owners' word is good for it (``kvnode.services.checkin``).
        self.leased_until_s = [inf] * partitions
        #: Set by the disk's guard: no new documents.
        self.disk_low = False
        #: Damaged records met; each was answered as "unknown".
        self.corrupt_count = 0

    def owns(self, partition: int) -> bool:
        """Whether this node is one of a partition's owners."""
        return self._owned(partition)

    def serves(self, partition: int) -> bool:
        """Whether this node can vouch for what is in a partition, and what is not."""
        return self._owned(partition) and self.believes(partition)

    def believes(self, partition: int) -> bool:
        """Whether what is held of a partition may be believed, as far as it goes."""
        leased = self._clock.monotonic_s() < self.leased_until_s[partition]
        return leased and not self.fenced[partition]

    def get(self, document_id: bytes) -> tuple[Record, bytes] | None:
        """The durable record, and its bytes. Raises CorruptRecord."""
        encoded = self.records.durable(document_id)
        if encoded is None:
            return None
        return self._decode_stored(document_id, encoded), encoded

    def fetch(
        self, document_id: bytes, known_header: bytes | None
    ) -> tuple[FetchResult, bytes | None]:
        """Answer a coordinator: what this node can say about a document."""
        partition = partition_of(document_id, self._partitions)
        if not self.believes(partition):
            return FetchResult.UNKNOWN, None
        owned = self._owned(partition)
        try:
            # What a node still has of a partition that was taken from it nobody keeps up to date.
            encoded = self.records.durable(document_id) if owned else None
            if encoded is None:
                encoded = self._hinted(partition, document_id)
            else:
                verify(document_id, encoded)
        except CorruptRecord:
            self.corrupt_count += 1
            return FetchResult.UNKNOWN, None
        if encoded is None:
            return (FetchResult.ABSENT if owned else FetchResult.UNKNOWN), None
        if known_header is not None and header_of(encoded) == known_header:
            return FetchResult.SAME, None
        return FetchResult.FOUND, encoded

    def _hinted(self, partition: int, document_id: bytes) -> bytes | None:
        """What is kept for others of a document, unless it may be of a purged one.

        That is no more an owner's word than a copy in quarantine. Raises CorruptRecord.
        """
        hint = self.hint_store.joined(document_id)
        if hint is None:
            return None
        verify(document_id, hint)
        admission = self.lifecycle.admit(partition, ending_of(hint), vouched=False)
        return None if admission is Admission.LATE else hint

    def admit(self) -> None:
        """Raise Overloaded when too much is waiting for the disk."""
        if self._engine.full():
            msg = "the disk does not keep up with writes"
            raise Overloaded(msg)

    def merge(self, document_id: bytes, encoded: bytes, done: OnMerged) -> None:
        """``admit``, then ``join`` one record; ``done`` is called when that is durable."""
        self.admit()
        self._engine.barrier(partial(done, self.join(document_id, encoded)))

    def join(self, document_id: bytes, encoded: bytes, *, vouched: bool = False) -> bytes | None:
        """Join a verified record into what is stored, after ``admit``.

        The answer must not leave this node before ``when_durable`` has called.

        Args:
            vouched: An owner that compared this partition with us has it.

        Returns:
            What is held now, if that is not what was given.

        Raises:
            NotOwner: it is not kept here.
            CorruptRecord: what is stored is damaged; nothing was changed. (A copy that is vouched
                for takes its place instead.)
            Fenced: what is stored here is not to be believed; nothing was changed.
            DiskLow: it would be one more document; deletes and repairs are taken.
            LateCopy: it was put into quarantine.
        """
        partition = partition_of(document_id, self._partitions)
        if not self._owned(partition):
            raise NotOwner("this node is no owner of the partition")
        if self.fenced[partition] and not vouched:
            raise Fenced("this replica is being rebuilt")
        try:
            stored = self.records.latest(document_id)
            if stored is None:
                self._store_new(partition, document_id, encoded, vouched=vouched)
                return None
            if stored == encoded:
                return None
            ours = self._decode_stored(document_id, stored)
        except CorruptRecord:
            if not vouched:
                raise
            self.records.replace_damaged(document_id, encoded)
            return None
        theirs = decode(document_id, encoded)
        joined = merge(ours, theirs)
        if ours.create is not None and theirs.create is not None:
            self._note_conflict(document_id, joined, ours.create, theirs.create)
        if joined.tombstone is not None:
            if ours.tombstone is None:
                joined = self.lifecycle.met_alive(partition, ours, joined)
            elif vouched and theirs.tombstone is None and self.lifecycle.purged(partition, ours):
                joined = self.lifecycle.met_alive(partition, theirs, joined)
        if joined is ours:
            return stored
        held = encode(document_id, joined)
        self.records.put(document_id, held, ending_of(held), stored)
        return held if held != encoded else None

    def _note_conflict(
        self, document_id: bytes, joined: Record, ours: Create, theirs: Create
    ) -> None:
        """One body under a key gives way to another; a later create with the same does not."""
        if (ours.checksum, ours.fingerprint) == (theirs.checksum, theirs.fingerprint):
            return
        kept, lost = (ours, theirs) if joined.create is ours else (theirs, ours)
        conflict = self.conflicts.meet(document_id, kept, lost)
        if conflict is not None:
            self._on_conflict(conflict)

    def _store_new(
        self, partition: int, document_id: bytes, encoded: bytes, *, vouched: bool
    ) -> None:
        ending = ending_of(encoded)
        if self.disk_low and not vouched and ending.family is not Family.DELETED:
            raise DiskLow("the disk of this replica is below its low mark")
        admission = self.lifecycle.admit(partition, ending, vouched=vouched)
        if admission is Admission.STORE:
            self.records.put(document_id, encoded, ending, None)
        elif admission is Admission.LATE:
            self.quarantine.hold(document_id, encoded)
            raise LateCopy("its document may have been purged: its owners are asked")

    def remove_ended(
        self, document_id: bytes, bucket: Bucket, *, expiring: int, deleted: int
    ) -> bool:
        """Take a record off the disk that the index lists in a bucket which is over.

        An entry whose record ends later, or is gone, only leaves the index. A damaged record goes
        as well: the index, written with it, says when it ended, and nobody has a sound copy by now.

        Args:
            expiring: EXPIRING records of the buckets before this one have ended.
            deleted: DELETED records of the buckets before this one have ended.

        Returns:
            Whether a record was removed.
        """
        try:
            stored = self.records.latest(document_id)
            if stored is not None:
                verify(document_id, stored)
        except CorruptRecord:
            self.records.remove_damaged(document_id, bucket)
            return True
        self.records.drop_entry(document_id, bucket)
        if stored is None:
            return False
        ending = ending_of(stored)
        number = ending.ends_at_ms // self.lifecycle.bucket_ms
        over = (ending.family is Family.EXPIRING and number < expiring) or (
            ending.family is Family.DELETED and number < deleted
        )
        if over:
            self.records.remove(document_id, stored)
        return over

    def set_floor(self, partition: int, floor: Floor) -> None:
        """Change a partition's purge floor, or fence; see ``kvnode.floors``."""
        if floor != self.lifecycle.floor(partition):
            self._keep_floor(partition, floor)
            self._engine.put(floor_key(partition), floor.encode())

    def floor_of(self, document_id: bytes) -> int:
        """How far a document's partition has been purged; see ``kvnode.lifecycle``, rule 2."""
        return self.lifecycle.floor(partition_of(document_id, self._partitions)).bucket

    def set_fenced(self, partition: int, fenced: bool) -> None:
        """Raise or lower a partition's fence, in the batch that is being gathered."""
        floor = self.lifecycle.floor(partition)
        self.set_floor(partition, msgspec.structs.replace(floor, fenced=fenced))

    def floors(self) -> list[list[int]]:
        """[partition, floor, newest_deleted_ms] of each that has one.

        No promises: what others have not agreed to yet is still everywhere.
        """
        return [
            [partition, floor.bucket, floor.newest_deleted_ms]
            for partition in range(self._partitions)
            if (floor := self.lifecycle.floor(partition)).bucket
        ]

    def meet_floor(self, partition: int, bucket: int, newest_deleted_ms: int) -> None:
        """A co-owner has purged a partition this far."""
        self.set_floor(partition, self.lifecycle.floor(partition).meet(bucket, newest_deleted_ms))

    def set_aside_late(self, document_id: bytes) -> bool:
        """Put a record into quarantine that may be of a purged document; whether it may be.

        It is judged as it is now: a co-owner may have told its end since it was listed.

        Raises:
            CorruptRecord: what is stored is damaged; nothing was changed.
        """
        partition = partition_of(document_id, self._partitions)
        stored = self.records.latest(document_id)
        if stored is None:
            return False
        verify(document_id, stored)
        admission = self.lifecycle.admit(partition, ending_of(stored), vouched=False)
        if admission is not Admission.LATE:
            return False
        self.records.remove(document_id, stored)
        self.quarantine.hold(document_id, stored)
        return True

    def _keep_floor(self, partition: int, floor: Floor) -> None:
        self.lifecycle.set_floor(partition, floor)
        self.fenced[partition] = floor.fenced

    def when_durable(self, done: Callable[[], None], *, patient: bool) -> None:
        """Call ``done`` once, later, when everything put so far is durable."""
        self._engine.barrier(done, patient=patient)

    def vote(
        self, document_id: bytes, fingerprint: bytes, done: Callable[[bytes, bytes | None], None]
    ) -> None:
        """Vote once, for ever, on which body a key's document has (see ``kvnode.voting``).

        ``done`` gets the fingerprint that this replica voted for, first or now, and the record
        if there is one already; it is called when the vote is durable.

        Raises:
            Overloaded, NotOwner, CorruptRecord, Fenced: as ``merge``; no vote was cast.
        """
        self.admit()
        partition = partition_of(document_id, self._partitions)
        if not self._owned(partition):
            raise NotOwner("this node is no owner of the partition")
        if not self.believes(partition):
            raise Fenced("this replica is not sure of its disk")
        stored = self.records.latest(document_id)
        if stored is not None:
            self._decode_stored(document_id, stored)
        key = vote_key(document_id)
        voted = self._engine.latest(key)
        if voted is None:
            voted = fingerprint
            self._engine.put(key, voted)
        self._engine.barrier(partial(done, voted, stored))

    async def durable(self) -> None:
        """Return when everything put so far is durable."""
        done = asyncio.get_running_loop().create_future()
        # Whoever waits may be cancelled before: that must not disturb the barriers behind this one.
        self._engine.barrier(lambda: None if done.done() else done.set_result(None))
        await done

    def restore(self) -> bool:
        """Take up what is in the database; once, at start.

        False when the hash trees don't belong to the records: ``rebuild_trees`` is due.
        """
        for key, value in all_with(self._engine, FLOOR_PREFIX):
            self._keep_floor(partition_of_floor(key), decode_floor(value))
        self.hint_store.restore()
        self.quarantine.restore()
        self.standing.restore()
        self.conflicts.restore()
        return self.records.restore()

    async def rebuild_trees(self) -> None:
        """Make count, trees and index anew from the records, before anything else is served."""
        for _ in self.records.rebuild():
            if self._engine.full():
                await self.durable()
        await self.durable()

    def _decode_stored(self, document_id: bytes, stored: bytes) -> Record:
        try:
            return decode(document_id, stored)
        except CorruptRecord:
            self.corrupt_count += 1
            raise
