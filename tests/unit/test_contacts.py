"""Since when a region is cut off: counted from the connections, and nothing else."""

from hypothesis import given
from hypothesis import strategies as st

from cluster.ids import NodeId
from kvnode.contacts import Contacts
from tests.unit.test_watermarks import RINGS, B

STRANGERS = [NodeId("a1")]


@given(st.lists(st.tuples(st.sampled_from([*B, *STRANGERS]), st.booleans()), max_size=30))
def test_a_region_is_cut_off_from_the_end_of_its_last_connection(
    changes: list[tuple[NodeId, bool]],
) -> None:
    """Against a plain model; a change of state is told once, to the region that it is about."""
    contacts = Contacts(RINGS, NodeId("a1"), 0)
    connected: set[NodeId] = set()
    since_ms: int | None = 0
    for now_ms, (peer, is_connected) in enumerate(changes, 1):
        before = since_ms
        if peer in B:
            (connected.add if is_connected else connected.discard)(peer)
            since_ms = None if connected else now_ms if before is None else before

        told = contacts.change(peer, is_connected, now_ms)

        assert contacts.cut_off_since_ms("b") == since_ms
        assert told == ("b" if (since_ms is None) != (before is None) else None)
