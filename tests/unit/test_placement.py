"""Plans: whom a write is sent to and whom a read may ask, for every state of the region."""

from hypothesis import given
from hypothesis import strategies as st

from cluster.claim import Candidate, claim
from cluster.ids import NodeId, PartitionId
from cluster.ring import Ring
from kvnode.placement import Placement

PARTITIONS = 16
ONE = PartitionId(1)


class Region:
    """A ring, and who is up: a test changes ``up`` and calls ``placement.refresh``."""

    def __init__(self, nodes: int, copies: int, up: frozenset[int], *, is_client: bool) -> None:
        self.nodes = [NodeId(f"a{number}") for number in range(nodes)]
        self.zones = {node: f"z{i % 3}" for i, node in enumerate(self.nodes)}
        candidates = [Candidate(node, self.zones[node], "h", 1.0) for node in self.nodes]
        self.ring = Ring(1, PARTITIONS, copies, claim(candidates, PARTITIONS, copies))
        self.self_node = None if is_client else self.nodes[0]
        self.up = {node for i, node in enumerate(self.nodes) if i in up}
        self.latency_s: dict[NodeId, float] = {}
        self.placement = Placement(
            self.ring, self.self_node, self.zones, self.is_up, self.latency_s
        )

    def is_up(self, node: NodeId) -> bool:
        """A node is always up for itself."""
        return node == self.self_node or node in self.up


regions = st.builds(
    Region,
    st.integers(1, 7),
    st.integers(1, 3),
    st.frozensets(st.integers(0, 6)),
    is_client=st.booleans(),
)
partitions = st.integers(0, PARTITIONS - 1).map(PartitionId)


@given(regions, partitions, st.booleans())
def test_a_write_reaches_or_hints_for_every_primary_once(
    region: Region, partition: PartitionId, sloppy: bool
) -> None:
    """A primary that is neither a target nor stood in for nor uncovered would be forgotten."""
    plan = region.placement.write_plan(partition, sloppy=sloppy)
    served = [target.hint_for or target.node for target in plan.targets]
    assert sorted([*served, *plan.uncovered]) == sorted(region.ring.primaries(partition))


@given(regions, partitions, st.booleans())
def test_targets_of_a_write_are_distinct_nodes_that_are_up(
    region: Region, partition: PartitionId, sloppy: bool
) -> None:
    """One node twice would count as two copies."""
    nodes = [t.node for t in region.placement.write_plan(partition, sloppy=sloppy).targets]
    assert len(set(nodes)) == len(nodes)
    assert all(map(region.is_up, nodes))


@given(regions, partitions, st.booleans())
def test_hints_are_kept_for_down_primaries_only_and_not_at_all_when_strict(
    region: Region, partition: PartitionId, sloppy: bool
) -> None:
    """A stand-in for a node that is up would keep a write from it."""
    primaries = region.ring.primaries(partition)
    plan = region.placement.write_plan(partition, sloppy=sloppy)
    for target in plan.targets:
        if target.hint_for is None:
            assert target.node in primaries
        else:
            assert sloppy
            assert target.node not in primaries
            assert target.hint_for in primaries
            assert not region.is_up(target.hint_for)
    assert not any(map(region.is_up, plan.uncovered))


@given(regions, partitions, st.booleans())
def test_spares_are_up_and_neither_primaries_nor_targets(
    region: Region, partition: PartitionId, sloppy: bool
) -> None:
    """A spare that is asked already would add no copy."""
    plan = region.placement.write_plan(partition, sloppy=sloppy)
    targets = [target.node for target in plan.targets]
    assert len(set(plan.spares)) == len(plan.spares)
    assert all(map(region.is_up, plan.spares))
    assert not set(plan.spares) & {*targets, *region.ring.primaries(partition)}
    everyone_up = {node for node in region.nodes if region.is_up(node)}
    assert sloppy == (everyone_up <= {*targets, *plan.spares}) or everyone_up <= set(targets)
    if not sloppy:
        assert plan.spares == ()


