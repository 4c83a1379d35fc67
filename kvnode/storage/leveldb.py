"""The engine on LevelDB.

LevelDB's defaults, as plyvel gives them, lose or corrupt data silently; each of these was measured:

- ``paranoid_checks`` off: a flipped bit in the log opens with 1,828 of 2,000 records visible.
- ``verify_checksums`` off: a flipped bit in a table returned a wrong value and no error.
- ``create_if_missing`` on: a missing CURRENT file EMPTIES the database. It is on at creation.
- plyvel's plain iterator takes a damaged last block for the end; its raw one reports it.

Blocks are not compressed: Snappy took a seventh of the CPU time of bulk creates, to save disk for
texts that are small already.

Reads run in the event loop (microseconds, from the cache or the page cache). Writes go through
GroupCommit to one writer thread, with one fsync a batch.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final

import plyvel

from kvnode.errors import CannotStart, CorruptRecord
from kvnode.storage.commit import Changes, GroupCommit

FSYNC_INTERVAL_S: Final = 1.0
#: The larger, the fewer bytes are compacted: a fifth fewer than with 32 MiB, of 400,000 records of
#: 1 KB. A node may hold two such buffers in memory.
_WRITE_BUFFER_BYTES: Final = 64 * 1024 * 1024
_CACHE_BYTES: Final = 64 * 1024 * 1024
_BLOOM_BITS: Final = 10
_OPEN_FILES_MAX: Final = 500

_Write = Callable[[], object]


def _open(directory: Path, **creation: bool) -> plyvel.DB:
    return plyvel.DB(
        str(directory),
        paranoid_checks=True,
        bloom_filter_bits=_BLOOM_BITS,
        write_buffer_size=_WRITE_BUFFER_BYTES,
        lru_cache_size=_CACHE_BYTES,
        max_open_files=_OPEN_FILES_MAX,
        compression=None,
        **creation,
    )


def create_database(directory: Path, first: Changes) -> None:
    """Make a new database that holds ``first``, durably.

    Raises:
        CannotStart: the directory holds a database already, or can't be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        database = _open(directory, create_if_missing=True, error_if_exists=True)
        with database.write_batch(sync=True) as batch:
            for key, value in first.items():
                batch.put(key, value)
        database.close()
    except (plyvel.Error, OSError) as error:
        msg = f"cannot create a database in {directory}: {error}"
        raise CannotStart(msg) from error


class LevelDBEngine:
    """``kvnode.ports.Engine`` over a database that ``create_database`` made.

    ``failed`` is called in the event loop when a write or an fsync failed: the node must exit.

    Raises:
        CannotStart: the database is missing, locked by another process, or does not open.
    """

    def __init__(
        self,
        directory: Path,
        loop: asyncio.AbstractEventLoop,
        *,
        fsync: str,
        failed: Callable[[BaseException], None],
    ) -> None:
        if not (directory / "CURRENT").is_file():
            msg = (
                f"no database in {directory} (its CURRENT file is missing): a node never starts "
                "empty where it held documents; restore the directory, or remove it and run "
                "'python -m kvnode init' if it is new"
            )
            raise CannotStart(msg)
        try:
            self._database = _open(directory, create_if_missing=False)
        except plyvel.Error as error:
            msg = f"LevelDB does not open {directory}: {error}"
            raise CannotStart(msg) from error
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
        self._closed = False

    def get(self, key: bytes) -> bytes | None:
        """See ``kvnode.ports.Engine``. Raises CorruptRecord when a block fails its checksum."""
        try:
            return self._get(key, verify_checksums=True)  # type: ignore[no-any-return]
        except plyvel.Error as error:
            msg = f"LevelDB cannot read a key: {error}"
            raise CorruptRecord(msg) from error

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

    def barrier(self, done: Callable[[], None], *, patient: bool = False) -> None:
        """See ``kvnode.ports.Engine``."""
        self._commit.barrier(done, patient=patient)

    def scan(self, start: bytes, stop: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """See ``kvnode.ports.Engine``. Raises CorruptRecord when a block fails its checksum."""
        pairs: list[tuple[bytes, bytes]] = []
        try:
            with closing(self._database.raw_iterator(verify_checksums=True)) as found:
                found.seek(start)
                while len(pairs) < limit and found.valid():
                    pair = found.item()
                    if pair[0] >= stop:
                        break
                    pairs.append(pair)
                    found.next()
        except plyvel.Error as error:
            msg = f"LevelDB cannot scan {start.hex()}..{stop.hex()}: {error}"
            raise CorruptRecord(msg) from error
        return pairs

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
                    self._loop.call_soon_threadsafe(self._commit.finished, error)
                unsynced = False
                continue
            if item is None:
                return
            write, sync = item
            error = _outcome(write)
            unsynced = self._fsync == "interval" and not sync
            self._loop.call_soon_threadsafe(self._commit.finished, error)


def _outcome(write: _Write) -> BaseException | None:
    try:
        write()
    except Exception as error:  # noqa: BLE001, whatever it was, the writer must say so
        return error
    return None
