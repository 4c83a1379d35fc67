"""No hint vanishes unaccounted, whatever happens in whatever order; for each lost one, a debt."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cluster.ids import DocumentId, NodeId, partition_of
from cluster.settings import HintSettings
from kvnode.codec import encode
from kvnode.hints import Debt, Fate, HintBook, Loss, decode_hint, encode_hint
from kvnode.hintstore import HintStore
from kvnode.record import Create, Record, Tombstone
from kvnode.storage.keys import (
    DEBT_PREFIX,
    debt_key,
    debt_of,
    hint_key,
    hint_prefix,
    hint_tails,
    prefix_stop,
)
from kvnode.storage.memory import MemoryDisk, MemoryEngine
from tests.support.handcranked import HandCrankedLoop

TARGETS = [NodeId("a2"), NodeId("a3"), NodeId("a4")]
SETTINGS = HintSettings(target_bytes_max=100, total_bytes_max=150, window_s=10.0)

PARTITIONS = 2

targets = st.sampled_from(TARGETS)
partitions = st.integers(0, PARTITIONS - 1)
sizes = st.integers(1, 60)
ages_ms = st.integers(1, 100_000)
fates = st.sampled_from(["delivered", "expired", "corrupt"])
losses = st.sampled_from(["overflow", "corrupt"])


class HintLife(RuleBasedStateMachine):
    """A book, beside a plain list of every hint that it should know of."""

    def __init__(self) -> None:
        super().__init__()
        self.book = HintBook(SETTINGS)
        #: (target, size, held at), by document.
        self.held: dict[int, tuple[NodeId, int, int]] = {}
        self.documents = 0
        #: How many hints had ever been lost by the last loss that no comparison has made up for,
        #: by target and partition.
        self.lost: dict[tuple[NodeId, int], int] = {}
        self.loss_count = 0
        #: Debts that comparisons under way began with, and what was lost by then.
        self.comparing: list[tuple[Debt, int]] = []

    @initialize(found=st.lists(st.tuples(targets, st.integers(1, 30), ages_ms), max_size=3))
    def restore(self, found: list[tuple[NodeId, int, int]]) -> None:
        """A start counts the hints that it finds on disk."""
        for node, size, held_at_ms in found:
            self.book.restore(node, size, held_at_ms)
            self._hold(node, size, held_at_ms)

    @rule(node=targets, partition=partitions, size=sizes, at_ms=ages_ms, loss=losses)
    def keep_or_refuse(
        self, node: NodeId, partition: int, size: int, at_ms: int, loss: Loss
    ) -> None:
        """A primary was missed."""
        if self.book.has_room(node, size):
            self.book.keep(node, size, at_ms, None)
            self._hold(node, size, at_ms)
        else:
            self._lose(node, partition, is_new=self.book.refuse(node, partition, loss))

    @precondition(lambda self: self.held)
    @rule(data=st.data(), size=sizes)
    def supersede(self, data: st.DataObject, size: int) -> None:
        """A second write to a document whose first is held still."""
        document = data.draw(st.sampled_from(list(self.held)))
        target, before, at_ms = self.held[document]
        if self.book.has_room(target, size):
            self.book.keep(target, size, at_ms, before)
            self.held[document] = (target, size, at_ms)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), partition=partitions, fate=fates)
    def release(self, data: st.DataObject, partition: int, fate: Fate) -> None:
        """A hint's end, each of the three."""
        target, size, _ = self.held.pop(data.draw(st.sampled_from(list(self.held))))
        is_new = self.book.release(target, partition, size, fate)
        if fate != "delivered":
            self._lose(target, partition, is_new=is_new)
        else:
            assert not is_new

    @rule()
    def comparisons_begin(self) -> None:
        """Anti-entropy looks at what is owed."""
        self.comparing += [
            (debt, self.lost[debt.target, debt.partition]) for debt in self.book.owed()
        ]

    @precondition(lambda self: self.comparing)
    @rule(data=st.data())
    def comparison_ends(self, data: st.DataObject) -> None:
        """It makes up for what was lost when it began, and for nothing after that."""
        found = self.comparing.pop(data.draw(st.integers(0, len(self.comparing) - 1)))
        debt, lost_then = found
        place = debt.target, debt.partition
        made_up_for = self.lost.get(place) == lost_then
        assert self.book.repay(debt) == made_up_for
        if made_up_for:
            del self.lost[place]

    @rule(node=targets, now_ms=ages_ms)
    def look_through(self, node: NodeId, now_ms: int) -> None:
        """A round over all hints of a target, none of which has expired."""
        if any(target == node for target, _, _ in self.held.values()):
            self.book.round_begins(node, now_ms)
            for target, _, held_at_ms in self.held.values():
                if target == node:
                    self.book.seen(node, held_at_ms)

    def _hold(self, target: NodeId, size: int, held_at_ms: int) -> None:
        self.documents += 1
        self.held[self.documents] = (target, size, held_at_ms)

    def _lose(self, target: NodeId, partition: int, *, is_new: bool) -> None:
        place = target, partition
        assert is_new == (place not in self.lost), "its row would be missing, or put twice"
        self.loss_count += 1
        self.lost[place] = self.loss_count

    @invariant()
    def conserved(self) -> None:
        """Rule 1."""
        book = self.book
        dropped = sum(book.dropped.values())
        assert book.created == book.delivered + book.superseded + dropped + book.held

    @invariant()
    def every_loss_is_owed(self) -> None:
        """Rule 4."""
        owed = [(debt.target, debt.partition) for debt in self.book.owed()]
        assert owed == list(self.lost)

    @invariant()
    def counted(self) -> None:
        """What is held, by target and overall."""
        assert self.book.held == len(self.held)
        assert self.book.held_bytes == sum(size for _, size, _ in self.held.values())
        for target, hints in self.book.targets():
            sizes = [size for node, size, _ in self.held.values() if node == target]
            assert (hints.count, hints.size_bytes) == (len(sizes), sum(sizes))
        assert {target for target, _ in self.book.targets()} == {
            target for target, _, _ in self.held.values()
        }

    @invariant()
    def none_is_older_than_the_book_says(self) -> None:
        """Else one would outstay its window unseen."""
        for target, hints in self.book.targets():
            ages = [at_ms for node, _, at_ms in self.held.values() if node == target]
            assert hints.oldest_ms is not None
            assert hints.oldest_ms <= min(ages)

    @invariant()
    def within_caps(self) -> None:
        """Rule 2: what was let in was let in under the caps."""
        assert self.book.held_bytes <= SETTINGS.total_bytes_max
        assert all(h.size_bytes <= SETTINGS.target_bytes_max for _, h in self.book.targets())


