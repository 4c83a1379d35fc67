"""How far a region is, as its nodes tell it: the least of them counts, and nobody takes back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.ids import NodeId
from kvnode.watermarks import Watermarks
from tests.support.rings import rings_with

B: list[NodeId] = [NodeId(name) for name in ("b1", "b2")]
RINGS = rings_with({"a": [(NodeId("a1"),)], "b": [tuple(B)]})


@given(st.lists(st.tuples(st.sampled_from(B), st.integers(0, 1 << 48))))
def test_the_slowest_node_counts(told: list[tuple[NodeId, int]]) -> None:
    """One that has told nothing yet may have anything; what was told stays true."""
    watermarks = Watermarks(RINGS, NodeId("a1"))
    for node, watermark_ms in told:
        watermarks.take(node, watermark_ms)

    latest = {node: max((ms for one, ms in told if one == node), default=0) for node in B}
    assert watermarks.of("b") == min(latest.values()) == latest[watermarks.slowest("b")]


def test_nodes_of_the_own_region_and_strangers_have_no_say() -> None:
    """They would hold it up, or run it ahead."""
    watermarks = Watermarks(RINGS, NodeId("a1"))

    for name in ("a1", "c1"):
        with pytest.raises(ValueError, match=name):
            watermarks.take(NodeId(name), 5)
    assert watermarks.regions == ["b"]
