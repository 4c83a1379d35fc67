"""The one door to the engine: every path that changes or reads a record goes through here.

Rules
-----
1. A stored record changes by ``merge`` only: client write, hint, read repair alike.
2. Nothing is acknowledged before it is durable; ``done`` is called by the engine's barrier.
3. What belongs together (a record, its hint) is put in one synchronous stretch, so in one batch.
4. "Absent" is said only by an owner about a key that it read cleanly. A hint holder that finds
   nothing, and an owner that finds a damaged record, say "unknown".
"""

import asyncio
import struct
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from cluster.ids import DocumentId, NodeId, partition_of
from kvnode.codec import decode, encode, header_of, verify
from kvnode.errors import CorruptRecord, Overloaded
from kvnode.hints import Fate, HintBook, decode_hint, encode_hint
from kvnode.ports import Clock, Engine
from kvnode.presence import Presence
from kvnode.record import Record, merge
from kvnode.rpc.operations import FetchResult
from kvnode.storage.keys import (
    HINT_PREFIX,
    RECORD_PREFIX,
    RECORDS_KEY,
    document_id_of,
    hint_key,
    hint_prefix,
    hint_target_of,
    prefix_stop,
    record_key,
    vote_key,
)

#: Called when a merge is durable, with what is held if that is not what was sent.
OnMerged = Callable[[bytes | None], None]
#: How many there are, and when the id of the newest was minted.
_RECORDS: Final = struct.Struct(">QQ")
_RESTORE_BATCH: Final = 1000