HintLife.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
test_hints_are_conserved = HintLife.TestCase


@given(sizes, sizes)
def test_one_target_cannot_take_the_room_of_all(first: int, second: int) -> None:
    """A node that is down for long must not cost the others their hints."""
    book = HintBook(SETTINGS)
    while book.has_room(TARGETS[0], first):
        book.keep(TARGETS[0], first, 1, None)
    assert book.has_room(TARGETS[1], min(second, 50))


def test_releasing_more_than_was_held_is_a_broken_invariant() -> None:
    """It means that a hint was counted out twice: the books are wrong, and nobody may go on."""
    book = HintBook(SETTINGS)
    with pytest.raises(AssertionError):
        book.release(TARGETS[0], 0, 10, "delivered")


@given(st.integers(0, 1 << 62), st.integers(-30_000, 30_000))
def test_a_hint_expires_when_its_window_has_passed(held_at_ms: int, age_ms: int) -> None:
    """And not before; a clock that jumped back expires nothing."""
    assert HintBook(SETTINGS).expired(held_at_ms, held_at_ms + age_ms) == (age_ms > 10_000)


@given(st.integers(0, (1 << 64) - 1), st.binary(max_size=50))
def test_a_hint_comes_back_as_it_went(held_at_ms: int, record: bytes) -> None:
    """When it was held, and the record's bytes untouched."""
    assert decode_hint(encode_hint(held_at_ms, record)) == (held_at_ms, record)


def test_targets_are_listed_in_the_order_in_which_they_were_first_missed() -> None:
    """Delivery follows it: no order that depends on hashing decides who waits."""
    book = HintBook(SETTINGS)
    for target in reversed(TARGETS):
        book.keep(target, 1, 1, None)
    assert [target for target, _ in book.targets()] == TARGETS[::-1]


def test_a_debt_is_repaid_only_by_a_comparison_that_began_after_the_last_loss() -> None:
    """What was lost while hash trees were being compared may have come too late for them."""
    book = HintBook(SETTINGS)
    book.refuse(TARGETS[0], 1, "overflow")
    (debt,) = book.owed()
    book.refuse(TARGETS[0], 1, "overflow")
    assert not book.repay(debt)
    (debt,) = book.owed()
    assert book.repay(debt)
    assert book.owed() == []
    assert not book.repay(debt)


