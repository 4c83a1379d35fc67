"""The one door to the engine: merged, durable before it is said, and never guessed."""

import asyncio
from functools import partial, reduce
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cluster.ids import NodeId, partition_of, uuid7
from cluster.preference import Target
from cluster.settings import HintSettings, LifecycleSettings
from kvnode.codec import decode, encode, header_of
from kvnode.coordinator import Coordinator
from kvnode.errors import CannotStart, CorruptRecord, NotOwner, Overloaded
from kvnode.floors import Floor
from kvnode.hints import decode_hint
from kvnode.placement import WritePlan
from kvnode.record import Create, Record, Tombstone, merge
from kvnode.rpc.operations import FetchResult
from kvnode.storage.commit import GATHERED_BYTES_MAX
from kvnode.storage.keys import (
    HINT_PREFIX,
    RECORD_PREFIX,
    RECORDS_KEY,
    debt_key,
    document_id_of,
    hint_key,
    prefix_stop,
    record_key,
    vote_key,
)
from kvnode.storage.memory import MemoryDisk, MemoryEngine
from kvnode.sweep import DeadlineSweep
from kvnode.writing import Write
from tests.support.handcranked import HandCrankedLoop
from tests.support.records import records
from tests.support.replicas import new_replica

PARTITIONS = 2
ID = bytes(16)  # in partition 0, which is owned
FOREIGN_ID = b"\xff" * 16  # in partition 1, which is not
MINTED_ID = uuid7(5, bytes(10))
OWN_IDS = [ID, MINTED_ID]
IDS = [*OWN_IDS, FOREIGN_ID]
A2, A3 = NodeId("a2"), NodeId("a3")
COMMIT_S = 1.0
LIVE = Record(Create(b"x", 1, 0, b"c" * 32, b"f" * 16))
DELETED = Record(tombstone=Tombstone(2, 9))
BODIES = [b"a" * 16, b"b" * 16]


class Life:
    """A replica on a memory disk and a hand-cranked loop, from one start to the next."""

    def __init__(self, *, hint_bytes_max: int = 10_000) -> None:
        self.disk = MemoryDisk()
        self.hint_settings = HintSettings(
            target_bytes_max=hint_bytes_max, total_bytes_max=hint_bytes_max
        )
        self.restart()

    def restart(self) -> None:
        """Only what is on the disk is left."""
        self.loop = HandCrankedLoop()
        self.engine = MemoryEngine(
            self.disk, self.loop.as_loop, commit_latency_s=lambda: COMMIT_S, failed=_raise
        )
        self.replica = new_replica(
            self.engine,
            self.loop,
            hints=self.hint_settings,
            owned=lambda partition: partition == 0,
            partitions=PARTITIONS,
        )
        assert self.replica.restore(), "the hash trees belong to the records"

    def put(self, key: bytes, value: bytes) -> None:
        """Write to the disk behind the replica's back."""
        self.disk.apply({key: value})

    def merge(self, document_id: bytes, record: Record) -> list[bytes | None]:
        """What ``done`` has been called with so far; it fills while the loop runs."""
        calls: list[bytes | None] = []
        self.replica.merge(document_id, encode(document_id, record), calls.append)
        return calls

    def hold(self, target: NodeId, document_id: bytes, record: Record) -> list[bool]:
        """As ``merge``, for a hint."""
        calls: list[bool] = []
        self.replica.hint_store.hold(target, document_id, encode(document_id, record), calls.append)
        return calls

    def vote(self, document_id: bytes, body: bytes) -> list[tuple[bytes, bytes | None]]:
        """As ``merge``, for a vote."""
        calls: list[tuple[bytes, bytes | None]] = []
        self.replica.vote(document_id, body, lambda voted, held: calls.append((voted, held)))
        return calls

    def stored(self, document_id: bytes) -> Record | None:
        """The record on the disk."""
        found = self.replica.get(document_id)
        return found[0] if found is not None else None

    def owed(self) -> list[tuple[NodeId, int]]:
        """Which comparisons are owed for lost hints."""
        return [(debt.target, debt.partition) for debt in self.replica.hints.owed()]

    def hint(self, target: NodeId, document_id: bytes) -> tuple[int, Record]:
        """(held_at_ms, record) on the disk."""
        held_at_ms, encoded = decode_hint(self.disk.values[hint_key(target, document_id)])
        return held_at_ms, decode(document_id, encoded)


