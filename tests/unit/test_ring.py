"""The ring as a value, and who stands in for its owners."""

from collections import Counter
from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.claim import Candidate, claim
from cluster.ids import NodeId, PartitionId
from cluster.ring import Owners, Ring, fallbacks, scatter

A, B, C, D = (NodeId(name) for name in "abcd")


@st.composite
def regions(draw: st.DrawFn) -> tuple[Ring, dict[NodeId, str]]:
    """A ring of valid owners, and the zones of all members."""
    zones = {
        NodeId(f"n{i}"): f"z{zone}"
        for i, zone in enumerate(draw(st.lists(st.integers(0, 3), min_size=1, max_size=9)))
    }
    copies = draw(st.integers(1, 4))
    candidates = [Candidate(node, zone, node) for node, zone in zones.items()]
    return Ring(1, 8, copies, claim(candidates, 8, copies)), zones


@given(regions())
def test_primaries_and_partitions_are_two_views_of_one_relation(
    region: tuple[Ring, dict[NodeId, str]],
) -> None:
    """A partition's primaries list exactly those nodes that list the partition."""
    ring, zones = region
    for partition in map(PartitionId, range(ring.partitions)):
        assert ring.primaries(partition) == ring.owners[partition]
        owners = {node for node in zones if partition in ring.partitions_of(node)}
        assert owners == set(ring.primaries(partition))


@pytest.mark.parametrize(
    ("partitions", "copies", "owners", "complaint"),
    [
        (3, 1, ((A,), (A,), (A,)), "power of two"),
        (0, 1, (), "power of two"),
        (2, 1, ((A,),), "1 partitions have owners, not 2"),
        (1, 2, ((A, A),), "twice"),
        (1, 2, ((),), "0 owners"),
        (1, 2, ((A, B, C),), "3 owners"),
    ],
)
def test_a_ring_that_contradicts_itself_is_refused(
    partitions: int, copies: int, owners: Owners, complaint: str
) -> None:
    """Rings come from disk and from peers; a broken one must not place a single document."""
    with pytest.raises(ValueError, match=complaint):
        Ring(1, partitions, copies, owners)
    raw = msgspec.msgpack.encode(
        {"epoch": 1, "partitions": partitions, "copies": copies, "owners": owners}
    )
    with pytest.raises(msgspec.ValidationError, match=complaint):
        msgspec.msgpack.decode(raw, type=Ring)


@given(regions())
def test_fallbacks_are_all_other_members_once(region: tuple[Ring, dict[NodeId, str]]) -> None:
    """With every primary down any node can still accept a write."""
    ring, zones = region
    for partition in map(PartitionId, range(ring.partitions)):
        others = fallbacks(ring, partition, zones)
        assert sorted(others + ring.primaries(partition)) == sorted(zones)


@given(regions())
def test_the_next_fallback_is_in_a_zone_that_serves_the_partition_least(
    region: tuple[Ring, dict[NodeId, str]],
) -> None:
    """So a stand-in adds a zone while there is one without a copy."""
    ring, zones = region
    for partition in map(PartitionId, range(ring.partitions)):
        serving = Counter(zones[node] for node in ring.primaries(partition))
        left = list(fallbacks(ring, partition, zones))
        while left:
            assert serving[zones[left[0]]] == min(serving[zones[node]] for node in left)
            serving[zones[left.pop(0)]] += 1


@given(regions(), st.randoms(use_true_random=False))
def test_fallbacks_do_not_depend_on_the_order_of_members(
    region: tuple[Ring, dict[NodeId, str]], random: Random
) -> None:
    """Two nodes must choose the same stand-in, or a read would not find the write."""
    ring, zones = region
    shuffled = list(zones.items())
    random.shuffle(shuffled)
    assert fallbacks(ring, PartitionId(0), dict(shuffled)) == fallbacks(ring, PartitionId(0), zones)


@pytest.mark.parametrize("zone_count", [1, 3, 9])
def test_what_one_node_served_is_spread_over_all_others_when_it_fails(zone_count: int) -> None:
    """One stand-in for everything would get twice its load in the moment of a failure."""
    candidates = [Candidate(NodeId(f"n{i}"), f"z{i % zone_count}", f"h{i}") for i in range(9)]
    zones = {each.node: each.zone for each in candidates}
    ring = Ring(1, 256, 3, claim(candidates, 256, 3))
    for failed in zones:
        partitions = ring.partitions_of(failed)
        first = Counter(fallbacks(ring, partition, zones)[0] for partition in partitions)
        assert len(first) == 8
        assert max(first.values()) <= len(partitions) / 3  # an eighth each, spread by hashing


def test_scattered_numbers_are_uniform_over_partitions_and_over_nodes() -> None:
    """Both ways, for either one is held fixed somewhere."""
    by_node = Counter(scatter(7, f"n{i}") >> 61 for i in range(8_000))
    by_partition = Counter(scatter(i, "n7") >> 61 for i in range(8_000))
    for shares in (by_node, by_partition):
        assert sorted(shares) == list(range(8))
        assert max(shares.values()) < 1_150  # mean 1,000, standard deviation 30
