"""The engine on a file system that is full: it goes on when there is a ballast, and lies never."""

import asyncio
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from random import Random

import plyvel
import pytest

from kvnode.errors import CannotStart
from kvnode.storage.database import create_database, is_full
from kvnode.storage.leveldb import LevelDBEngine
from kvnode.storage.recovery import replace_if_damaged
from tests.contract.test_recovery import NOW_MS, OWN
from tests.support.mounts import fill, small_disk

MIB = 1024 * 1024
PATIENCE_S = 20.0


class Writer:
    """Writes until told to stop, and remembers what was confirmed."""

    def __init__(self, directory: Path, ballast: Path) -> None:
        loop = asyncio.get_running_loop()
        self.failed: asyncio.Future[BaseException] = loop.create_future()
        self.rooms_made = 0
        self.confirmed: dict[bytes, bytes] = {}
        self._ballast = ballast
        self.engine = LevelDBEngine(
            directory,
            loop,
            fsync="always",
            failed=self.failed.set_result,
            make_room=self._make_room,
        )

    def _make_room(self) -> None:
        self.rooms_made += 1
        self._ballast.unlink(missing_ok=True)

    async def write(self, count: int) -> None:
        """Put values of 10 KiB one after the other; until the engine fails, if it does."""
        for number in range(len(self.confirmed), len(self.confirmed) + count):
            key, value = b"k%05d" % number, Random(number).randbytes(10_240)
            durable = asyncio.get_running_loop().create_future()
            self.engine.put(key, value)
            self.engine.barrier(lambda durable=durable: durable.set_result(None))  # type: ignore[misc]
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.wait([durable, self.failed], return_when=asyncio.FIRST_COMPLETED)
            if self.failed.done():
                return
            self.confirmed[key] = value

    def check(self) -> None:
        """Everything that was confirmed is there."""
        assert {key: self.engine.get(key) for key in self.confirmed} == self.confirmed


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """An empty file system of 12 MiB."""
    with small_disk(tmp_path, 12 * MIB):
        yield tmp_path


async def test_a_full_disk_with_a_ballast_costs_nothing_but_a_moment(disk: Path) -> None:
    """Deletes are written from the ballast, and all that was confirmed before is still there."""
    directory, ballast = disk / "a1", disk / "ballast"
    create_database(directory, {})
    ballast.write_bytes(bytes(6 * MIB))
    writer = Writer(directory, ballast)
    await writer.write(200)
    fill(disk / "others")
    await writer.write(100)
    assert not writer.failed.done()
    assert writer.rooms_made == 1
    assert len(writer.confirmed) == 300
    writer.check()
    await writer.engine.close()
    again = Writer(directory, ballast)
    again.confirmed = writer.confirmed
    again.check()
    await again.engine.close()


async def test_a_full_disk_without_a_ballast_ends_the_node_and_loses_nothing(disk: Path) -> None:
    """The next starts are refused, not taken for damage, until somebody makes room."""
    directory = disk / "a1"
    create_database(directory, {})
    writer = Writer(directory, disk / "ballast")
    await writer.write(200)
    fill(disk / "others")
    await writer.write(1000)
    assert isinstance(writer.failed.result(), CannotStart)
    assert "No space left on device" in str(writer.failed.result())
    await writer.engine.close()
    with pytest.raises(CannotStart, match="No space left on device"):
        replace_if_damaged(directory, OWN, NOW_MS)
    (disk / "others").unlink()
    assert replace_if_damaged(directory, OWN, NOW_MS) is None
    again = Writer(directory, disk / "ballast")
    again.confirmed = writer.confirmed
    again.check()
    await again.engine.close()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_want_of_space_is_recognised_whoever_sets_the_limit(number: int) -> None:
    """A quota ends as a full disk does: with room for deletions, not with the node."""
    assert is_full(plyvel.IOError(f"IO error: /a/000003.log: {os.strerror(number)}".encode()))
    assert not is_full(
        plyvel.IOError(f"IO error: /a/000003.log: {os.strerror(errno.EIO)}".encode())
    )