def _raise(error: BaseException) -> None:
    raise error


def contains(whole: Record | None, part: Record) -> bool:
    """Whether joining ``part`` would change nothing."""
    return whole is not None and merge(whole, part) == whole


# One door: the lattice on a disk


class ReplicaLife(RuleBasedStateMachine):
    """Merges, hints, votes, commits and crashes in any order, beside plain dictionaries."""

    def __init__(self) -> None:
        super().__init__()
        self.life = Life(hint_bytes_max=500)
        #: Joins of all that was sent, and of all that was acknowledged.
        self.sent: dict[bytes, Record] = {}
        self.acked: dict[bytes, Record] = {}
        self.hints_acked: dict[tuple[NodeId, bytes], Record] = {}
        #: What each target has, by now, got of its hints.
        self.delivered: dict[tuple[NodeId, bytes], Record] = {}
        self.voted: dict[bytes, bytes] = {}

    @rule(document_id=st.sampled_from(OWN_IDS), record=records)
    def merge(self, document_id: bytes, record: Record) -> None:
        """A write, a hint delivered, a repair: all are the same."""
        before = self.sent.get(document_id)
        joined = record if before is None else merge(before, record)
        self.sent[document_id] = joined

        def acknowledged(held: bytes | None) -> None:
            known = record if held is None else decode(document_id, held)
            assert contains(known, record)
            assert contains(self.life.stored(document_id), known), "acknowledged, not durable"
            earlier = self.acked.get(document_id)
            self.acked[document_id] = known if earlier is None else merge(earlier, known)

        self.life.replica.merge(document_id, encode(document_id, record), acknowledged)

    @rule(node=st.sampled_from([A2, A3]), document_id=st.sampled_from(IDS), record=records)
    def hold(self, node: NodeId, document_id: bytes, record: Record) -> None:
        """A hint, kept or not."""

        def answered(kept: bool) -> None:
            if kept:
                assert contains(self.known_for(node, document_id), record), "not durable"
                earlier = self.hints_acked.get((node, document_id))
                joined = record if earlier is None else merge(earlier, record)
                self.hints_acked[node, document_id] = joined

        self.life.replica.hint_store.hold(node, document_id, encode(document_id, record), answered)

    @rule(node=st.sampled_from([A2, A3]))
    def deliver(self, node: NodeId) -> None:
        """Hand a target's durable hints over, as handoff does."""
        for document_id, value in self.life.replica.hint_store.behind(node, b"", 10):
            self.delivered[node, document_id] = self.known_for(node, document_id)
            self.life.replica.hint_store.release(node, document_id, value, "delivered")

    def known_for(self, node: NodeId, document_id: bytes) -> Record:
        """The join of a durable hint and what its target got before."""
        held = []
        if hint_key(node, document_id) in self.life.disk.values:
            held.append(self.life.hint(node, document_id)[1])
        if (node, document_id) in self.delivered:
            held.append(self.delivered[node, document_id])
        return reduce(merge, held)

    @rule(document_id=st.sampled_from(OWN_IDS), body=st.sampled_from(BODIES))
    def vote(self, document_id: bytes, body: bytes) -> None:
        """Ask for a vote; whatever was answered once is answered for ever."""

        def answered(voted: bytes, held: bytes | None) -> None:
            assert self.voted.setdefault(document_id, voted) == voted
            assert self.life.disk.values[vote_key(document_id)] == voted, "not durable"
            if held is not None:
                assert self.life.stored(document_id) is not None

        self.life.replica.vote(document_id, body, answered)

    @rule(steps=st.integers(1, 4))
    def run(self, steps: int) -> None:
        """Some callbacks, a commit's end among them."""
        for _ in range(steps):
            self.life.loop.run_one()

    @rule()
    def crash(self) -> None:
        """What was not durable is gone; what was acknowledged is not."""
        self.life.restart()
        self.sent = {i: r for i in IDS if (r := self.life.stored(i)) is not None}

    @invariant()
    def nothing_acknowledged_is_lost_and_nothing_is_invented(self) -> None:
        """The stored record lies between what was acknowledged and what was sent."""
        for document_id in IDS:
            stored = self.life.stored(document_id)
            if document_id in self.acked:
                assert contains(stored, self.acked[document_id])
            if stored is not None:
                assert contains(self.sent[document_id], stored)

    @invariant()
    def the_book_agrees_with_the_engine(self) -> None:
        """Counts and bytes of hints, pending ones included."""
        life, book = self.life, self.life.replica.hints
        held = {
            key: value
            for target in (A2, A3)
            for document_id in IDS
            if (value := life.engine.latest(key := hint_key(target, document_id))) is not None
        }
        assert (book.held, book.held_bytes) == (len(held), sum(map(len, held.values())))
        dropped = sum(book.dropped.values())
        assert book.created == book.delivered + book.superseded + dropped + book.held

    @invariant()
    def the_count_is_that_of_the_records(self) -> None:
        """In the same batch as each first copy, so a crash can't part them."""
        values = self.life.disk.values
        count = int.from_bytes(values.get(RECORDS_KEY, b"")[:8], "big")
        deleted = int.from_bytes(values.get(RECORDS_KEY, b"")[8:16], "big")
        records = [
            decode(document_id_of(key), value)
            for key, value in values.items()
            if key.startswith(RECORD_PREFIX)
        ]
        assert count == len(records)
        assert deleted == sum(record.tombstone is not None for record in records)

    @invariant()
    def acknowledged_hints_are_held_until_they_are_delivered(self) -> None:
        """Handoff rests on it."""
        for (node, document_id), record in self.hints_acked.items():
            assert contains(self.known_for(node, document_id), record)


