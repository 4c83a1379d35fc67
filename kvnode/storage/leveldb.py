"""The engine on LevelDB.

Reads run in the event loop (microseconds, from the cache or the page cache). Writes go through
GroupCommit to one writer thread, with one fsync a batch.

A full disk is the one error after which a batch is written again. LevelDB's handle is lost then,
also when space is freed, so the database is closed, room is made, and it is opened again: what was
acknowledged is in its log, and of the batch that failed nothing was. Any other error ends the node.
"""

import asyncio
import concurrent.futures
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Final

import plyvel

from kvnode.errors import CannotStart, DamagedBlock
from kvnode.ports import Salvage
from kvnode.storage.commit import Changes, GroupCommit
from kvnode.storage.database import is_full, open_database

FSYNC_INTERVAL_S: Final = 1.0
_Write = Callable[[], object]


class LevelDBEngine:
    """``kvnode.ports.Engine`` over a database that ``create_database`` made.

    Args:
        failed: Called in the event loop when a write or an fsync failed: the node must exit.
        make_room: Called when the disk is full, before the database is opened again.

    Raises:
        DatabaseDamaged: its files are not what was written.
        CannotStart: there never was one, or it can't be opened for a reason that may pass: another
            process has it, the disk is full, the files can't be read.
    """

    def __init__(
        self,
        directory: Path,
        loop: asyncio.AbstractEventLoop,
        *,
        fsync: str,
        failed: Callable[[BaseException], None],
        make_room: Callable[[], None] = lambda: None,
    ) -> None:
        self._directory = directory
        self._make_room = make_room
        #: Whether the batch in flight has met a full disk already.
        self._had_no_room = False
        self._database = open_database(directory)
        self._get = self._database.get
        self._loop = loop
        self._fsync = fsync
        self._commit = GroupCommit(loop, self._begin, failed)
        #: See ``kvnode.ports.Engine``; without a call of our own around it, for every write puts.
        self.put = self._commit.put
        self._batches: queue.SimpleQueue[tuple[plyvel.WriteBatch, bool] | None] = (
            queue.SimpleQueue()
        )
        self._synced_s = time.monotonic()
        self._writer = threading.Thread(
            target=self._write_batches, name="leveldb-writer", daemon=True
        )
        self._writer.start()
        self._compactor = ThreadPoolExecutor(1, thread_name_prefix="leveldb-compactor")
        self._compaction: Future[None] | None = None
        self._closed = False

    def get(self, key: bytes) -> bytes | None:
        """See ``kvnode.ports.Engine``. Raises DamagedBlock when a block fails its checksum."""
        try:
            return self._get(key, verify_checksums=True)  # type: ignore[no-any-return]
        except plyvel.Error as error:
            msg = f"LevelDB cannot read a key: {error}"
            raise DamagedBlock(msg) from error

    def latest(self, key: bytes) -> bytes | None:
        """See ``kvnode.ports.Engine``."""
        pending, value = self._commit.pending(key)
        return value if pending else self.get(key)

    def delete(self, key: bytes) -> None:
        """See ``kvnode.ports.Engine``."""
        self._commit.put(key, None)

    def before_commit(self, call: Callable[[], None]) -> None:
        """See ``kvnode.ports.Engine``."""
        self._commit.before = call

    def full(self) -> bool:
        """See ``kvnode.ports.Engine``."""
        return self._commit.full

    def settled(self) -> bool:
        """See ``kvnode.ports.Engine``."""
        return self._commit.settled

    def barrier(self, done: Callable[[], None], *, patient: bool = False) -> None:
        """See ``kvnode.ports.Engine``."""
        self._commit.barrier(done, patient=patient)

    def scan(self, start: bytes, stop: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """See ``kvnode.ports.Engine``. Raises DamagedBlock when a block fails its checksum."""
        pairs: list[tuple[bytes, bytes]] = []
        gap = self._read_on(start, stop, limit, pairs)
        if gap is not None:
            msg = f"LevelDB cannot read all of {gap[0].hex()}..{gap[1].hex()}"
            raise DamagedBlock(msg)
        return pairs

    def salvage(self, start: bytes, stop: bytes, limit: int) -> Salvage:
        """See ``kvnode.ports.Engine``.

        LevelDB's iterator passes over a damaged block, and older versions of that block's keys come
        to light from deeper tables, deleted ones too. So the first key behind the damage is looked
        up by itself, which finds the newest version or the damage, and a fresh iterator goes on.
        """
        pairs: list[tuple[bytes, bytes]] = []
        gaps: list[tuple[bytes, bytes]] = []
        while gap := self._read_on(start, stop, limit, pairs):
            first, behind = gap
            start = behind
            if behind < stop:
                start += b"\x00"
                try:
                    value = self.get(behind)
                except DamagedBlock:
                    behind = start
                else:
                    if value is not None:
                        pairs.append((gap[1], value))
            if gaps and gaps[-1][1] == first:
                first = gaps.pop()[0]
            gaps.append((first, behind))
        return Salvage(pairs, gaps)

    def _read_on(
        self, start: bytes, stop: bytes, limit: int, pairs: list[tuple[bytes, bytes]]
    ) -> tuple[bytes, bytes] | None:
        """Append what follows to ``pairs``, up to the limit or the stop: None.

        Or up to damage: the bounds between which it is. The second is the first key behind it.
        """
        if len(pairs) >= limit or start >= stop:
            return None
        with closing(self._database.raw_iterator(verify_checksums=True)) as found:
            try:
                found.seek(start)
                while found.valid():
                    pair = found.item()
                    if pair[0] >= stop:
                        break
                    pairs.append(pair)
                    start = pair[0] + b"\x00"
                    if len(pairs) == limit:
                        break
                    found.next()
            except plyvel.Error:
                return start, min(found.key(), stop) if found.valid() else stop
        return None

    async def compact(self, start: bytes, stop: bytes) -> int:
        """See ``kvnode.ports.Engine``. LevelDB rewrites the tables that reach into the range."""
        before_bytes = self._database.approximate_size(start, stop)
        compact = partial(self._database.compact_range, start=start, stop=stop)
        self._compaction = self._compactor.submit(compact)
        await asyncio.wrap_future(self._compaction)
        # Before, some of it may have been in the log only.
        return int(max(before_bytes, self._database.approximate_size(start, stop)))

    async def close(self) -> None:
        """See ``kvnode.ports.Engine``."""
        if self._closed:
            return
        self._closed = True
        if not self._commit.broken:
            durable = self._loop.create_future()
            self._commit.barrier(lambda: durable.set_result(None))
            await durable
        self._batches.put(None)
        self._writer.join()
        self._close_database()
        self._compactor.shutdown()

    def _close_database(self) -> None:
        """Close it when nobody is in it: a compaction ends at its range's end, or at an error."""
        concurrent.futures.wait([self._compaction] if self._compaction else [])
        self._database.close()

    def _begin(self, changes: Changes) -> None:
        # The batch is put together here, in the event loop: plyvel gives up the interpreter's lock
        # for each change, and a writer thread would compete with the loop to get it back.
        now_s = time.monotonic()
        sync = self._fsync == "always" or (
            self._fsync == "interval" and now_s - self._synced_s >= FSYNC_INTERVAL_S
        )
        if sync:
            self._synced_s = now_s
        batch = self._database.write_batch(sync=sync)
        for key, value in changes.items():
            if value is None:
                batch.delete(key)
            else:
                batch.put(key, value)
        self._batches.put((batch.write, sync))

    def _write_batches(self) -> None:
        """The writer thread: one batch after the other, until None."""
        unsynced = False
        while True:
            try:
                item = self._batches.get(timeout=FSYNC_INTERVAL_S if unsynced else None)
            except queue.Empty:  # an idle second: what the interval still owes
                error = _outcome(self._database.write_batch(sync=True).write)
                if error is not None:
                    self._loop.call_soon_threadsafe(self._finished, error)
                unsynced = False
                continue
            if item is None:
                return
            write, sync = item
            error = _outcome(write)
            unsynced = self._fsync == "interval" and not sync and error is None
            self._loop.call_soon_threadsafe(self._finished, error)

    def _finished(self, error: BaseException | None) -> None:
        """The writer thread is done with a batch. In the event loop."""
        if error is None or not is_full(error) or self._had_no_room:
            self._had_no_room = False
            self._commit.finished(error)
            return
        self._had_no_room = True
        self._close_database()
        try:
            self._make_room()
            self._database = open_database(self._directory)
        except (CannotStart, OSError) as reason:
            self._commit.finished(reason)
            return
        self._get = self._database.get
        if self._commit.in_flight:
            self._begin(self._commit.in_flight)


def _outcome(write: _Write) -> BaseException | None:
    try:
        write()
    except Exception as error:  # noqa: BLE001, whatever it was, the writer must say so
        return error
    return None
