"""What a chaos run makes of copies: whether owners agree, and what a strike takes away for good."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from cluster.ids import DocumentId, NodeId
from kvnode.record import NEVER_MS, Create, Record, Tombstone, merge
from scripts.chaos.disks import DiskContents
from scripts.chaos.evidence import Destroyed
from scripts.chaos.replicas import UNKNOWN, Copy, Replicas, agree

NOW_MS = 1_000_000
ID = DocumentId(bytes(16))
LIVE = Record(Create(b"live", 1, NEVER_MS, bytes(32)))
OTHER = Record(Create(b"other", 2, NEVER_MS, bytes(32)))
EXPIRED = Record(Create(b"expired", 1, NOW_MS, bytes(32)))
DELETED = Record(None, Tombstone(5, 9))
BOTH = merge(LIVE, DELETED)

records = st.sampled_from([None, LIVE, OTHER, DELETED, BOTH])


@given(st.sampled_from([None, LIVE, DELETED, BOTH, EXPIRED]), st.integers(1, 5))
def test_owners_that_have_the_same_agree(record: Record | None, count: int) -> None:
    """Whatever it is, nothing included."""
    assert agree([record] * count, NOW_MS)


@given(st.lists(st.sampled_from([None, LIVE, OTHER, DELETED, BOTH, UNKNOWN]), min_size=2))
def test_owners_of_which_one_would_say_something_else_differ(held: list[Copy]) -> None:
    """Alive is never the same as gone, unknown is never the same as anything."""
    alive = [one for one in held if one in (LIVE, OTHER)]
    if UNKNOWN in held or (alive and held != alive[:1] * len(held)):
        assert not agree(held, NOW_MS)


def test_what_has_ended_is_settled_although_some_have_removed_it_already() -> None:
    """Expiry needs no word from anybody; a purge takes one disk after the other."""
    assert agree([EXPIRED, None, EXPIRED], NOW_MS)
    assert agree([DELETED, None, BOTH], NOW_MS)
    assert not agree([EXPIRED, None, EXPIRED], NOW_MS - 1)
    assert not agree([EXPIRED, UNKNOWN, EXPIRED], NOW_MS)


class _Others:
    """Two other owners."""

    def __init__(self, held: Sequence[Copy]) -> None:
        self._held = list(held)

    def owners(self, _: DocumentId) -> tuple[NodeId, ...]:
        return NodeId("a1"), NodeId("a2"), NodeId("a3")

    async def copies(
        self, documents: Sequence[DocumentId], nodes_of: Callable[[DocumentId], Iterable[NodeId]]
    ) -> list[list[Copy]]:
        assert [list(nodes_of(one)) for one in documents] == [["a2", "a3"]] * len(documents)
        return [self._held for _ in documents]


@given(records, records, records, records)
def test_a_document_is_lost_if_the_others_together_lack_anything_of_it(
    record: Record | None, hint: Record | None, second: Record | None, third: Record | None
) -> None:
    """Also a tombstone that only this disk had: then the delete is what was lost."""
    disk = DiskContents(
        {} if record is None else {ID: record}, {} if hint is None else {ID: [hint]}, {}
    )
    destroyed = Destroyed()
    others = cast("Replicas", _Others([second, third]))
    asyncio.run(destroyed.destroys("a1", disk, others, 7.0))

    here = _join(record, hint)
    elsewhere = _join(second, third)
    assert (ID in destroyed.lost) == (here is not None and _join(elsewhere, here) != elsewhere)
    assert destroyed.destroyed_since(ID, 7.0) == (here is not None)
    assert destroyed.destroyed_since(ID, 7.1) == 0


def test_an_owner_that_cannot_be_asked_vouches_for_nothing() -> None:
    """It may have the document, or not."""
    destroyed = Destroyed()
    others = cast("Replicas", _Others([UNKNOWN, None]))
    asyncio.run(destroyed.destroys("a1", DiskContents({ID: LIVE}, {}, {}), others, 7.0))
    assert ID in destroyed.lost


def _join(one: Record | None, other: Record | None) -> Record | None:
    if one is None or other is None:
        return one if other is None else other
    return merge(one, other)