ReplicaLife.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
test_a_replica_keeps_what_it_has_said = ReplicaLife.TestCase


@given(st.lists(records, min_size=1, max_size=5), st.data())
@settings(deadline=None)
def test_the_order_of_merges_and_commits_does_not_matter(
    told: list[Record], data: st.DataObject
) -> None:
    """Rule 1: any order, with any of them durable before the next arrives."""
    life = Life()
    acknowledged = []
    for record in data.draw(st.permutations(told)):
        acknowledged.append(life.merge(ID, record))
        for _ in range(data.draw(st.integers(0, 3))):
            life.loop.run_one()
    life.loop.run_all()
    assert life.stored(ID) == reduce(merge, told)
    assert [len(calls) for calls in acknowledged] == [1] * len(told)


@given(records, records)
def test_an_acknowledgement_brings_what_is_held_where_that_is_not_what_was_sent(
    first: Record, second: Record
) -> None:
    """A coordinator learns the older create, or the tombstone, from the answer to its write."""
    life = Life()
    life.merge(ID, first)
    calls = life.merge(ID, second)
    life.loop.run_all()
    (held,) = calls
    joined = merge(first, second)
    assert held == (None if joined == second else encode(ID, joined))


def test_a_merge_is_neither_acknowledged_nor_read_before_it_is_durable() -> None:
    """Rule 2: a crash could still take it away."""
    life = Life()
    calls = life.merge(ID, LIVE)
    life.loop.run_until(COMMIT_S / 2)
    assert calls == []
    assert life.replica.get(ID) is None
    assert life.replica.fetch(ID, None) == (FetchResult.ABSENT, None)
    life.loop.run_until(2 * COMMIT_S)
    assert calls == [None]
    assert life.stored(ID) == LIVE


def test_merging_what_is_stored_already_still_waits_until_it_is_durable() -> None:
    """The first copy of a retry may be in flight itself."""
    life = Life()
    life.merge(ID, LIVE)
    life.loop.run_until(COMMIT_S / 2)
    calls = life.merge(ID, LIVE)
    assert calls == []
    life.loop.run_until(COMMIT_S / 2)
    assert calls == []
    life.loop.run_all()
    assert calls == [None]


def test_a_tombstone_wins_over_a_create_that_comes_after_it() -> None:
    """A delete that overtook its create must not be undone by it."""
    life = Life()
    life.merge(ID, DELETED)
    life.merge(ID, LIVE)
    life.loop.run_all()
    assert life.stored(ID) == merge(LIVE, DELETED)


