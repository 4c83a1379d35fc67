"""The outbox against a model: nothing is forgotten unsaid, and no watermark is told too early."""

from typing import Final

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cluster.ids import DocumentId, partition_of
from kvnode.outbox import Entry, Outbox
from kvnode.standing import Standing
from kvnode.storage.keys import OUTBOX_PREFIX
from kvnode.storage.memory import MemoryDisk, MemoryEngine
from tests.support.handcranked import HandCrankedLoop

REGIONS: Final = ("b", "c")
PARTITIONS: Final = 4
BYTES_MAX: Final = 400

regions = st.sampled_from(REGIONS)


def _disk_failed(error: BaseException) -> None:
    raise AssertionError("a disk in memory does not fail") from error


class Wall:
    """A wall clock that jumps."""

    def __init__(self) -> None:
        self.now_ms = 1_000_000

    def wall_ms(self) -> int:
        """See ``kvnode.ports.Clock``."""
        return self.now_ms

    def monotonic_s(self) -> float:
        """See ``kvnode.ports.Clock``."""
        raise AssertionError("what is stored has wall time")


class OutboxModel(RuleBasedStateMachine):
    """Writes, acknowledgements, overflows, deaths, operators, jumps of the clock: in any order."""

    @initialize()
    def create(self) -> None:
        """A node that has never run."""
        self.disk, self.wall = MemoryDisk(), Wall()
        self.count = 0
        #: What a region may lack: by region, of each document when it was logged.
        self.lacks: dict[str, dict[bytes, int]] = {region: {} for region in REGIONS}
        #: Logged, and not durable yet.
        self.gathered: dict[bytes, int] = {}
        self.told = dict.fromkeys(REGIONS, 0)
        self.start(is_new=True)

    def start(self, *, is_new: bool = False) -> None:
        """Whatever was not durable is lost."""
        self.loop = HandCrankedLoop()
        self.engine = MemoryEngine(self.disk, self.loop.as_loop, failed=_disk_failed)
        self.standing = Standing(self.engine, "a", REGIONS)
        self.standing.restore()
        self.outbox = Outbox(self.engine, self.wall, REGIONS, PARTITIONS, BYTES_MAX)
        self.outbox.restore(is_new=is_new, gone=self.standing.gone)
        self.gathered.clear()
        self.commit()

    @rule()
    def commit(self) -> None:
        """All that was put is durable."""
        self.loop.run_all()
        for lacks in self.lacks.values():
            lacks.update(self.gathered)
        self.gathered.clear()

    @rule(tail=st.integers(0, 65_535), record=st.none() | st.binary(min_size=1, max_size=90))
    def log(self, tail: int, record: bytes | None) -> None:
        """A write is coordinated."""
        self.count += 1
        document_id = self.count.to_bytes(14, "big") + tail.to_bytes(2, "big")
        if not self.outbox.regions:  # as the coordinator does
            for lacks in self.lacks.values():
                lacks[document_id] = self.outbox._now_ms()
            return
        self.outbox.append(document_id, record)
        self.gathered[document_id] = self.outbox._now_ms()

    @rule(region=regions, by=st.integers(1, 2))
    def speak(self, region: str, by: int) -> None:
        """An operator says that a region is gone, or back, or both one after the other."""
        self.standing.take({region: self.standing.word(region) + by})
        if self.standing.is_gone(region):
            self.outbox.leave_out(region)
        else:
            self.outbox.take_back(region)
            assert len(self.outbox.owed(region)) == PARTITIONS

    @rule(region=regions, most=st.integers(1, 5))
    def acknowledge(self, region: str, most: int) -> None:
        """A region takes a batch: whatever is readable behind its cursor, in order."""
        for entry in self.outbox.read(self.outbox.cursors[region].sequence, 10_000)[:most]:
            self.lacks[region].pop(entry.document_id, None)
            self.outbox.acknowledge(region, entry)

    @rule(region=regions)
    def pay(self, region: str) -> None:
        """Owners have compared a partition that is owed."""
        for debt in self.outbox.owed(region)[:1]:
            for document_id in list(self.lacks[region]):
                if partition_of(document_id, PARTITIONS) == debt.partition:
                    del self.lacks[region][document_id]
            self.outbox.repaid(debt)

    @precondition(lambda self: self.outbox.overflowing)
    @rule()
    def shed(self) -> None:
        """The oldest entries are given up."""
        if entries := self.outbox.oldest(200):
            self.outbox.drop(entries)

    @rule()
    def lose_the_log(self) -> None:
        """It can't be read any more."""
        self.commit()
        self.outbox.lose_all()

    @rule(by_ms=st.integers(-3000, 3000))
    def jump(self, by_ms: int) -> None:
        """The wall clock is set."""
        self.wall.now_ms += by_ms

    @rule()
    def die(self) -> None:
        """And start again on what is durable."""
        self.start()

    @rule(region=regions)
    def tell(self, region: str) -> None:
        """A watermark is told once it is durable, and is true then."""
        if region not in self.outbox.regions:
            return
        told_ms = self.outbox.tell(region)
        assert told_ms >= self.told[region]
        self.commit()
        self.told[region] = told_ms

    @invariant()
    def nothing_lacks_that_was_told_to_be_there(self) -> None:
        """Neither now nor later: no write is logged for a time that was told."""
        for region, lacks in self.lacks.items():
            times = [*lacks.values(), *self.gathered.values()]
            assert all(time_ms >= self.told[region] for time_ms in times)
            if region in self.outbox.regions:
                watermark_ms = self.outbox.watermark_ms(region)
                assert all(time_ms >= watermark_ms for time_ms in lacks.values())

    @invariant()
    def what_lacks_is_in_the_log_or_owed(self) -> None:
        """Dropped, lost or waiting: it will be brought."""
        for region in self.outbox.regions:
            lacks = self.lacks[region]
            behind = self.outbox.read(self.outbox.cursors[region].sequence, 1 << 20)
            waiting = {entry.document_id for entry in behind}
            owed = {debt.partition: debt.since_ms for debt in self.outbox.owed(region)}
            for document_id, time_ms in lacks.items():
                partition = partition_of(document_id, PARTITIONS)
                assert document_id in waiting or owed[partition] <= time_ms

    @invariant()
    def it_knows_its_size(self) -> None:
        """Also after a restart, which does not read it all."""
        if not self.engine.settled():
            return
        rows = {
            key: len(value) for key, value in self.disk.values.items() if key[:1] == OUTBOX_PREFIX
        }
        assert self.outbox.held_bytes == sum(len(key) + size for key, size in rows.items())
        assert len(rows) == max(map(self.outbox.waiting, self.outbox.regions), default=0)


