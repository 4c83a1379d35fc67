"""No hint vanishes unaccounted, whatever happens in whatever order."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cluster.ids import NodeId
from cluster.settings import HintSettings
from kvnode.hints import Fate, HintBook, decode_hint, encode_hint

TARGETS = [NodeId("a2"), NodeId("a3"), NodeId("a4")]
SETTINGS = HintSettings(target_bytes_max=100, total_bytes_max=150, window_s=10.0)

targets = st.sampled_from(TARGETS)
sizes = st.integers(1, 60)
fates = st.sampled_from(["delivered", "expired", "corrupt"])


class HintLife(RuleBasedStateMachine):
    """A book, beside a plain list of every hint that it should know of."""

    def __init__(self) -> None:
        super().__init__()
        self.book = HintBook(SETTINGS)
        #: (target, size), by document.
        self.held: dict[int, tuple[NodeId, int]] = {}
        self.documents = 0

    @initialize(found=st.lists(st.tuples(targets, st.integers(1, 30)), max_size=3))
    def restore(self, found: list[tuple[NodeId, int]]) -> None:
        """A start counts the hints that it finds on disk."""
        for node, size in found:
            self.book.restore(node, size)
            self._hold(node, size)

    @rule(node=targets, size=sizes)
    def keep_or_refuse(self, node: NodeId, size: int) -> None:
        """A primary was missed."""
        if self.book.has_room(node, size):
            self.book.keep(node, size, None)
            self._hold(node, size)
        else:
            self.book.refuse()

    @precondition(lambda self: self.held)
    @rule(data=st.data(), size=sizes)
    def supersede(self, data: st.DataObject, size: int) -> None:
        """A second write to a document whose first is held still."""
        document = data.draw(st.sampled_from(list(self.held)))
        target, before = self.held[document]
        if self.book.has_room(target, size):
            self.book.keep(target, size, before)
            self.held[document] = (target, size)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), fate=fates)
    def release(self, data: st.DataObject, fate: Fate) -> None:
        """A hint's end, each of the three."""
        target, size = self.held.pop(data.draw(st.sampled_from(list(self.held))))
        self.book.release(target, size, fate)

    def _hold(self, target: NodeId, size: int) -> None:
        self.documents += 1
        self.held[self.documents] = (target, size)

    @invariant()
    def conserved(self) -> None:
        """Rule 1."""
        book = self.book
        dropped = sum(book.dropped.values())
        assert book.created == book.delivered + book.superseded + dropped + book.held

    @invariant()
    def counted(self) -> None:
        """What is held, by target and overall."""
        assert self.book.held == len(self.held)
        assert self.book.held_bytes == sum(size for _, size in self.held.values())
        for target, hints in self.book.targets():
            sizes = [size for node, size in self.held.values() if node == target]
            assert (hints.count, hints.size_bytes) == (len(sizes), sum(sizes))
        assert {target for target, _ in self.book.targets()} == {
            target for target, _ in self.held.values()
        }

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
        book.keep(TARGETS[0], first, None)
    assert book.has_room(TARGETS[1], min(second, 50))


def test_releasing_more_than_was_held_is_a_broken_invariant() -> None:
    """It means that a hint was counted out twice: the books are wrong, and nobody may go on."""
    book = HintBook(SETTINGS)
    with pytest.raises(AssertionError):
        book.release(TARGETS[0], 10, "delivered")


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
        book.keep(target, 1, None)
    assert [target for target, _ in book.targets()] == TARGETS[::-1]