@pytest.mark.parametrize("earlier_first", [True, False])
def test_two_bodies_of_one_key_are_one_conflict_however_often_they_meet(
    earlier_first: bool,
) -> None:
    """The loser is never dropped in silence, nor counted with each hint and comparison."""
    life = Life()
    other = Record(Create(b"y", 2, 0, b"d" * 32, b"g" * 16))
    first, second = (LIVE, other) if earlier_first else (other, LIVE)
    again = Record(Create(b"x", 5, 0, b"c" * 32, b"f" * 16))
    for record in (first, first, DELETED):
        life.merge(ID, record)
    assert life.replica.conflicts.count == 0
    for record in (second, first, second):
        life.merge(ID, record)
    life.merge(ID, again)  # a retry on another node: the same body
    life.loop.run_all()

    assert life.replica.conflicts.count == 1
    stored = life.stored(ID)
    assert stored is not None
    assert stored.create == LIVE.create
    life.restart()
    (conflict,) = life.replica.conflicts.newest(9)
    assert (conflict.document_id, conflict.kept_created_at_ms) == (ID, 1)
    assert (conflict.kept_fingerprint, conflict.lost_fingerprint) == (b"f" * 8, b"g" * 8)


def test_a_replica_whose_disk_is_behind_refuses_and_keeps_only_what_it_owes() -> None:
    """Bounded: the queue in front of the disk has an end, and callers hear of it.

    That a hint was refused takes a row, once for each target and partition.
    """
    life = Life()
    life.engine.put(b"much", bytes(GATHERED_BYTES_MAX))
    with pytest.raises(Overloaded):
        life.merge(ID, LIVE)
    with pytest.raises(Overloaded):
        life.vote(ID, BODIES[0])
    assert life.hold(A2, ID, LIVE) == [False]
    life.loop.run_all()
    assert list(life.disk.values) == [b"much", debt_key(A2, 0)]


# Answers to coordinators


@given(st.none() | records, st.none() | records, st.none() | records, st.sampled_from(IDS))
def test_a_fetch_says_exactly_what_is_known(
    stored: Record | None, hint: Record | None, other_hint: Record | None, document_id: bytes
) -> None:
    """Rule 4: its own record, else the join of its hints, else absent if it may say so."""
    life = Life()
    if stored is not None:
        if document_id == FOREIGN_ID:
            with pytest.raises(NotOwner):
                life.merge(document_id, stored)
            stored = None
        else:
            life.merge(document_id, stored)
    for target, record in ((A2, hint), (A3, other_hint)):
        if record is not None:
            life.hold(target, document_id, record)
    life.loop.run_all()
    known = [record for record in (hint, other_hint) if record is not None]
    expected = stored or (reduce(merge, known) if known else None)
    if expected is None:
        owned = document_id != FOREIGN_ID
        absence = FetchResult.ABSENT if owned else FetchResult.UNKNOWN
        assert life.replica.fetch(document_id, None) == (absence, None)
        return
    encoded = encode(document_id, expected)
    assert life.replica.fetch(document_id, None) == (FetchResult.FOUND, encoded)
    assert life.replica.fetch(document_id, header_of(encoded)) == (FetchResult.SAME, None)
    assert life.replica.fetch(document_id, b"another") == (FetchResult.FOUND, encoded)


@given(st.binary(max_size=120), records)
@settings(deadline=None)
def test_damaged_bytes_are_answered_as_unknown_counted_and_never_merged(
    damaged: bytes, record: Record
) -> None:
    """Corruption stays home. An empty value is damaged too, and no sign of absence."""
    life = Life()
    life.put(record_key(ID), damaged)
    assert life.replica.fetch(ID, None) == (FetchResult.UNKNOWN, None)
    assert life.replica.corrupt_count == 1
    for attempt in (
        partial(life.replica.get, ID),
        partial(life.merge, ID, record),
        partial(life.vote, ID, BODIES[0]),
    ):
        with pytest.raises(CorruptRecord):
            attempt()
    assert life.replica.corrupt_count == 4
    life.loop.run_all()
    assert life.disk.values == {record_key(ID): damaged}