def test_a_slow_comparison_does_not_repay_what_was_lost_after_a_faster_one() -> None:
    """Both began with the same debt, and the next one only looks like it."""
    book = HintBook(SETTINGS)
    book.refuse(TARGETS[0], 1, "overflow")
    (debt,) = book.owed()
    assert book.repay(debt)
    book.refuse(TARGETS[0], 1, "overflow")
    assert not book.repay(debt)
    assert len(book.owed()) == 1


# On disk ----------------------------------------------------------------------------------------

LIVE = Record(Create(b"x", 1, 0, b"c" * 32, b"f" * 16))
DELETED = Record(tombstone=Tombstone(2, 9))
A2, A3, A4 = TARGETS


def document(tail: int, number: int = 0) -> DocumentId:
    """A document whose id ends with this tail."""
    return DocumentId(number.to_bytes(14, "big") + tail.to_bytes(2, "big"))


class Disk:
    """A hint store from one start to the next."""

    def __init__(self, hint_bytes_max: int = 100_000) -> None:
        self.disk = MemoryDisk()
        self._settings = HintSettings(target_bytes_max=hint_bytes_max, window_s=10.0)
        self.restart()

    def restart(self) -> None:
        """Only what is on the disk is left."""
        self.loop = HandCrankedLoop()
        self.engine = MemoryEngine(
            self.disk, self.loop.as_loop, commit_latency_s=lambda: 1.0, failed=_raise
        )
        self.store = HintStore(self.engine, self.loop, HintBook(self._settings), PARTITIONS)
        self.store.restore()
        self.loop.run_all()

    def hold(self, target: NodeId, document_id: DocumentId, record: Record = LIVE) -> list[bool]:
        """What ``done`` was called with, once everything is durable."""
        calls: list[bool] = []
        self.store.hold(target, document_id, encode(document_id, record), calls.append)
        self.loop.run_all()
        return calls

    def debts(self) -> list[tuple[NodeId, int]]:
        """The rows on the disk."""
        return [debt_of(key) for key in self.disk.sorted_keys if key.startswith(DEBT_PREFIX)]

    def owed(self) -> list[tuple[NodeId, int]]:
        """What the book says."""
        return [(debt.target, debt.partition) for debt in self.store.book.owed()]


def _raise(error: BaseException) -> None:
    raise error


@given(st.lists(st.integers(0, 65_535), max_size=40, unique=True), st.integers(1, 50))
def test_hints_are_read_in_turn_each_once_in_pages_of_any_size(
    tails: list[int], limit: int
) -> None:
    """A page begins behind the last id of the one before; other targets' hints are not met."""
    disk = Disk()
    for tail in tails:
        for target in (A2, A3):
            disk.store.hold(target, document(tail), encode(document(tail), LIVE), lambda _: None)
    disk.loop.run_all()
    read: list[DocumentId] = []
    while page := disk.store.behind(A2, read[-1] if read else b"", limit):
        read += [document_id for document_id, _ in page]
        assert len(page) <= limit
    assert read == [document(tail) for tail in sorted(tails)]


@pytest.mark.parametrize("loss", ["expired", "corrupt"])
def test_the_debt_for_a_lost_hint_is_in_the_batch_that_takes_it_away(loss: Loss) -> None:
    """Rule 3: a crash between the two would lose the hint and the knowledge of it."""
    disk = Disk()
    disk.hold(A2, document(0))
    ((document_id, value),) = disk.store.behind(A2, b"", 10)
    batches: list[dict[bytes, bytes | None]] = []
    begin = disk.engine._commit._begin

    def watched(changes: dict[bytes, bytes | None]) -> None:
        batches.append(changes)
        begin(changes)

    disk.engine._commit._begin = watched
    assert disk.store.release(A2, document_id, value, loss)
    disk.loop.run_all()
    assert [list(batch) for batch in batches] == [[hint_key(A2, document_id), debt_key(A2, 0)]]
    disk.restart()
    assert disk.owed() == [(A2, 0)]


