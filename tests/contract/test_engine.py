"""What ``kvnode.ports.Engine`` promises, kept by the engine on disk and by its twin in memory.

The simulation runs on the twin: where the two differ, it would prove things about another system.
"""

import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from kvnode.storage.commit import (
    GATHERED_BYTES_MAX,
    PATIENT_PAUSE_S,
    PAUSE_S,
    Changes,
    GroupCommit,
)
from tests.contract.engines import Bench, LevelDBBench, MemoryBench
from tests.support.handcranked import HandCrankedLoop

ALL = b"", b"\xff"


def test_a_value_is_the_latest_at_once_and_is_read_once_it_is_durable(bench: Bench) -> None:
    """Read-merge-write builds on the first, readers see only the second."""
    bench.engine.put(b"k", b"v")
    assert (bench.engine.latest(b"k"), bench.engine.get(b"k")) == (b"v", None)
    bench.settle()
    assert (bench.engine.latest(b"k"), bench.engine.get(b"k")) == (b"v", b"v")


def test_a_delete_is_the_latest_at_once_and_is_seen_once_it_is_durable(bench: Bench) -> None:
    """Until then a crash would bring the value back, so readers still see it."""
    bench.engine.put(b"k", b"v")
    bench.settle()
    bench.engine.delete(b"k")
    assert (bench.engine.latest(b"k"), bench.engine.get(b"k")) == (None, b"v")
    bench.settle()
    assert (bench.engine.latest(b"k"), bench.engine.get(b"k")) == (None, None)


def test_deleting_what_is_not_there_is_harmless(bench: Bench) -> None:
    """A hint released twice, say."""
    bench.engine.delete(b"k")
    bench.settle()
    assert bench.engine.get(b"k") is None


@pytest.mark.parametrize("value", [b"", b"\x00", bytes(range(256)), b"x" * 300_000])
def test_values_and_keys_are_any_bytes(bench: Bench, value: bytes) -> None:
    """Zero, the empty value, and one that is larger than any block."""
    bench.engine.put(b"\x00\xff\x00", value)
    bench.settle()
    bench.reopen()
    assert bench.engine.get(b"\x00\xff\x00") == value
    assert bench.engine.scan(b"\x00", b"\x01", 9) == [(b"\x00\xff\x00", value)]


def test_the_last_change_of_a_key_in_a_batch_wins(bench: Bench) -> None:
    """Of a put and a delete as well."""
    for change in (b"1", None, b"2"):
        if change is None:
            bench.engine.delete(b"k")
        else:
            bench.engine.put(b"k", change)
    bench.engine.put(b"gone", b"x")
    bench.engine.delete(b"gone")
    bench.settle()
    assert (bench.engine.get(b"k"), bench.engine.get(b"gone")) == (b"2", None)


def test_barriers_fire_later_in_order_and_when_what_was_put_before_is_durable(
    bench: Bench,
) -> None:
    """An acknowledgement is a barrier: never within the call, never early, never overtaking."""
    fired: list[tuple[int, bytes | None]] = []

    def barrier(number: int) -> None:
        bench.engine.barrier(lambda: fired.append((number, bench.engine.get(b"%d" % number))))

    for number in range(6):
        bench.engine.put(b"%d" % number, b"v")
        barrier(number)
        assert fired == [] or fired[-1][0] < number
        if number % 2:
            bench.tick()
    bench.settle()
    assert fired == [(number, b"v") for number in range(6)]


def test_a_barrier_with_nothing_to_wait_for_fires_in_a_later_tick(bench: Bench) -> None:
    """Callers need not be ready for an answer within the call."""
    fired: list[bool] = []
    bench.engine.barrier(lambda: fired.append(True))
    assert fired == []
    bench.tick()
    bench.tick()
    assert fired == [True]


def test_what_a_barrier_puts_becomes_durable_as_well(bench: Bench) -> None:
    """Its batch starts behind the one that has just ended."""
    bench.engine.put(b"first", b"v")
    bench.engine.barrier(lambda: bench.engine.put(b"second", b"v"))
    bench.settle()
    bench.settle()
    assert bench.engine.get(b"second") == b"v"


