"""A damaged database is put aside. An empty one takes its place, to be filled from the peers.

Rules
-----
1. Only damage does that: a checksum that fails, a file that is missing or cut off. A database that
   another process has open, that belongs to another node, or whose disk is full or unreadable is
   refused as it is; and so is a directory that never held one.
2. Nothing is deleted. The files move to ``damaged-<UTC time>`` within the directory, which may be
   the root of a file system of its own.
3. The new database says in a row that it is a replacement (``Replaced``): a node with an empty
   database would take what it lacks for deleted, or for never created.
4. The mark is written first and removed last, so a start that was interrupted is done again.
"""

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from kvnode.errors import CannotStart, DatabaseDamaged
from kvnode.storage.database import check_key, create_database, locked
from kvnode.storage.disk import BALLAST_NAME
from kvnode.storage.identity import Identity, Replaced
from kvnode.storage.keys import IDENTITY_KEY, REPLACED_KEY

#: A file that holds why the database beside it is not to be opened again.
MARK_NAME: Final = "DAMAGED"
ASIDE_PREFIX: Final = "damaged-"
_STAY: Final = ("LOCK", MARK_NAME, BALLAST_NAME)


def replace_if_damaged(directory: Path, identity: Identity, now_ms: int) -> Replaced | None:
    """Look whether a node's database is whole; if it is not, put it aside and make a new one.

    Returns:
        What was done; None when the database is whole.

    Raises:
        CannotStart: rule 1, or there is no room for the new one.
    """
    try:
        reason = _damage(directory)
        return _replace(directory, identity, now_ms, reason) if reason is not None else None
    except OSError as error:
        msg = f"cannot put the damaged database in {directory} aside: {error}"
        raise CannotStart(msg) from error


def mark_damaged(directory: Path, reason: str) -> None:
    """Have the next start put the database aside. Raises OSError."""
    with (directory / MARK_NAME).open("w", encoding="utf-8") as mark:
        mark.write(reason)
        mark.flush()
        os.fsync(mark.fileno())
    _sync(directory)


def has_put_aside(directory: Path) -> bool:
    """Whether a damaged database lies in the directory already."""
    return any(directory.glob(f"{ASIDE_PREFIX}*"))


def _damage(directory: Path) -> str | None:
    mark = directory / MARK_NAME
    if mark.exists():
        return mark.read_text(encoding="utf-8", errors="replace")
    try:
        check_key(directory, IDENTITY_KEY)
    except DatabaseDamaged as error:
        return str(error)
    return None


def _replace(directory: Path, identity: Identity, now_ms: int, reason: str) -> Replaced:
    with locked(directory):
        mark_damaged(directory, reason)
        aside = _new_directory(directory, now_ms)
        for path in _database_files(directory):
            path.rename(aside / path.name)
        _sync(aside)
        _sync(directory)
        replaced = Replaced(now_ms, reason, aside.name)
        rows = {IDENTITY_KEY: identity.encode(), REPLACED_KEY: replaced.encode()}
        create_database(directory, dict(rows))
        (directory / MARK_NAME).unlink()
        _sync(directory)
    return replaced


def _new_directory(directory: Path, now_ms: int) -> Path:
    name = f"{ASIDE_PREFIX}{datetime.fromtimestamp(now_ms / 1000, UTC):%Y%m%dT%H%M%SZ}"
    number = 1
    aside = directory / name
    while aside.exists():
        number += 1
        aside = directory / f"{name}-{number}"
    aside.mkdir()
    return aside


def _database_files(directory: Path) -> Iterator[Path]:
    for path in sorted(directory.iterdir()):
        if path.name not in _STAY and not path.name.startswith(ASIDE_PREFIX):
            yield path


def _sync(directory: Path) -> None:
    """Make renames in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