def test_a_debt_outlasts_restarts_until_it_is_repaid() -> None:
    """It may take longer than this process lives until its target can be compared with."""
    disk = Disk(hint_bytes_max=10)
    assert disk.hold(A2, document(65_535)) == [False]
    assert disk.hold(A3, document(0)) == [False]
    assert disk.debts() == disk.owed() == [(A2, 1), (A3, 0)]
    disk.restart()
    assert disk.owed() == [(A2, 1), (A3, 0)]
    disk.store.repaid(disk.store.book.owed()[0])
    disk.loop.run_all()
    assert disk.debts() == disk.owed() == [(A3, 0)]


def test_a_debt_that_grew_during_its_comparison_stays_on_disk() -> None:
    """Repaying the older one must not take away the row of the newer."""
    disk = Disk(hint_bytes_max=10)
    disk.hold(A2, document(0))
    (debt,) = disk.store.book.owed()
    disk.hold(A2, document(1))
    disk.store.repaid(debt)
    disk.loop.run_all()
    assert disk.debts() == [(A2, 0)]


def test_a_delivered_hint_owes_nothing() -> None:
    """Its target has it."""
    disk = Disk()
    disk.hold(A2, document(0))
    ((document_id, value),) = disk.store.behind(A2, b"", 10)
    assert disk.store.release(A2, document_id, value, "delivered")
    assert not disk.store.release(A2, document_id, value, "delivered"), "it was gone already"
    disk.loop.run_all()
    assert (disk.debts(), disk.store.book.delivered) == ([], 1)


def test_hints_behind_an_unreadable_one_are_read_and_its_partition_is_owed_once() -> None:
    """A damaged block must neither end the node nor hold up the others, at a start or later."""
    disk = Disk()
    for tail in (0, 1, 40_000):
        disk.hold(A2, document(tail))
    disk.disk.damaged.add(hint_key(A2, document(1)))
    for _ in range(3):
        found = [document_id for document_id, _ in disk.store.behind(A2, b"", 10)]
        assert found == [document(0), document(40_000)]
    assert (disk.owed(), disk.store.book.dropped["corrupt"]) == ([(A2, 0)], 1)
    disk.loop.run_all()
    disk.restart()
    book = disk.store.book
    assert (disk.owed(), book.dropped["corrupt"], book.held) == ([(A2, 0)], 1, 2)


def test_a_hint_that_can_not_be_joined_to_an_unreadable_one_is_lost_and_owed() -> None:
    """The write goes on; what its target missed is left to anti-entropy."""
    disk = Disk()
    disk.hold(A2, document(0))
    disk.disk.damaged.add(hint_key(A2, document(0)))
    assert disk.hold(A2, document(0), DELETED) == [False]
    assert disk.debts() == [(A2, 0)]
    assert disk.store.book.dropped["corrupt"] == 1


@given(targets, st.integers(0, 65_535), st.integers(0, 65_535), st.integers(0, 65_535))
def test_every_hint_between_two_keys_has_one_of_the_tails_that_may_be_there(
    target: NodeId, first: int, last: int, tail: int
) -> None:
    """Whatever the bounds: hints of this target, of another one, or the ends of a range."""
    bounds = [hint_key(each, document(at, 5)) for each in TARGETS for at in (first, last)]
    bounds += [hint_prefix(target), prefix_stop(hint_prefix(target)), b"h", b"i"]
    key = hint_key(target, document(tail, 5))
    for start in bounds:
        for stop in bounds:
            if start <= key < stop:
                assert tail in hint_tails(target, start, stop)
    inside = hint_tails(target, hint_key(target, document(first)), hint_key(target, document(last)))
    assert inside == range(first, last + 1)
    other = A3 if target is A2 else A2
    assert not hint_tails(other, hint_prefix(target), prefix_stop(hint_prefix(target)))


@given(targets, partitions)
def test_a_debt_comes_back_as_it_went(target: NodeId, partition: int) -> None:
    """Its row is all that a restart knows."""
    assert debt_of(debt_key(target, partition)) == (target, partition)
    assert partition_of(document(partition << 15), PARTITIONS) == partition


def test_a_stand_in_owes_no_comparison_for_what_it_could_not_keep() -> None:
    """It has nothing to compare, so the debt would stand for ever; the loss is counted."""
    book = HintBook(SETTINGS, owned=lambda partition: partition == 1)
    assert book.refuse(A2, 1, "overflow")
    assert not book.refuse(A2, 2, "overflow")
    assert [debt.partition for debt in book.owed()] == [1]
    assert book.dropped["overflow"] == 2
