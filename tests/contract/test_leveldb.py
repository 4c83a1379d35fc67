"""Each safeguard of the LevelDB engine, against the damage that it is there for, on real files."""

import asyncio
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from random import Random
from typing import Any

import plyvel
import pytest

from kvnode.errors import CannotStart, CorruptRecord, DatabaseDamaged
from kvnode.storage import leveldb
from kvnode.storage.database import create_database
from kvnode.storage.leveldb import LevelDBEngine
from tests.contract.engines import PATIENCE_S

#: Too random to be compressed, so that a flipped bit is a flipped bit of a value.
RECORDS = {b"r%03d" % number: Random(number).randbytes(100) for number in range(40)}
FIRST = {b"i": b"identity"}


def open_engine(
    directory: Path,
    fsync: str = "always",
    failed: Callable[[BaseException], None] | None = None,
) -> LevelDBEngine:
    """An engine on the running loop; a failure that no test waits for ends the test."""
    loop = asyncio.get_running_loop()
    return LevelDBEngine(directory, loop, fsync=fsync, failed=failed or _fail)


def _fail(error: BaseException) -> None:
    pytest.fail(f"the engine failed: {error}")


async def durable(engine: LevelDBEngine) -> None:
    """Wait for a barrier."""
    done = asyncio.Event()
    engine.barrier(done.set)
    async with asyncio.timeout(PATIENCE_S):
        await done.wait()


@pytest.fixture
async def written(tmp_path: Path) -> Path:
    """A closed database whose records are in its log, each in a batch of its own."""
    directory = tmp_path / "written"
    create_database(directory, dict(FIRST))
    engine = open_engine(directory)
    for key, value in RECORDS.items():
        engine.put(key, value)
        await durable(engine)
    await engine.close()
    return directory


@pytest.fixture
async def compacted(written: Path) -> Path:
    """The same records, in tables: opening writes the log's to one."""
    await open_engine(written).close()
    return written


def flipped(path: Path, bit: int) -> None:
    """Damage one bit of a file."""
    content = bytearray(path.read_bytes())
    content[bit >> 3] ^= 1 << (bit & 7)
    path.write_bytes(content)


def copy_of(directory: Path) -> Path:
    """A copy to be damaged; the one before it is gone."""
    copy = directory.parent / "damaged"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(directory, copy)
    return copy


def content_of(directory: Path) -> dict[str, bytes]:
    """Every file, but for LevelDB's own diary and lock."""
    return {
        path.name: path.read_bytes()
        for path in directory.iterdir()
        if not path.name.startswith("LO")
    }


def largest(directory: Path, pattern: str) -> Path:
    """The file that holds the records."""
    return max(directory.glob(pattern), key=lambda path: path.stat().st_size)