@given(regions, partitions, st.booleans())
def test_this_node_comes_first_where_it_takes_part(
    region: Region, partition: PartitionId, sloppy: bool
) -> None:
    """Its own copy costs no hop, and a read counts it before it asks anybody."""
    targets = region.placement.write_plan(partition, sloppy=sloppy).targets
    if region.self_node in [target.node for target in targets]:
        assert targets[0].node == region.self_node
    if region.placement.owns(partition):
        assert region.placement.read_plan(partition, sloppy=sloppy)[0].node == region.self_node


@given(regions, partitions, st.booleans())
def test_a_read_may_ask_every_primary_once_and_the_reachable_ones_first(
    region: Region, partition: PartitionId, sloppy: bool
) -> None:
    """The down ones stay in: absence needs a majority of all owners, not of those at hand."""
    primaries = region.ring.primaries(partition)
    order = region.placement.read_plan(partition, sloppy=sloppy)
    nodes = [target.node for target in order]
    assert len(set(nodes)) == len(nodes)
    assert sorted(t.node for t in order if t.hint_for is None) == sorted(primaries)
    reachable = [region.is_up(node) for node in nodes]
    assert reachable == sorted(reachable, reverse=True)
    assert sloppy or len(nodes) == len(primaries)


@given(regions)
def test_a_node_owns_what_the_ring_says(region: Region) -> None:
    """It vouches for the absence of exactly these; a client owns nothing."""
    owned = [PartitionId(p) for p in range(PARTITIONS) if region.placement.owns(p)]
    assert tuple(owned) == region.placement.read_here
    assert owned == [
        p for p in range(PARTITIONS) if region.self_node in region.ring.primaries(PartitionId(p))
    ]


@given(regions, partitions, st.booleans())
def test_plans_change_only_with_a_refresh(
    region: Region, partition: PartitionId, sloppy: bool
) -> None:
    """They are cached between, and hold for the new state of the region after."""
    before = region.placement.write_plan(partition, sloppy=sloppy)
    order = region.placement.read_plan(partition, sloppy=sloppy)
    region.up ^= set(region.nodes)
    assert region.placement.write_plan(partition, sloppy=sloppy) is before
    assert region.placement.read_plan(partition, sloppy=sloppy) is order
    region.placement.refresh()
    anew = Placement(region.ring, region.self_node, region.zones, region.is_up, region.latency_s)
    for placement in (region.placement, anew):
        after = placement.write_plan(partition, sloppy=sloppy)
        assert after == anew.write_plan(partition, sloppy=sloppy)
        assert all(region.is_up(target.node) for target in after.targets)


@given(regions, st.integers(1, 3))
def test_the_share_with_a_quorum_counts_partitions_one_by_one(
    region: Region, required: int
) -> None:
    """Readiness rests on it; where a region has fewer nodes than W, all that there are will do."""
    served = 0
    for partition in range(PARTITIONS):
        primaries = region.ring.primaries(PartitionId(partition))
        up = [node for node in primaries if region.is_up(node)]
        served += len(up) >= required or len(up) == len(primaries)
    assert region.placement.quorum_share(required) == served / PARTITIONS


def test_the_nearest_is_asked_first() -> None:
    """The own zone, then what was measured to be fast; latencies are read when a plan is made."""
    region = Region(6, 3, frozenset(range(6)), is_client=False)
    partition = next(PartitionId(p) for p in range(PARTITIONS) if not region.placement.owns(p))
    primaries = region.ring.primaries(partition)
    near = next(node for node in primaries if region.zones[node] == region.zones[NodeId("a0")])
    slow, fast = [node for node in primaries if node != near]
    region.latency_s.update({slow: 0.5, fast: 0.1})
    order = region.placement.read_plan(partition, sloppy=True)
    assert [target.node for target in order] == [near, fast, slow]
