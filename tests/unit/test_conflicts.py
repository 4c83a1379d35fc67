"""Rows of keys that had two bodies: each pair once, the newest kept, over any number of starts."""

from typing import Final

from hypothesis import given
from hypothesis import strategies as st

from cluster.ids import uuid7
from kvnode.conflicts import Conflicts
from kvnode.record import Create
from kvnode.storage.keys import CONFLICT_PREFIX
from kvnode.storage.memory import MemoryDisk, MemoryEngine
from kvnode.storage.ranges import all_with
from tests.support.handcranked import HandCrankedLoop
from tests.unit.test_outbox import Wall, _disk_failed

ROWS_MAX: Final = 3
IDS: Final = [uuid7(number, bytes(10)) for number in range(3)]
RESTART: Final = -1


def body(number: int) -> Create:
    """The earlier ones are kept."""
    return Create(b"%d" % number, number, 0, bytes(32), bytes([number]) * 16)


steps = st.lists(
    st.just((RESTART, 0)) | st.tuples(st.integers(0, len(IDS) - 1), st.integers(1, 3)), max_size=30
)


@given(steps)
def test_the_newest_pairs_are_kept_once_each(taken: list[tuple[int, int]]) -> None:
    """Against a list: on the disk, in memory, and in what is told."""
    disk, wall = MemoryDisk(), Wall()
    model: list[tuple[bytes, int]] = []

    def start() -> tuple[HandCrankedLoop, MemoryEngine, Conflicts]:
        loop = HandCrankedLoop()
        engine = MemoryEngine(disk, loop.as_loop, failed=_disk_failed)
        conflicts = Conflicts(engine, wall, ROWS_MAX)
        conflicts.restore()
        return loop, engine, conflicts

    loop, engine, conflicts = start()
    for which, lost in taken:
        if which == RESTART:
            loop, engine, conflicts = start()
            continue
        pair = (bytes(IDS[which]), lost)
        met = conflicts.meet(IDS[which], body(0), body(lost))
        loop.run_all()
        assert (met is None) == (pair in model)
        model = model if pair in model else [*model, pair][-ROWS_MAX:]

        held = [(one.document_id, one.lost_created_at_ms) for one in conflicts.newest(9)]
        assert held == model[::-1]
        assert len(conflicts) == len(list(all_with(engine, CONFLICT_PREFIX))) == len(model)
        assert conflicts.newest(1) == conflicts.newest(9)[:1]
