"""Who serves a partition while some nodes are down, and whom a read asks first."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from cluster.ids import NodeId
from cluster.preference import Target, preference_list, read_order

N1, N2, N3, N4, N5 = (NodeId(f"n{i}") for i in range(1, 6))
NODES = [NodeId(f"n{i}") for i in range(9)]
ZONES = {node: f"z{i % 3}" for i, node in enumerate(NODES)}


@st.composite
def situations(draw: st.DrawFn) -> tuple[list[NodeId], list[NodeId], frozenset[NodeId]]:
    """Primaries, fallbacks, and which of all nodes are up."""
    nodes = draw(st.permutations(NODES))[: draw(st.integers(1, len(NODES)))]
    copies = draw(st.integers(1, len(nodes)))
    return nodes[:copies], nodes[copies:], draw(st.frozensets(st.sampled_from(nodes)))


Situation = tuple[list[NodeId], list[NodeId], frozenset[NodeId]]


@given(situations())
def test_targets_are_distinct_nodes_that_are_up(situation: Situation) -> None:
    """A node twice would count twice toward W without a second copy."""
    primaries, fallbacks, up = situation
    nodes = [target.node for target in preference_list(primaries, fallbacks, up)]
    assert len(set(nodes)) == len(nodes)
    assert up.issuperset(nodes)


@given(situations())
def test_there_are_n_targets_while_n_nodes_are_up(situation: Situation) -> None:
    """Sloppy quorum: a write reaches N nodes as long as there are N, and never more."""
    primaries, fallbacks, up = situation
    assert len(preference_list(primaries, fallbacks, up)) == min(len(primaries), len(up))


@given(situations())
def test_every_primary_that_is_up_is_a_target_for_itself(situation: Situation) -> None:
    """A fallback never displaces an owner, for the owner's copy is the one that lasts."""
    primaries, fallbacks, up = situation
    direct = [t.node for t in preference_list(primaries, fallbacks, up) if t.hint_for is None]
    assert direct == [primary for primary in primaries if primary in up]


@given(situations())
def test_hints_name_each_down_primary_at_most_once(situation: Situation) -> None:
    """A hint for a primary that is up would be a second copy of what it has."""
    primaries, fallbacks, up = situation
    hints = [t.hint_for for t in preference_list(primaries, fallbacks, up) if t.hint_for]
    assert len(set(hints)) == len(hints)
    assert set(hints) <= set(primaries) - up


@given(situations())
def test_targets_stand_in_the_order_of_the_primaries_that_they_serve(situation: Situation) -> None:
    """And the first fallback that is up serves the first primary that is down."""
    primaries, fallbacks, up = situation
    targets = preference_list(primaries, fallbacks, up)
    places = [primaries.index(target.hint_for or target.node) for target in targets]
    assert places == sorted(places)
    standing_in = [target.node for target in targets if target.hint_for]
    assert standing_in == [node for node in fallbacks if node in up][: len(standing_in)]


@given(situations())
def test_without_sloppiness_only_primaries_remain(situation: Situation) -> None:
    """R + W > N promises something over primaries only."""
    primaries, fallbacks, up = situation
    assert preference_list(primaries, fallbacks, up, sloppy=False) == tuple(
        Target(primary) for primary in primaries if primary in up
    )


def test_a_down_primary_is_replaced_and_remembered() -> None:
    """The example of Dynamo section 4.6: D holds what A missed, and knows for whom."""
    targets = preference_list([N1, N2, N3], [N4, N5], frozenset([N2, N3, N5]))
    assert targets == (Target(N5, hint_for=N1), Target(N2), Target(N3))


def test_with_every_primary_down_others_still_accept() -> None:
    """The cluster is available for writes while one node is."""
    assert preference_list([N1, N2], [N3, N4], frozenset([N4])) == (Target(N4, hint_for=N1),)


@given(situations(), st.data())
def test_a_read_order_is_a_permutation_with_primaries_first(
    situation: Situation, data: st.DataObject
) -> None:
    """A stand-in holds only recent hints: asked first it would say absent, and cost a hop."""
    targets = preference_list(*situation)
    reader = data.draw(st.sampled_from([None, *NODES]))
    latency_s = data.draw(st.dictionaries(st.sampled_from(NODES), st.floats(0, 1)))

    ordered = read_order(targets, reader, ZONES, latency_s)

    assert sorted(ordered, key=repr) == sorted(targets, key=repr)
    standing_in = [target.hint_for is not None for target in ordered]
    assert standing_in == sorted(standing_in)


@given(st.permutations(NODES), st.sampled_from([None, *NODES]), st.data())
def test_nearer_replicas_come_first(
    nodes: list[NodeId], reader: NodeId | None, data: st.DataObject
) -> None:
    """Itself, then its zone, then by latency; between equals the ring's order stands."""
    latency_s = data.draw(
        st.dictionaries(st.sampled_from(NODES), st.sampled_from([0.001, 0.002, 0.003]))
    )
    ordered = [t.node for t in read_order([Target(n) for n in nodes], reader, ZONES, latency_s)]

    for near, far in pairwise(ordered):
        if near == reader:
            continue
        assert far != reader
        same_zone = [reader is not None and ZONES[node] == ZONES[reader] for node in (near, far)]
        if same_zone[0] != same_zone[1]:
            assert same_zone[0]
            continue
        latencies_s = [latency_s.get(node, 0.0) for node in (near, far)]
        assert latencies_s[0] <= latencies_s[1]
        if latencies_s[0] == latencies_s[1]:
            assert nodes.index(near) < nodes.index(far)


def test_a_slow_replica_in_the_own_zone_still_comes_before_a_fast_one_elsewhere() -> None:
    """Traffic between zones costs money; hedging, not order, deals with a slow replica."""
    zones = {N1: "a", N2: "a", N3: "b"}
    ordered = read_order([Target(N3), Target(N2)], N1, zones, {N2: 0.2, N3: 0.001})
    assert ordered == (Target(N2), Target(N3))


def test_a_reader_without_a_zone_goes_by_latency_alone() -> None:
    """A separate document service is no member: no node shares a zone with it."""
    ordered = read_order([Target(N1), Target(N2)], None, {N1: "a", N2: "b"}, {N1: 2.0, N2: 1.0})
    assert ordered == (Target(N2), Target(N1))