class Replica:
    """One node's records and hints.

    Args:
        owned: Which partitions' absence this node can vouch for, as a table by partition.
    """

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        hints: HintBook,
        owned: Callable[[int], bool],
        partitions: int,
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._owned = owned
        self._partitions = partitions
        self.hints = hints
        #: Records in the database, deleted and expired ones included; kept in each write's batch.
        self.record_count = 0
        self._presence = Presence(0)
        #: How far the index of stored ids has come; None when it is complete.
        self._indexed_to: bytes | None = RECORD_PREFIX
        self._count_changed = False
        engine.before_commit(self._put_sums)
        #: Damaged records met; each was answered as "unknown".
        self.corrupt_count = 0
        #: Keyed creates that lost to an earlier one with another body.
        self.conflict_count = 0

    def get(self, document_id: bytes) -> tuple[Record, bytes] | None:
        """The durable record, and its bytes. Raises CorruptRecord."""
        encoded = self._durable(document_id)
        if encoded is None:
            return None
        return self._decode_stored(document_id, encoded), encoded

    def fetch(
        self, document_id: bytes, known_header: bytes | None
    ) -> tuple[FetchResult, bytes | None]:
        """Answer a coordinator: what this node can say about a document."""
        try:
            encoded = self._durable(document_id)
            if encoded is None:
                encoded = self._hinted(document_id)
            if encoded is not None:
                verify(document_id, encoded)
        except CorruptRecord:
            self.corrupt_count += 1
            return FetchResult.UNKNOWN, None
        if encoded is None:
            vouches = self._owned(partition_of(document_id, self._partitions))
            return (FetchResult.ABSENT if vouches else FetchResult.UNKNOWN), None
        if known_header is not None and header_of(encoded) == known_header:
            return FetchResult.SAME, None
        return FetchResult.FOUND, encoded

    def admit(self) -> None:
        """Raise Overloaded when too much is waiting for the disk."""
        if self._engine.full():
            msg = "the disk does not keep up with writes"
            raise Overloaded(msg)

    def merge(self, document_id: bytes, encoded: bytes, done: OnMerged) -> None:
        """``admit``, then ``join`` one record; ``done`` is called when that is durable."""
        self.admit()
        self._engine.barrier(partial(done, self.join(document_id, encoded)))

    def join(self, document_id: bytes, encoded: bytes) -> bytes | None:
        """Join a verified record into what is stored, after ``admit``.

        The answer must not leave this node before ``when_durable`` has called.

        Returns:
            What is held now, if that is not what was given.

        Raises:
            CorruptRecord: what is stored is damaged; nothing was changed.
        """
        key = record_key(document_id)
        presence = self._presence
        stored = None if presence.surely_absent(document_id) else self._engine.latest(key)
        held: bytes | None = None
        if stored is None:
            presence.add(document_id)
            self.record_count += 1
            self._count_changed = True
            self._engine.put(key, encoded)
        elif stored != encoded:
            ours, theirs = self._decode_stored(document_id, stored), decode(document_id, encoded)
            self.conflict_count += _bodies_differ(ours, theirs)
            joined = merge(ours, theirs)
            held = stored
            if joined is not ours:
                held = encode(document_id, joined)
                self._engine.put(key, held)
            if held == encoded:
                held = None
        return held

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
            Overloaded, CorruptRecord: as ``merge``; no vote was cast.
        """
        self.admit()
        stored = self._engine.latest(record_key(document_id))
        if stored is not None:
            self._decode_stored(document_id, stored)
        key = vote_key(document_id)
        voted = self._engine.latest(key)
        if voted is None:
            voted = fingerprint
            self._engine.put(key, voted)
        self._engine.barrier(partial(done, voted, stored))

    def hold(
        self, target: NodeId, document_id: bytes, encoded: bytes, done: Callable[[bool], None]
    ) -> None:
        """Keep a hint for ``target``. ``done(kept)`` is called when it is durable, or not kept.

        A damaged hint that is held already is replaced.

        Raises:
            CorruptRecord: the engine can't read what is held; nothing was changed.
        """
        key = hint_key(target, document_id)
        held = self._engine.latest(key)
        held_at_ms, record = self._clock.wall_ms(), encoded
        if held is not None:
            earlier_at_ms, earlier = decode_hint(held)
            try:
                ours = self._decode_stored(document_id, earlier)
            except CorruptRecord:
                pass
            else:
                joined = merge(ours, decode(document_id, encoded))
                if joined is ours:
                    self._engine.barrier(partial(done, True))
                    return
                held_at_ms, record = earlier_at_ms, encode(document_id, joined)
        value = encode_hint(held_at_ms, record)
        if self._engine.full() or not self.hints.has_room(target, len(value)):
            self.hints.refuse()
            done(False)
            return
        self.hints.keep(target, len(value), len(held) if held is not None else None)
        self._engine.put(key, value)
        self._engine.barrier(partial(done, True))

    def hinted_for(self, target: NodeId, limit: int) -> list[tuple[DocumentId, bytes]]:
        """The first durable hints for ``target``: (document id, hint's value)."""
        prefix = hint_prefix(target)
        found = self._engine.scan(prefix, prefix_stop(prefix), limit)
        return [(document_id_of(key), value) for key, value in found]

    def release(self, target: NodeId, document_id: bytes, value: bytes, fate: Fate) -> None:
        """Drop a hint that was delivered or is given up, unless it has been superseded since."""
        key = hint_key(target, document_id)
        if self._engine.latest(key) != value:
            return
        self._engine.delete(key)
        self.hints.release(target, len(value), fate)

    async def durable(self) -> None:
        """Return when everything put so far is durable."""
        done = asyncio.get_running_loop().create_future()
        # Whoever waits may be cancelled before: that must not disturb the barriers behind this one.
        self._engine.barrier(lambda: None if done.done() else done.set_result(None))
        await done

    def restore_counts(self) -> None:
        """Take up the counts of what is in the database; once, at start."""
        stored = self._engine.get(RECORDS_KEY)
        if stored is not None:
            self.record_count, newest_ms = _RECORDS.unpack(stored)
            self._presence = Presence(newest_ms)
        for key, value in self._scan_all(HINT_PREFIX, prefix_stop(HINT_PREFIX)):
            self.hints.restore(hint_target_of(key), len(value))

    def index_some(self, limit: int) -> bool:
        """Show some more of the stored ids to ``kvnode.presence``; whether there are more.

        What can't be read is passed over: its absence is not certain, so nothing is ever complete.
        """
        if self._indexed_to is None:
            return False
        found = self._engine.scan(self._indexed_to, prefix_stop(RECORD_PREFIX), limit)
        for key, _ in found:
            self._presence.add_stored(document_id_of(key))
        if len(found) < limit:
            self._presence.complete = True
            self._indexed_to = None
            return False
        self._indexed_to = found[-1][0] + b"\x00"
        return True

    def _durable(self, document_id: bytes) -> bytes | None:
        if self._presence.surely_absent(document_id):
            return None
        return self._engine.get(record_key(document_id))

    def _put_sums(self) -> None:
        """Close a batch: what its records change in sum, once."""
        if self._count_changed:
            self._count_changed = False
            sums = _RECORDS.pack(self.record_count, self._presence.newest_ms)
            self._engine.put(RECORDS_KEY, sums)

    def _hinted(self, document_id: bytes) -> bytes | None:
        """The join of the hints held for a document, encoded."""
        joined: Record | None = None
        for target, _ in self.hints.targets():
            value = self._engine.get(hint_key(target, document_id))
            if value is not None:
                record = decode(document_id, decode_hint(value)[1])
                joined = record if joined is None else merge(joined, record)
        return encode(document_id, joined) if joined is not None else None

    def _decode_stored(self, document_id: bytes, stored: bytes) -> Record:
        try:
            return decode(document_id, stored)
        except CorruptRecord:
            self.corrupt_count += 1
            raise

    def _scan_all(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        while True:
            found = self._engine.scan(start, stop, _RESTORE_BATCH)
            yield from found
            if len(found) < _RESTORE_BATCH:
                return
            start = found[-1][0] + b"\x00"


def _bodies_differ(a: Record, b: Record) -> bool:
    return (
        a.create is not None
        and b.create is not None
        and (a.create.checksum, a.create.fingerprint) != (b.create.checksum, b.create.fingerprint)
    )
