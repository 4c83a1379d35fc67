"""The hints on this node's disk: kept, read in turn, dropped, and what is owed for the lost ones.

Rules
-----
1. There is one hint for a document and a target: a later one joins it, and keeps its age.
2. A hint is dropped only if it is still the one that was delivered or judged.
3. That a target's partition is owed a comparison is put in the same batch as the loss: a crash
   can't take both the hint and the knowledge that it was lost.
4. A damaged hint is a lost one, and so are all that may have been where the disk can't be read.

``kvnode.hints`` keeps account, ``kvnode.services.handoff`` delivers; this file moves the bytes.
"""

from collections.abc import Callable
from functools import partial

from cluster.ids import DocumentId, NodeId, partition_of
from kvnode.codec import decode, encode
from kvnode.errors import CorruptRecord
from kvnode.hints import Debt, Fate, HintBook, Loss, decode_hint, encode_hint
from kvnode.ports import Clock, Engine
from kvnode.record import Record, merge
from kvnode.storage.keys import (
    DEBT_PREFIX,
    HINT_PREFIX,
    RECORD_PREFIX,
    debt_key,
    debt_of,
    document_id_of,
    hint_key,
    hint_prefix,
    hint_tails,
    hint_target_of,
    partition_range,
    prefix_stop,
)
from kvnode.storage.ranges import readable_with


class HintStore:
    """One node's hints.

    Args:
        partitions: How many there are in the region's ring.
    """

    def __init__(self, engine: Engine, clock: Clock, book: HintBook, partitions: int) -> None:
        self._engine = engine
        self._clock = clock
        self._partitions = partitions
        self.book = book
        #: Where this process has found its disk unreadable: (target, partition).
        self._unreadable: dict[tuple[NodeId, int], None] = {}

    def restore(self) -> None:
        """Count what is in the database; once, at start."""
        for key, _ in readable_with(self._engine, DEBT_PREFIX):
            if not self.book.owe(*debt_of(key)):
                self._engine.delete(key)
        gaps: list[tuple[bytes, bytes]] = []
        for key, value in readable_with(self._engine, HINT_PREFIX, gaps):
            self.book.restore(hint_target_of(key), len(value), decode_hint(value)[0])
        for gap in gaps:
            for target, _ in self.book.targets():
                self._lose_all_between(target, *gap)

    def hold(
        self, target: NodeId, document_id: bytes, encoded: bytes, done: Callable[[bool], None]
    ) -> None:
        """Keep a hint for ``target``. ``done(kept)`` is called when it is durable, or not kept."""
        key = hint_key(target, document_id)
        try:
            held = self._engine.latest(key)
        except CorruptRecord:
            self._refuse(target, document_id, "corrupt")
            done(False)
            return
        held_at_ms, record = self._clock.wall_ms(), encoded
        if held is not None:
            earlier_at_ms, earlier = decode_hint(held)
            try:
                ours = decode(document_id, earlier)
            except CorruptRecord:
                self.release(target, document_id, held, "corrupt")
                held = None
            else:
                joined = merge(ours, decode(document_id, encoded))
                if joined is ours:
                    self._engine.barrier(partial(done, True))
                    return
                held_at_ms, record = earlier_at_ms, encode(document_id, joined)
        value = encode_hint(held_at_ms, record)
        if self._engine.full() or not self.book.has_room(target, len(value)):
            self._refuse(target, document_id, "overflow")
            done(False)
            return
        self.book.keep(target, len(value), held_at_ms, len(held) if held is not None else None)
        self._engine.put(key, value)
        self._engine.barrier(partial(done, True))

    def behind(self, target: NodeId, after: bytes, limit: int) -> list[tuple[DocumentId, bytes]]:
        """Durable hints for ``target``, in key order, behind the id ``after``: (id, value)."""
        prefix = hint_prefix(target)
        start = hint_key(target, after) + b"\x00" if after else prefix
        found = self._engine.salvage(start, prefix_stop(prefix), limit)
        for gap in found.gaps:
            self._lose_all_between(target, *gap)
        return [(document_id_of(key), value) for key, value in found.pairs]

    def joined(self, document_id: bytes) -> bytes | None:
        """The join of the durable hints for a document, encoded. Raises CorruptRecord."""
        joined: Record | None = None
        for target, _ in self.book.targets():
            value = self._engine.get(hint_key(target, document_id))
            if value is not None:
                record = decode(document_id, decode_hint(value)[1])
                joined = record if joined is None else merge(joined, record)
        return encode(document_id, joined) if joined is not None else None

    def targets_with(self, document_id: bytes) -> list[NodeId]:
        """For whom a durable hint for a document is held; one that can't be read counts."""

        def is_held(target: NodeId) -> bool:
            try:
                return self._engine.get(hint_key(target, document_id)) is not None
            except CorruptRecord:
                return True

        return [target for target, _ in self.book.targets() if is_held(target)]

    def holds_in(self, partition: int) -> bool:
        """Whether a durable hint for a document of a partition is held, for anybody."""
        start, stop = partition_range(partition, self._partitions)
        for target, _ in self.book.targets():
            prefix = hint_prefix(target)
            last = stop == prefix_stop(RECORD_PREFIX)
            found = self._engine.salvage(
                prefix + start[1:], prefix_stop(prefix) if last else prefix + stop[1:], 1
            )
            if found.pairs or found.gaps:
                return True
        return False

    def release(self, target: NodeId, document_id: bytes, value: bytes, fate: Fate) -> bool:
        """Drop a hint that was delivered or is given up. False: it has been superseded since."""
        key = hint_key(target, document_id)
        try:
            if self._engine.latest(key) != value:
                return False
        except CorruptRecord:
            return False  # what it is now can't be read; ``behind`` says that it is lost
        self._engine.delete(key)
        partition = partition_of(document_id, self._partitions)
        if self.book.release(target, partition, len(value), fate):
            self._put_debt(target, partition)
        return True

    def repaid(self, debt: Debt) -> None:
        """A comparison with the target that began when ``debt`` was owed has ended."""
        if self.book.repay(debt):
            self._engine.delete(debt_key(debt.target, debt.partition))

    def _refuse(self, target: NodeId, document_id: bytes, loss: Loss) -> None:
        partition = partition_of(document_id, self._partitions)
        if self.book.refuse(target, partition, loss):
            self._put_debt(target, partition)

    def _put_debt(self, target: NodeId, partition: int) -> None:
        self._engine.put(debt_key(target, partition), self._clock.wall_ms().to_bytes(8, "big"))

    def _lose_all_between(self, target: NodeId, start: bytes, stop: bytes) -> None:
        """Hints may be where the disk can't be read: one is counted for each partition, once."""
        tails = hint_tails(target, start, stop)
        for partition in dict.fromkeys(tail * self._partitions >> 16 for tail in tails):
            if (target, partition) not in self._unreadable:
                self._unreadable[target, partition] = None
                if self.book.refuse(target, partition, "corrupt"):
                    self._put_debt(target, partition)