def test_a_record_under_another_documents_key_is_damaged() -> None:
    """It is intact, but it is not what was asked for."""
    life = Life()
    life.put(record_key(ID), encode(IDS[1], LIVE))
    assert life.replica.fetch(ID, None) == (FetchResult.UNKNOWN, None)


def test_a_damaged_hint_makes_the_answer_unknown() -> None:
    """Who knows what it held: a tombstone, perhaps."""
    life = Life()
    life.hold(A3, ID, LIVE)
    life.loop.run_all()
    life.put(hint_key(A2, ID), bytes(8) + b"damaged")
    life.restart()
    assert life.replica.fetch(ID, None) == (FetchResult.UNKNOWN, None)
    assert life.replica.corrupt_count == 1


def test_a_hint_that_may_be_of_a_purged_document_is_no_owners_word() -> None:
    """Kept while this node was away: whoever asks about a late copy must not find it here."""
    life = Life()
    life.hold(A2, ID, LIVE)
    life.loop.run_all()
    assert life.replica.fetch(ID, None)[0] is FetchResult.FOUND
    assert LIVE.create is not None
    partition = partition_of(ID, life.replica.records.forest.partitions)
    life.replica.set_floor(partition, Floor(1, 1, newest_deleted_ms=LIVE.create.created_at_ms))
    assert life.replica.fetch(ID, None) == (FetchResult.ABSENT, None)


# Hints


def test_a_second_hint_for_a_document_joins_the_first_and_keeps_its_age() -> None:
    """One hint a document, and no write can put off the end of the window."""
    life = Life()
    life.loop.now_s = 1.0
    life.hold(A2, ID, LIVE)
    life.loop.now_s = 5.0
    life.hold(A2, ID, DELETED)
    life.loop.run_all()
    assert life.hint(A2, ID) == (1000, merge(LIVE, DELETED))
    book = life.replica.hints
    assert (book.created, book.superseded, book.held) == (2, 1, 1)


def test_a_hint_that_adds_nothing_is_acknowledged_and_not_written_again() -> None:
    """A retry costs the cap nothing; but it waits until the first one is durable."""
    life = Life()
    life.hold(A2, ID, DELETED)
    calls = life.hold(A2, ID, DELETED)
    assert calls == []
    life.loop.run_all()
    assert calls == [True]
    assert life.replica.hints.created == 1


def test_a_hint_over_the_cap_is_not_kept_and_counted() -> None:
    """The coordinator must not count it toward W."""
    life = Life(hint_bytes_max=10)
    assert life.hold(A2, ID, LIVE) == [False]
    life.loop.run_all()
    assert list(life.disk.values) == [debt_key(A2, 0)]
    assert life.replica.hints.dropped["overflow"] == 1


def test_a_delivered_hint_that_was_superseded_meanwhile_stays() -> None:
    """What the target acknowledged is not what is held now."""
    life = Life()
    life.hold(A2, ID, LIVE)
    life.loop.run_all()
    ((_, sent),) = life.replica.hint_store.behind(A2, b"", 10)
    life.hold(A2, ID, DELETED)
    life.replica.hint_store.release(A2, ID, sent, "delivered")
    life.loop.run_all()
    assert life.hint(A2, ID)[1] == merge(LIVE, DELETED)
    assert life.replica.hints.delivered == 0


def test_a_damaged_hint_is_replaced_by_the_next_one() -> None:
    """Regression: it raised out of the coordinator's write instead."""
    life = Life()
    life.put(hint_key(A2, ID), bytes(8) + b"damaged")
    life.restart()
    calls = life.hold(A2, ID, LIVE)
    life.loop.run_all()
    assert calls == [True]
    assert life.hint(A2, ID)[1] == LIVE
    assert life.replica.hints.dropped["corrupt"] == 1
    assert life.owed() == [(A2, 0)]


def test_hints_are_found_again_after_a_restart_however_many_there_are() -> None:
    """More than one scan's worth: what is not counted is never delivered."""
    life = Life(hint_bytes_max=1 << 30)
    for number in range(2100):
        life.hold(A2 if number % 3 else A3, number.to_bytes(16, "big"), DELETED)
    life.loop.run_all()
    before = dict(life.replica.hints.targets())
    life.restart()
    assert dict(life.replica.hints.targets()) == before
    found = life.engine.scan(HINT_PREFIX, prefix_stop(HINT_PREFIX), 10_000)
    assert life.replica.hints.held == len(found) == 2100