async def test_a_flipped_bit_in_the_log_keeps_the_database_shut(written: Path) -> None:
    """paranoid_checks: without it everything behind the bit is missing, and nobody says so."""
    log = largest(written, "*.log").name
    size_bits = 8 * (written / log).stat().st_size
    payload_bit = 8 * 60  # of the first record, behind its header and key
    for bit in range(payload_bit, size_bits, size_bits // 12):
        damaged = copy_of(written)
        flipped(damaged / log, bit)
        with pytest.raises(CannotStart, match="LevelDB does not open"):
            open_engine(damaged)


async def test_a_damaged_length_in_the_log_keeps_the_database_shut(written: Path) -> None:
    """LevelDB takes a length that leads past the end for a torn write, and cuts the log off."""
    log = largest(written, "*.log").name
    content = (written / log).read_bytes()
    for key in b"r000", b"r020", b"r039":
        header = content.index(RECORDS[key]) - 7 - 12 - 1 - 1 - len(key) - 1
        damaged = copy_of(written)
        flipped(damaged / log, 8 * (header + 5) + 7)
        with pytest.raises(DatabaseDamaged, match=f"length of a record in {log}"):
            open_engine(damaged)


async def test_a_missing_log_keeps_the_database_shut(written: Path) -> None:
    """LevelDB does without it, and without all that was in it."""
    largest(written, "*.log").unlink()
    with pytest.raises(DatabaseDamaged, match="log is missing"):
        open_engine(written)


async def test_a_torn_log_opens_with_all_that_was_whole(written: Path) -> None:
    """The power went during a write that nobody was told of: that is no damage."""
    log = largest(written, "*.log").name
    content = (written / log).read_bytes()
    start = content.index(RECORDS[b"r039"])
    for size_bytes in (start - 25, start - 20, start - 1, start + 50, len(content) - 1):
        torn = copy_of(written)
        (torn / log).write_bytes(content[:size_bytes])
        engine = open_engine(torn)
        assert engine.scan(b"r", b"s", 1000) == list(RECORDS.items())[:-1]
        await engine.close()


async def test_a_flipped_bit_in_a_table_is_an_error_and_never_a_wrong_value(
    compacted: Path,
) -> None:
    """verify_checksums: without it the value comes back with the bit flipped."""
    table = largest(compacted, "*.ldb").name
    size_bits = 8 * (compacted / table).stat().st_size
    noticed = 0
    for bit in range(3, size_bits, size_bits // 40):
        damaged = copy_of(compacted)
        flipped(damaged / table, bit)
        try:
            engine = open_engine(damaged)
        except CannotStart:
            noticed += 1
            continue
        for key, value in RECORDS.items():
            try:
                assert engine.get(key) == value
            except CorruptRecord:
                noticed += 1
        try:
            assert engine.scan(b"r", b"s", 1000) == list(RECORDS.items())
        except CorruptRecord:
            noticed += 1
        await engine.close()
    assert noticed > 30


async def test_a_missing_current_file_keeps_the_database_shut_and_whole(compacted: Path) -> None:
    """create_if_missing: with it LevelDB starts empty and deletes every table."""
    (compacted / "CURRENT").unlink()
    before = content_of(compacted)
    with pytest.raises(CannotStart, match="CURRENT file is missing"):
        open_engine(compacted)
    assert content_of(compacted) == before


async def test_a_missing_table_keeps_the_database_shut(compacted: Path) -> None:
    """Half a database is none: the rest of the documents are on the other nodes."""
    largest(compacted, "*.ldb").unlink()
    with pytest.raises(CannotStart):
        open_engine(compacted)


async def test_a_directory_without_a_database_is_refused_and_left_empty(tmp_path: Path) -> None:
    """A wrong path, or a disk that is not mounted: an empty node would say "absent"."""
    for directory in (tmp_path, tmp_path / "missing"):
        with pytest.raises(CannotStart, match=r"'python -m kvnode\.storage'"):
            open_engine(directory)
    assert content_of(tmp_path) == {}


async def test_creating_never_touches_a_database_that_is_there(compacted: Path) -> None:
    """``init`` typed once more, on the wrong directory."""
    before = content_of(compacted)
    with pytest.raises(CannotStart, match="cannot create a database"):
        create_database(compacted, {b"i": b"another"})
    assert content_of(compacted) == before
    engine = open_engine(compacted)
    assert engine.get(b"i") == FIRST[b"i"]
    await engine.close()


async def test_creating_never_touches_what_is_left_of_a_database(compacted: Path) -> None:
    """LevelDB would delete every table that its new, empty list does not name."""
    (compacted / "CURRENT").unlink()
    before = content_of(compacted)
    with pytest.raises(CannotStart, match="holds one already"):
        create_database(compacted, {b"i": b"another"})
    assert content_of(compacted) == before


async def test_creating_where_nothing_can_be_is_one_sentence(tmp_path: Path) -> None:
    """A file is in the way."""
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotStart, match="cannot create a database"):
        create_database(tmp_path / "file" / "database", {})


async def test_a_second_handle_is_refused(compacted: Path) -> None:
    """Two writers on one disk would each undo what the other has confirmed."""
    engine = open_engine(compacted)
    with pytest.raises(CannotStart, match="lock"):
        open_engine(compacted)
    await engine.close()
    await open_engine(compacted).close()


async def test_a_second_process_is_refused(compacted: Path) -> None:
    """The node was started twice."""
    engine = open_engine(compacted)
    program = (
        "import asyncio, sys, pathlib\n"
        "from kvnode.errors import CannotStart\n"
        "from kvnode.storage.leveldb import LevelDBEngine\n"
        "async def main():\n"
        "    loop = asyncio.get_running_loop()\n"
        "    LevelDBEngine(pathlib.Path(sys.argv[1]), loop, fsync='always', failed=print)\n"
        "try:\n"
        "    asyncio.run(main())\n"
        "except CannotStart as error:\n"
        "    sys.exit(f'refused: {error}')\n"
    )
    other = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", program, str(compacted)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert other.returncode == 1
    assert other.stderr.startswith("refused: LevelDB does not open")
    await engine.close()


class Disk:
    """Stands in the engine's place for the database: counts batches, and fails when told."""

    def __init__(self, engine: LevelDBEngine) -> None:
        self._database = engine._database
        self.error: Exception | None = None
        #: Of each batch that was tried.
        self.synced: list[bool] = []
        self.has_synced = asyncio.Event()
        self.loop = asyncio.get_running_loop()
        engine._database = self

    def write_batch(self, *, sync: bool) -> "Disk.Batch":
        """See ``plyvel.DB``."""
        return Disk.Batch(self, self._database.write_batch(sync=sync), sync=sync)

    def __getattr__(self, name: str) -> Any:
        """Everything else is the database's."""
        return getattr(self._database, name)

    class Batch:
        """One ``plyvel.WriteBatch``."""

        def __init__(self, disk: "Disk", batch: Any, *, sync: bool) -> None:
            self._disk = disk
            self._batch = batch
            self._sync = sync
            self.put, self.delete = batch.put, batch.delete

        def write(self) -> None:
            """Fail, or write."""
            self._disk.synced.append(self._sync)
            if self._sync:
                self._disk.loop.call_soon_threadsafe(self._disk.has_synced.set)
            if self._disk.error is not None:
                raise self._disk.error
            self._batch.write()


@pytest.fixture
async def engine(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[LevelDBEngine]:
    """An empty database with the fsync policy that the test asks for."""
    create_database(tmp_path / "database", dict(FIRST))
    opened = open_engine(tmp_path / "database", fsync=request.param)
    yield opened
    await opened.close()


@pytest.mark.parametrize("kind", [plyvel.IOError, OSError, RuntimeError])
async def test_a_failed_write_is_reported_once_and_confirms_nothing(
    tmp_path: Path, kind: type[Exception]
) -> None:
    """The node must end: what is durable is not known any more, and a retry would lie."""
    error = kind("injected")
    create_database(tmp_path / "database", dict(FIRST))
    failures: list[BaseException] = []
    reported = asyncio.Event()

    def failed(error: BaseException) -> None:
        failures.append(error)
        reported.set()

    engine = open_engine(tmp_path / "database", failed=failed)
    disk = Disk(engine)
    disk.error = error
    fired: list[bytes] = []
    for key in (b"a", b"b"):
        engine.put(key, b"v")
        engine.barrier(lambda key=key: fired.append(key))  # type: ignore[misc]
        await asyncio.sleep(0)
    async with asyncio.timeout(PATIENCE_S):
        await reported.wait()
    disk.error = None
    engine.put(b"c", b"v")
    engine.barrier(lambda: fired.append(b"c"))
    async with asyncio.timeout(PATIENCE_S):
        await engine.close()
    assert failures == [error]
    assert fired == []
    assert len(disk.synced) == 1, "nothing is written after it"


@pytest.mark.parametrize("engine", ["always"], indirect=True)
async def test_with_fsync_always_every_batch_is_synced(engine: LevelDBEngine) -> None:
    """An acknowledgement survives a power cut."""
    disk = Disk(engine)
    for key in (b"a", b"b"):
        engine.put(key, b"v")
        await durable(engine)
    assert disk.synced == [True, True]


@pytest.mark.parametrize("engine", ["os"], indirect=True)
async def test_with_fsync_os_no_batch_is_synced(engine: LevelDBEngine) -> None:
    """The operator chose so: a killed process loses nothing, a power cut may."""
    disk = Disk(engine)
    for key in (b"a", b"b"):
        engine.put(key, b"v")
        await durable(engine)
    assert disk.synced == [False, False]


@pytest.mark.parametrize("engine", ["interval"], indirect=True)
async def test_with_fsync_interval_an_idle_engine_syncs_what_it_owes(
    engine: LevelDBEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut loses one interval, also when no further write comes to carry the sync."""
    monkeypatch.setattr(leveldb, "FSYNC_INTERVAL_S", 0.2)
    disk = Disk(engine)
    engine.put(b"a", b"v")
    await durable(engine)
    async with asyncio.timeout(PATIENCE_S):
        await disk.has_synced.wait()
    # On a machine that took longer than the interval to come here, the write itself was due.
    assert disk.synced in ([False, True], [True])
