"""From one ring to another: whichever way a change goes, neighbouring quorums meet."""

from collections.abc import Iterator
from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.claim import Candidate, claim
from cluster.ids import NodeId, PartitionId
from cluster.ringchange import Layout, Phase, advanced, changed, decode_layout, first_layout
from cluster.settings import NodeSettings
from kvnode.voting import Claim, judge
from tests.support.rings import member

PARTITIONS = 8


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    """Of a region that nobody changes."""
    copies = draw(st.integers(1, 3))
    count = draw(st.integers(copies, copies + 4))
    zones = st.sampled_from(["z1", "z2", "z3"])
    members = [member(f"a{number}", "a", draw(zones), number) for number in range(1, count + 1)]
    return first_layout("a", members, PARTITIONS, copies)


@st.composite
def changes(draw: st.DrawFn) -> list[Layout]:
    """All layouts that a change goes through, that before it included."""
    before = draw(layouts())
    spare = len(before.ids) - before.copies
    joining = [member(f"a{number}", "a", "z9", number) for number in range(50, 50 + 3)]
    add = joining[: draw(st.integers(0, 3))]
    most = min(len(before.ids), spare + len(add))
    remove = draw(st.permutations(before.ids))[: draw(st.integers(0, most))]
    weights = draw(
        st.dictionaries(st.sampled_from(before.ids), st.sampled_from([0.5, 2.0]), max_size=2)
    )
    return [before, *_steps(changed(before, add=add, remove=remove, weights=weights))]


def _steps(layout: Layout) -> Iterator[Layout]:
    yield layout
    while (following := advanced(layout, layout.ids)) is not None:
        yield following
        layout = following


def _written(layout: Layout, partition: PartitionId, write: int) -> list[frozenset[NodeId]]:
    """The smallest sets of nodes that acknowledge a write."""
    ring = layout.ring()
    required = write + ring.more_acks(partition)
    return [frozenset(nodes) for nodes in combinations(ring.voters(partition), required)]


def _read(layout: Layout, partition: PartitionId, read: int) -> list[frozenset[NodeId]]:
    readers = layout.ring().readers(partition)
    return [frozenset(nodes) for nodes in combinations(readers, read)]


@settings(deadline=None)
@given(changes())
def test_a_change_ends_where_claim_says(through: list[Layout]) -> None:
    """With the members that stay, each owner in a place of its own, and nothing left to move."""
    before, *_, after = through
    assert after.is_stable
    assert after.moves_left() == 0
    assert set(after.ids) == (set(before.ids) | set(through[1].joining)) - set(through[1].leaving)
    candidates = [Candidate(one.node_id, one.zone, one.host, one.weight) for one in after.members]
    assert after.new == claim(candidates, PARTITIONS, before.copies, before.new)
    epochs = [layout.epoch for layout in through]
    assert epochs == list(range(epochs[0], epochs[0] + len(epochs)))


@settings(deadline=None)
@given(changes(), st.data())
def test_whoever_reads_meets_what_a_neighbouring_phase_has_written(
    through: list[Layout], data: st.DataObject
) -> None:
    """R + W > N stays the strong mode: requests of one phase and of the next are under way at once.

    What an older phase has written the new owners take over before they are asked.
    """
    copies = through[0].copies
    write = data.draw(st.integers(1, copies))
    for one, other in (*pairwise(through), *((b, a) for a, b in pairwise(through))):
        for partition in map(PartitionId, range(PARTITIONS)):
            for written in _written(one, partition, write):
                for read in _read(other, partition, copies - write + 1):
                    assert written & read, (one.phase, other.phase, partition)


@settings(deadline=None)
@given(changes())
def test_neighbouring_phases_never_elect_two_bodies(through: list[Layout]) -> None:
    """A majority of those that count in one meets a majority of those that count in the other."""
    for one, other in pairwise(through):
        for partition in map(PartitionId, range(PARTITIONS)):
            here, there = one.ring().voters(partition), other.ring().voters(partition)
            for mine in combinations(here, len(here) // 2 + 1):
                for theirs in combinations(there, len(there) // 2 + 1):
                    assert set(mine) & set(theirs), (one.phase, other.phase)


@settings(deadline=None)
@given(changes())
def test_a_step_moves_one_owner_of_a_partition_at_most(through: list[Layout]) -> None:
    """N of them are believed at any time, and those that count are N or one more."""
    for layout in through:
        ring = layout.ring()
        for partition in map(PartitionId, range(PARTITIONS)):
            readers, voters = ring.readers(partition), ring.voters(partition)
            assert len(readers) == layout.copies
            assert set(readers) <= set(voters) <= set(ring.primaries(partition))
            assert len(ring.primaries(partition)) <= layout.copies + 1
            assert len(voters) == layout.copies + ring.more_acks(partition)


@settings(deadline=None)
@given(changes())
def test_a_phase_waits_for_every_member(through: list[Layout]) -> None:
    """Also for those that leave: they may have what nobody else has."""
    for layout in through:
        if not layout.is_stable:
            for absent in layout.ids:
                assert advanced(layout, [one for one in layout.ids if one != absent]) is None


@settings(deadline=None)
@given(changes())
def test_a_layout_survives_its_encoding_and_has_a_digest_of_its_own(through: list[Layout]) -> None:
    """It travels, and lies on disks; which one a peer knows is told by epoch and digest."""
    for layout in through:
        assert decode_layout(layout.encode()) == layout
    assert len({layout.order() for layout in through}) == len(through)


@pytest.mark.parametrize("cut", range(0, 400, 7))
def test_what_is_no_layout_is_refused(cut: int) -> None:
    """It comes over the wire."""
    encoded = first_layout("a", [member(f"a{n}", number=n) for n in (1, 2, 3)], 8, 3).encode()
    with pytest.raises(ValueError, match=r"."):
        decode_layout(encoded[: min(cut, len(encoded) - 1)])


A1, A2, A3 = (member(f"a{number}", zone=f"z{number}", number=number) for number in (1, 2, 3))
THREE = first_layout("a", [A1, A2, A3], PARTITIONS, 3)


@pytest.mark.parametrize(
    ("add", "remove", "why"),
    [
        ([], ["a9"], "a9 is no member"),
        ([A1], [], "a1 is a member of region a already"),
        ([member("b1", "b")], [], "b1 is of region b, not a"),
        ([], ["a2"], "2 nodes would be left in region a, which keeps 3 copies"),
        ([member(f"a{n}", number=n) for n in range(100, 197)], [], "at most 99 nodes"),
    ],
)
def test_what_cannot_be_done_is_refused_in_words(
    add: list[NodeSettings], remove: list[str], why: str
) -> None:
    """An operator reads them."""
    with pytest.raises(ValueError, match=why):
        changed(THREE, add=add, remove=[NodeId(one) for one in remove])


def test_a_change_waits_for_the_one_before_it() -> None:
    """Two at once would be one that nobody has planned."""
    growing = changed(THREE, add=[member("a4", zone="z1", number=4)])
    assert growing.phase is Phase.FILL
    with pytest.raises(ValueError, match="is being changed"):
        changed(growing, remove=[NodeId("a1")])


def test_votes_of_a_moving_partition_are_not_decided_by_a_tie() -> None:
    """Regression by design: who votes since it moves was not asked when the others were."""
    bodies = [b"x" * 16, b"y" * 16]
    assert judge(bodies[0], [*bodies, *bodies], 4) is not Claim.OPEN
    assert judge(bodies[0], [*bodies, *bodies], 4, moving=True) is Claim.OPEN