TestOutbox = OutboxModel.TestCase
TestOutbox.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_a_region_that_is_new_is_owed_everything() -> None:
    """The documents that are there already were never logged for it."""
    disk, loop, wall = MemoryDisk(), HandCrankedLoop(), Wall()
    engine = MemoryEngine(disk, loop.as_loop, failed=_disk_failed)
    before = Outbox(engine, wall, ["b"], PARTITIONS, BYTES_MAX)
    before.restore(is_new=True)
    before.append(bytes(16), None)
    loop.run_all()

    after = Outbox(engine, wall, REGIONS, PARTITIONS, BYTES_MAX)
    after.restore(is_new=False)

    assert (len(after.owed("b")), len(after.owed("c"))) == (0, PARTITIONS)
    assert (after.waiting("b"), after.watermark_ms("c")) == (1, 0)


def test_without_other_regions_nothing_is_ever_written() -> None:
    """A cluster of one region pays nothing for those that others have."""
    disk, loop = MemoryDisk(), HandCrankedLoop()
    outbox = Outbox(MemoryEngine(disk, loop.as_loop, failed=_disk_failed), Wall(), [], 4, 400)
    outbox.restore(is_new=False)
    loop.run_all()

    assert disk.values == {}
    assert not outbox.overflowing


def test_an_entry_that_was_dropped_twice_is_owed_from_the_first_time_on() -> None:
    """Debts of one partition are one debt, of the oldest write."""
    disk, loop, wall = MemoryDisk(), HandCrankedLoop(), Wall()
    outbox = Outbox(MemoryEngine(disk, loop.as_loop, failed=_disk_failed), wall, ["b"], 4, 400)
    outbox.restore(is_new=True)
    entries = [Entry(n, 41 * n, 5000 - n, DocumentId(bytes(16)), None) for n in (1, 2)]

    for entry in entries:
        outbox.drop([entry])

    assert [debt.since_ms for debt in outbox.owed("b")] == [4998]