def test_what_is_put_in_one_stretch_survives_a_crash_together_or_not_at_all(
    bench: Bench,
) -> None:
    """A record and its hint, say, whenever the power goes."""
    for number in range(12):
        for key in (b"a", b"b", b"c"):
            bench.engine.put(key, b"%d" % number)
        for _ in range(number % 4):
            bench.tick()
        bench.crash()
        assert len({bench.engine.get(key) for key in (b"a", b"b", b"c")}) == 1


def test_a_scan_gives_what_is_durable_in_key_order_within_bounds(bench: Bench) -> None:
    """The start belongs to it, the stop does not; shorter keys come before what they start."""
    keys = [b"r", b"r\x00", b"r\x00\x00", b"r\x01", b"r\xff", b"r\xff\xff", b"s"]
    for key in reversed(keys):
        bench.engine.put(key, b"v" + key)
    assert bench.engine.scan(b"r", b"s", 9) == []
    bench.settle()
    bench.engine.put(b"r\x02", b"pending")
    bench.engine.delete(b"r")
    pairs = [(key, b"v" + key) for key in keys]
    assert bench.engine.scan(b"r", b"s", 9) == pairs[:-1]
    assert bench.engine.scan(b"r\x00", b"r\x01", 9) == pairs[1:3]
    assert bench.engine.scan(b"r\x00\x01", b"r\xff", 9) == pairs[3:4]
    assert bench.engine.scan(b"s", b"r", 9) == []
    for limit in range(4):
        assert bench.engine.scan(b"r", b"s", limit) == pairs[:limit]