# Votes


def test_a_vote_is_for_ever_and_survives_a_crash() -> None:
    """Voting rule 1: the second body hears of the first."""
    life = Life()
    first = life.vote(ID, BODIES[0])
    assert first == [], "a vote that a crash takes away could be given twice"
    life.loop.run_all()
    assert first == [(BODIES[0], None)]
    life.restart()
    second = life.vote(ID, BODIES[1])
    life.loop.run_all()
    assert second == [(BODIES[0], None)]


def test_two_votes_in_one_tick_are_for_the_body_that_came_first() -> None:
    """Neither is durable yet, and still there is an order."""
    life = Life()
    answers = [life.vote(ID, body) for body in BODIES]
    life.loop.run_all()
    assert answers == [[(BODIES[0], None)], [(BODIES[0], None)]]


def test_a_vote_brings_the_record_that_is_held_once_that_is_durable() -> None:
    """The key's document exists: its body was elected before."""
    life = Life()
    life.merge(ID, LIVE)
    calls = life.vote(ID, BODIES[1])
    life.loop.run_until(COMMIT_S / 2)
    assert calls == []
    life.loop.run_all()
    assert calls == [(BODIES[1], encode(ID, LIVE))]


# Waiting, and what comes back up


async def test_giving_up_waiting_disturbs_no_other_barrier() -> None:
    """Regression: a cancelled wait raised among the acknowledgements of the whole batch."""
    loop = asyncio.get_running_loop()
    engine = MemoryEngine(MemoryDisk(), loop, failed=_raise)
    replica = new_replica(engine, HandCrankedLoop(), partitions=PARTITIONS)

    async def put_and_wait() -> None:
        engine.put(b"key", b"value")
        await replica.durable()

    waiting = loop.create_task(put_and_wait())
    await asyncio.sleep(0)
    acknowledged = loop.create_future()
    replica.merge(ID, encode(ID, LIVE), acknowledged.set_result)  # in the same batch
    waiting.cancel()
    async with asyncio.timeout(5):
        assert await acknowledged is None
    assert waiting.cancelled()


async def test_a_write_goes_on_when_the_hint_that_is_held_can_not_be_read() -> None:
    """Regression: the engine's error ended the connection that had brought the news."""
    loop = asyncio.get_running_loop()

    class Unreadable(MemoryEngine):
        def latest(self, key: bytes) -> bytes | None:
            if key.startswith(HINT_PREFIX):
                raise CorruptRecord("a block fails its checksum")
            return super().latest(key)

    clock = HandCrankedLoop()
    replica = new_replica(
        Unreadable(MemoryDisk(), loop, failed=_raise), clock, partitions=PARTITIONS
    )
    coordinator = SimpleNamespace(
        loop=loop,
        node=NodeId("a1"),
        sweep=DeadlineSweep(loop, clock, 1.0),
        copies=2,
        merges=SimpleNamespace(flush=lambda: None),
        replica=replica,
        merge_here=replica.merge,
    )
    write = Write(
        cast("Coordinator", coordinator),
        ID,
        LIVE,
        encode(ID, LIVE),
        WritePlan(targets=(Target(NodeId("a1")),), uncovered=(A2,), spares=()),
        required=1,
        sloppy=True,
        deadline_s=60.0,
    )
    write.start()
    async with asyncio.timeout(5):
        stored = await write.answer
    assert (stored.acked, stored.hints) == (1, 0)


def test_another_length_of_buckets_is_refused() -> None:
    """Floors are numbers of buckets: with another length they would purge what is not proved."""
    disk, loop = MemoryDisk(), HandCrankedLoop()
    engine = MemoryEngine(disk, loop.as_loop, failed=_raise)
    new_replica(engine, loop).merge(ID, encode(ID, LIVE), lambda _: None)
    loop.run_all()
    changed = LifecycleSettings(purge_bucket_s=1.0)
    again = new_replica(MemoryEngine(disk, loop.as_loop, failed=_raise), loop, lifecycle=changed)
    with pytest.raises(CannotStart, match=r"purge_bucket_s is 1, and was 3600"):
        again.restore()
