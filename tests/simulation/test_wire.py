"""What a damaged wire does to connections: they end, and others take their place."""

import pytest

from cluster.ids import NodeId
from tests.simulation.cluster import SimCluster
from tests.simulation.network import SimNetwork
from tests.simulation.run import seeds, simulate

#: A byte of a frame's length: what it says grows to almost the cap.
_LENGTH_PLACE, _LENGTH_BITS = 1, 0x0F


@seeds(4)
def test_a_frame_whose_length_was_changed_does_not_hold_up_its_connection_for_long(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its end would come with a megabyte, hours later; whatever is sent behind it is lost on it."""
    waiting = {"damage"}
    carried = SimNetwork.carried

    def damaged(network: SimNetwork, source: str, target: str, part: bytes) -> bytes:
        if (source, target) != ("a1", "a2") or "now" not in waiting:
            return carried(network, source, target, part)
        waiting.clear()
        changed = bytearray(part)
        changed[_LENGTH_PLACE] ^= _LENGTH_BITS
        return bytes(changed)

    monkeypatch.setattr(SimNetwork, "carried", damaged)

    async def scenario(cluster: SimCluster) -> None:
        waiting.add("now")
        await cluster.until(lambda: not waiting, 2.0, "nothing is sent")
        peers = cluster.nodes["a2"].serving.transport._peers
        connection = peers[NodeId("a1")]
        await cluster.until(lambda: peers.get(NodeId("a1")) is not connection, 15.0, "stuck")
        await cluster.ready()
        await cluster.create("a1", "for all", write=3, sloppy=False)

    simulate(scenario, seed)