def test_an_engine_is_full_when_too_much_waits_for_the_disk_and_recovers(bench: Bench) -> None:
    """Callers refuse new writes meanwhile: the queue has an end."""
    assert not bench.engine.full()
    for number in range(3):
        bench.engine.put(b"%d" % number, bytes(GATHERED_BYTES_MAX // 2))
    assert bench.engine.full()
    bench.settle()
    assert not bench.engine.full()


def test_closing_makes_durable_what_was_put_and_may_be_repeated(bench: Bench) -> None:
    """A node that stops loses nothing, acknowledged or not."""
    bench.engine.put(b"k", b"v")
    bench.run(bench.engine.close())
    bench.reopen()
    assert bench.engine.get(b"k") == b"v"


KEYS = [b"h1", b"r1", b"r2", b"r3"]
#: Always put together, with one value.
PAIR = [b"p1", b"p2"]


class EngineLife(RuleBasedStateMachine):
    """Any sequence of calls, ticks, restarts and crashes, beside the history of every key."""

    bench_type: type[MemoryBench | LevelDBBench]

    def __init__(self) -> None:
        super().__init__()
        self._directory = tempfile.TemporaryDirectory()
        self.bench: Bench = self.bench_type(Path(self._directory.name))
        self.written = 0
        self.barriers = 0
        self.forget()

    def forget(self) -> None:
        """A new life: what is durable now is where every history starts."""
        #: Every value that a key has had, the durable one of the start first.
        self.histories: dict[bytes, list[bytes | None]] = {
            key: [self.bench.engine.get(key)] for key in [*KEYS, *PAIR]
        }
        #: How far into its history a key must be durable.
        self.confirmed = dict.fromkeys(self.histories, 0)
        self.fired: list[int] = []

    def teardown(self) -> None:
        """Release the files."""
        self.bench.close()
        self._directory.cleanup()
        assert self.bench.failures == []

    def _put(self, keys: list[bytes]) -> None:
        self.written += 1
        value = b"%d" % self.written
        for key in keys:
            self.bench.engine.put(key, value)
            self.histories[key].append(value)

    @rule(key=st.sampled_from(KEYS))
    def put(self, key: bytes) -> None:
        """A value that no other put has."""
        self._put([key])

    @rule()
    def put_pair(self) -> None:
        """Two keys in one synchronous stretch."""
        self._put(PAIR)

    @rule(key=st.sampled_from(KEYS))
    def delete(self, key: bytes) -> None:
        """Whether it is there or not."""
        self.bench.engine.delete(key)
        self.histories[key].append(None)

    @rule(patient=st.booleans())
    def barrier(self, patient: bool) -> None:
        """Confirms everything put so far, when it fires."""
        self.barriers += 1
        number = self.barriers
        goals = {key: len(history) - 1 for key, history in self.histories.items()}

        def fire() -> None:
            self.fired.append(number)
            for key, goal in goals.items():
                self.confirmed[key] = max(self.confirmed[key], goal)
            self.values_are_durable_and_none_is_older_than_confirmed()

        self.bench.engine.barrier(fire, patient=patient)

    @rule()
    def tick(self) -> None:
        """A commit may end in it, or start."""
        self.bench.tick()

    @rule()
    def settle(self) -> None:
        """Everything is durable after it, so reading must give exactly the newest."""
        self.bench.settle()
        newest = {key: history[-1] for key, history in self.histories.items()}
        assert {key: self.bench.engine.get(key) for key in newest} == newest
        there = [(key, value) for key, value in sorted(newest.items()) if value is not None]
        pairs = self.bench.engine.scan(*ALL, 99)
        assert [pair for pair in pairs if pair[0] != b"i"] == there

    @rule()
    def reopen(self) -> None:
        """A proper stop keeps everything, confirmed or not."""
        newest = {key: history[-1] for key, history in self.histories.items()}
        self.bench.reopen()
        self.forget()
        assert {key: history[0] for key, history in self.histories.items()} == newest

    @rule()
    def crash(self) -> None:
        """A crash keeps everything that a barrier has confirmed."""
        histories, confirmed = self.histories, dict(self.confirmed)
        self.bench.crash()
        self.forget()
        for key, history in histories.items():
            assert self.histories[key][0] in history[confirmed[key] :]

    @invariant()
    def barriers_fire_in_order(self) -> None:
        """Each once, none overtakes another."""
        assert self.fired == sorted(set(self.fired))

    @invariant()
    def the_latest_is_what_was_put_last(self) -> None:
        """Durable or not."""
        for key, history in self.histories.items():
            assert self.bench.engine.latest(key) == history[-1]

    @invariant()
    def values_are_durable_and_none_is_older_than_confirmed(self) -> None:
        """One that was put since may be durable before anybody was told."""
        for key, history in self.histories.items():
            assert self.bench.engine.get(key) in history[self.confirmed[key] :]

    @invariant()
    def a_scan_shows_whole_batches(self) -> None:
        """It is one moment: the pair is there with one value, or not at all."""
        pairs = self.bench.engine.scan(b"p", b"q", 9)
        assert [key for key, _ in pairs] in ([], PAIR)
        assert len({value for _, value in pairs}) <= 1


class MemoryLife(EngineLife):
    """On the simulation's engine."""

    bench_type = MemoryBench


class LevelDBLife(EngineLife):
    """On real files."""

    bench_type = LevelDBBench


MemoryLife.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
LevelDBLife.TestCase.settings = settings(max_examples=15, stateful_step_count=20, deadline=None)
test_the_memory_engine_behaves_like_its_model = MemoryLife.TestCase
test_the_leveldb_engine_behaves_like_its_model = LevelDBLife.TestCase


class Committed:
    """A group commit whose disk a test is: ``begun`` holds the batches that were handed to it."""

    def __init__(self) -> None:
        self.loop = HandCrankedLoop()
        self.begun: list[Changes] = []
        self.failures: list[BaseException] = []
        self.fired: list[str] = []
        self.commit = GroupCommit(self.loop.as_loop, self.begun.append, self.failures.append)

    def put(self, key: bytes) -> None:
        """A change, and a barrier that notes the key."""
        self.commit.put(key, b"v")
        self.commit.barrier(lambda: self.fired.append(key.decode()))


def test_one_commit_is_in_flight_and_all_that_arrives_meanwhile_is_the_next() -> None:
    """Under load the batches grow by themselves."""
    disk = Committed()
    for key in (b"a", b"b"):
        disk.put(key)
    assert disk.begun == [], "the tick's end decides what is in the batch"
    disk.loop.run_all()
    assert disk.begun == [{b"a": b"v", b"b": b"v"}]
    for key in (b"c", b"d", b"e"):
        disk.put(key)
        disk.loop.run_all()
    assert len(disk.begun) == 1
    disk.commit.finished(None)
    assert disk.fired == ["a", "b"]
    disk.loop.run_all()
    assert disk.begun[1:] == [{b"c": b"v", b"d": b"v", b"e": b"v"}]
    disk.commit.finished(None)
    disk.loop.run_all()
    assert disk.fired == ["a", "b", "c", "d", "e"]
    assert len(disk.begun) == 2


def test_a_lone_caller_never_waits_for_company() -> None:
    """A pause would be all of its latency."""
    disk = Committed()
    for key in (b"a", b"b", b"c"):
        disk.put(key)
        disk.loop.run_until(disk.loop.now_s)
        disk.commit.finished(None)
    assert len(disk.begun) == 3
    assert disk.loop.now_s == 0.0


def test_callers_who_had_company_wait_for_more_of_it() -> None:
    """A commit costs much more than a record in it; but enough bytes are worth one at once."""
    disk = Committed()
    for key in (b"a", b"b", b"c", b"d"):
        disk.put(key)
    disk.loop.run_all()
    disk.put(b"e")
    disk.commit.finished(None)
    disk.loop.run_until(PAUSE_S / 2)
    disk.put(b"f")
    assert len(disk.begun) == 1
    disk.loop.run_until(PAUSE_S)
    assert disk.begun[1:] == [{b"e": b"v", b"f": b"v"}]
    disk.commit.finished(None)
    disk.commit.put(b"large", bytes(1 << 20))
    disk.loop.run_until(PAUSE_S)
    assert len(disk.begun) == 3


def test_the_patient_wait_longer_until_somebody_urgent_comes() -> None:
    """A replica whose copy is not needed for W need not have an fsync of its own."""
    disk = Committed()
    for key in (b"a", b"b", b"c", b"d"):
        disk.put(key)
    disk.loop.run_all()
    disk.commit.finished(None)
    start_s = disk.loop.now_s
    disk.commit.put(b"e", b"v")
    disk.commit.barrier(lambda: None, patient=True)
    disk.loop.run_until(start_s + 2 * PAUSE_S)
    assert len(disk.begun) == 1
    disk.put(b"f")
    disk.loop.run_until(start_s + 3 * PAUSE_S)
    assert disk.begun[1:] == [{b"e": b"v", b"f": b"v"}]

    for key in (b"g", b"h", b"i", b"j"):
        disk.commit.put(key, b"v")
    disk.commit.finished(None)
    disk.loop.run_all()
    disk.commit.finished(None)
    start_s = disk.loop.now_s
    disk.commit.put(b"k", b"v")
    disk.commit.barrier(lambda: None, patient=True)
    disk.loop.run_until(start_s + PATIENT_PAUSE_S)
    assert disk.begun[-1] == {b"k": b"v"}


def test_after_a_failed_commit_nothing_is_confirmed_and_nothing_more_is_written() -> None:
    """A retry of a failed fsync would "succeed"."""
    disk = Committed()
    disk.put(b"a")
    disk.loop.run_all()
    disk.put(b"b")
    error = OSError(5, "Input/output error")
    disk.commit.finished(error)
    disk.put(b"c")
    disk.commit.finished(None)
    disk.commit.finished(error)
    disk.loop.run_all()
    assert disk.failures == [error]
    assert (disk.fired, len(disk.begun)) == ([], 1)
    assert disk.commit.broken
