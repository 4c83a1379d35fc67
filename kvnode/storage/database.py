"""A LevelDB database as files: made, opened, and told apart from one that is damaged.

LevelDB's defaults, as plyvel gives them, lose or corrupt data silently; each of these was measured:

- ``paranoid_checks`` off: a flipped bit in the log opens with 1,828 of 2,000 records visible.
- ``verify_checksums`` off: a flipped bit in a table returned a wrong value and no error.
- ``create_if_missing`` on: a missing CURRENT file EMPTIES the database. It is on at creation.
- plyvel's plain iterator takes a damaged last block for the end; its raw one reports it.

Blocks are not compressed: Snappy took a seventh of the CPU time of bulk creates, to save disk for
texts that are small already.

What LevelDB itself overlooks is found before it is opened (``logcheck``).
"""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import plyvel

from kvnode.errors import CannotStart, DatabaseDamaged
from kvnode.storage.commit import Changes
from kvnode.storage.logcheck import overlooked_damage

#: The larger, the fewer bytes are compacted: a fifth fewer than with 32 MiB, of 400,000 records of
#: 1 KB. A node may hold two such buffers in memory.
_WRITE_BUFFER_BYTES: Final = 64 * 1024 * 1024
_CACHE_BYTES: Final = 64 * 1024 * 1024
_BLOOM_BITS: Final = 10
_OPEN_FILES_MAX: Final = 500

#: What no database is without; any of them says that there was one.
_DATABASE_FILES: Final = ("CURRENT", "MANIFEST-*", "*.log", "*.ldb")


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


def open_database(directory: Path) -> plyvel.DB:
    """A database that was made by ``create_database``, and is whole as far as can be told.

    Raises:
        DatabaseDamaged: its files are not what was written.
        CannotStart: there never was one, or it can't be opened for a reason that may pass: another
            process has it, the disk is full, the files can't be read.
    """
    if not _has_database(directory):
        msg = (
            f"no database in {directory} (its CURRENT file is missing): a node never starts "
            "empty where it held documents; restore the directory, or remove it and run "
            "'python -m kvnode.storage' if it is new"
        )
        raise CannotStart(msg)
    try:
        if not (directory / "CURRENT").is_file():
            damage: str | None = "its CURRENT file is missing"
        else:
            with locked(directory):
                damage = overlooked_damage(directory)
        if damage is None:
            return _open(directory, create_if_missing=False)
    except (plyvel.Error, OSError) as error:
        msg = f"LevelDB does not open {directory}: {text_of(error)}"
        raise (DatabaseDamaged if is_damage(error) else CannotStart)(msg) from error
    msg = f"the database in {directory} is damaged: {damage}"
    raise DatabaseDamaged(msg)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keep other processes from opening a database that this one does not have open.

    Raises OSError when one has it. The lock is LevelDB's own: on one file, a process's locks end
    when it closes any of its handles, so nothing of this process may have the database open.
    """
    with (directory / "LOCK").open("ab") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            msg = f"another process has the lock {lock.name}"
            raise OSError(msg) from error
        yield


def create_database(directory: Path, first: Changes) -> None:
    """Make a new database that holds ``first``, durably.

    Raises:
        CannotStart: the directory holds a database already, whole or not, or can't be written.
    """
    if _has_database(directory):
        msg = f"cannot create a database in {directory}: it holds one already"
        raise CannotStart(msg)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        database = _open(directory, create_if_missing=True, error_if_exists=True)
        with database.write_batch(sync=True) as batch:
            for key, value in first.items():
                batch.put(key, value)
        database.close()
        # Opened once more, what the log holds is in a table, which can't be taken for a torn log.
        _open(directory, create_if_missing=False).close()
    except (plyvel.Error, OSError) as error:
        msg = f"cannot create a database in {directory}: {text_of(error)}"
        raise CannotStart(msg) from error


def check_key(directory: Path, key: bytes) -> None:
    """Open and close a database, and read a key that it can't do without.

    Raises:
        DatabaseDamaged, CannotStart: as ``open_database``, also when it is the key that can't be
            read.
    """
    with closing(open_database(directory)) as database:
        try:
            database.get(key, verify_checksums=True)
        except plyvel.Error as error:
            msg = f"LevelDB cannot read {directory}: {text_of(error)}"
            raise (DatabaseDamaged if is_damage(error) else CannotStart)(msg) from error


def is_damage(error: BaseException) -> bool:
    """Whether LevelDB refuses because of what is in the files; for a write, a compaction met it.

    A damaged place in a table may lead behind its end, which is no valid argument.
    """
    return isinstance(error, plyvel.CorruptionError) or _says(error, errno.EINVAL)


def is_full(error: BaseException) -> bool:
    """Whether a write failed for want of space, of the disk or of a quota."""
    return _says(error, errno.ENOSPC) or _says(error, errno.EDQUOT)


def _has_database(directory: Path) -> bool:
    return any(next(directory.glob(files), None) for files in _DATABASE_FILES)


def _says(error: BaseException, number: int) -> bool:
    return isinstance(error, plyvel.IOError) and text_of(error).endswith(os.strerror(number))


def text_of(error: BaseException) -> str:
    """An error's sentence; those of plyvel hold bytes."""
    said = error.args[0] if error.args else error
    return said.decode(errors="replace") if isinstance(said, bytes) else str(error)
