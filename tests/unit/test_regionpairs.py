"""What the nodes of all regions say, as one line for each pair of regions."""

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from cluster.regionpairs import RegionSeen, pairs

NODES = {"a": ["a1", "a2"], "b": ["b1", "b2"]}
SEEN = RegionSeen(["x"], 1.0, "x", 0, 0)
seen = st.builds(
    RegionSeen,
    connected=st.just([]),
    lag_s=st.none(),
    slowest=st.sampled_from(["b1", "b2"]),
    waiting=st.integers(0, 9),
    comparisons_owed=st.integers(0, 9),
    watermark_ms=st.none() | st.integers(1, 9),
    cut_off_since_ms=st.none() | st.integers(1, 9),
    fullness=st.floats(0, 2),
)


@given(
    st.dictionaries(st.sampled_from(NODES["a"]), seen),
    st.dictionaries(st.sampled_from(NODES["b"]), seen),
)
def test_a_pair_knows_what_the_nodes_that_answer_know_together(
    of_b: dict[str, RegionSeen], of_a: dict[str, RegionSeen]
) -> None:
    """The latest watermark, all that waits, and cut off only if none gets through."""
    said = {node: {"b": one} for node, one in of_b.items()}
    said |= {node: {"a": one} for node, one in of_a.items()}

    there, back = pairs(NODES, said)

    assert (there.source, there.target, back.source, back.target) == ("a", "b", "b", "a")
    known = [one.watermark_ms for one in of_a.values() if one.watermark_ms is not None]
    assert there.watermark_ms == max(known, default=None)
    assert there.waiting == sum(one.waiting for one in of_b.values())
    assert there.fullness == max((one.fullness for one in of_b.values()), default=0)
    cut = [name for name in NODES["a"] if name in of_b and of_b[name].cut_off_since_ms]
    assert there.cut_off == cut
    assert (there.cut_off_since_ms is not None) == (bool(of_b) and len(cut) == len(of_b))


def test_a_node_that_has_just_started_does_not_hide_what_others_know() -> None:
    """It has been told nothing yet, and what waits on others is still there."""
    old = replace(SEEN, watermark_ms=5, waiting=3)
    new = replace(SEEN, watermark_ms=None, lag_s=None)

    there, back = pairs(NODES, {"a1": {"b": new}, "a2": {"b": old}})

    assert (back.watermark_ms, back.lag_s) == (5, 1.0)
    assert there.waiting == 3
    assert there.watermark_ms is None


def test_a_cluster_of_one_region_has_no_pairs() -> None:
    """So nothing is said of regions there."""
    assert pairs({"a": ["a1"]}, {"a1": {}}) == []
