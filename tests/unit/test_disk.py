"""The ballast: given back while there is need, taken again when there is room, never in between."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvnode.errors import CannotStart
from kvnode.storage.disk import BALLAST_NAME, DiskGuard

UNIT = 4096


class SmallDisk(DiskGuard):
    """A guard whose file system has a size, and other users; the ballast is a real file."""

    def __init__(
        self, directory: Path, capacity_bytes: int, *, ballast_bytes: int, low_bytes: int
    ) -> None:
        super().__init__(directory, ballast_bytes=ballast_bytes, low_bytes=low_bytes)
        self.others_bytes = 0
        self._capacity_bytes = capacity_bytes
        self._path = directory / BALLAST_NAME

    @property
    def ballast_held_bytes(self) -> int:
        """As the file system sees it."""
        return self._path.stat().st_size if self._path.exists() else 0

    def _measure(self) -> int:
        return max(0, self._capacity_bytes - self.others_bytes - self.ballast_held_bytes)


units = st.integers(0, 12).map(lambda count: count * UNIT)


@given(ballast=units, low=units, usage=st.lists(units, min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_the_rules_hold_however_the_disk_fills_and_empties(
    ballast: int, low: int, usage: list[int]
) -> None:
    """After every check, for any sizes and any history."""
    with tempfile.TemporaryDirectory() as directory:
        disk = SmallDisk(Path(directory), 12 * UNIT, ballast_bytes=ballast, low_bytes=low)
        for disk.others_bytes in usage:
            held_before, was_low = disk.ballast_held_bytes, disk.low
            disk.check()
            held_bytes = disk.ballast_held_bytes
            assert held_bytes in (0, ballast)
            assert disk.free_bytes == disk._measure()
            enough = 1.25 * low if was_low else low
            assert disk.low == (disk.free_bytes < enough), "rule 1"
            if held_bytes:
                assert disk.free_bytes >= ballast // 2, "rule 2"
            if held_bytes > held_before:
                assert disk.free_bytes > low, "rule 3"


@given(ballast=units, low=units, others=units)
@settings(max_examples=60, deadline=None)
def test_a_disk_that_does_not_change_is_left_alone_after_one_check(
    ballast: int, low: int, others: int
) -> None:
    """Regression: with a low mark below half of the ballast it was taken and released in turns."""
    with tempfile.TemporaryDirectory() as directory:
        disk = SmallDisk(Path(directory), 12 * UNIT, ballast_bytes=ballast, low_bytes=low)
        disk.others_bytes = others
        disk.check()
        held_bytes, was_low = disk.ballast_held_bytes, disk.low
        for _ in range(3):
            disk.check()
            assert (disk.ballast_held_bytes, disk.low) == (held_bytes, was_low)


def test_creates_are_not_refused_and_taken_in_turns_while_space_hovers_at_the_mark(
    tmp_path: Path,
) -> None:
    """Clients would see every second create fail, and the log would fill the rest of the disk."""
    disk = SmallDisk(tmp_path, 40 * UNIT, ballast_bytes=0, low_bytes=8 * UNIT)
    seen = []
    for free in (9, 7, 8, 9, 7, 9, 10, 9, 8, 9):
        disk.others_bytes = (40 - free) * UNIT
        disk.check()
        seen.append(disk.low)
    assert seen == [False, True, True, True, True, True, False, False, False, False]


def test_the_ballast_is_given_back_at_once_when_a_write_has_met_a_full_disk(
    tmp_path: Path,
) -> None:
    """The next check may be a second away; and there may be none left to give."""
    disk = SmallDisk(tmp_path, 12 * UNIT, ballast_bytes=2 * UNIT, low_bytes=4 * UNIT)
    disk.check()
    disk.release()
    disk.release()
    assert disk.ballast_held_bytes == 0


def test_the_ballast_gives_a_full_disk_room_for_deletes(tmp_path: Path) -> None:
    """What it is there for: others fill the disk to the last byte, and tombstones still fit."""
    disk = SmallDisk(tmp_path, 12 * UNIT, ballast_bytes=2 * UNIT, low_bytes=4 * UNIT)
    disk.check()
    assert disk.ballast_held_bytes == 2 * UNIT
    disk.others_bytes = 10 * UNIT
    disk.check()
    assert disk.free_bytes == 2 * UNIT
    assert disk.low, "creates are refused, or they would eat the room"
    disk.others_bytes = 0
    disk.check()
    assert (disk.ballast_held_bytes, disk.low) == (2 * UNIT, False)


def test_the_ballast_is_allocated_and_not_only_as_long(tmp_path: Path) -> None:
    """A sparse file would give back nothing."""
    guard = DiskGuard(tmp_path, ballast_bytes=64 * UNIT, low_bytes=0)
    guard.check()
    assert (tmp_path / BALLAST_NAME).stat().st_blocks * 512 >= 64 * UNIT
    assert guard.free_bytes > 0


def test_no_ballast_is_made_when_none_is_wanted(tmp_path: Path) -> None:
    """An empty file would look like one."""
    DiskGuard(tmp_path, ballast_bytes=0, low_bytes=0).check()
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_gone_is_one_sentence(tmp_path: Path) -> None:
    """Somebody unmounted the disk: the node must not go on as if all were well."""
    with pytest.raises(CannotStart, match="cannot keep watch over the disk"):
        DiskGuard(tmp_path / "gone", ballast_bytes=UNIT, low_bytes=0).check()
