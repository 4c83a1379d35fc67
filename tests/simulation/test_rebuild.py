"""Fenced partitions are rebuilt from whoever can be believed, and never wait for whoever cannot."""

import asyncio
from math import inf

import pytest

from cluster.ids import NodeId
from cluster.settings import AntiEntropySettings
from kvnode.rpc.operations import FetchResult
from kvnode.storage.identity import Identity, Replaced
from kvnode.storage.keys import IDENTITY_KEY, REPLACED_KEY
from tests.simulation.clients import CLUSTER_ID
from tests.simulation.cluster import SimCluster, settings_of
from tests.simulation.run import seeds, simulate
from tests.simulation.test_lifecycle import rebuilt

OFTEN = settings_of(antientropy=AntiEntropySettings(interval_s=2.0))


@seeds(2)
def test_when_all_owners_are_fenced_an_operator_can_trust_one_of_them(seed: int) -> None:
    """Without that nobody has anything to rebuild from, and the documents are out of reach."""

    async def scenario(cluster: SimCluster) -> None:
        created = await cluster.create("a1", "out of reach", write=3)
        for machine in cluster.nodes.values():
            fence_all(cluster, machine.name)
        with_quorum = [name for name in cluster.nodes if not unready(cluster, name)]
        assert with_quorum == []
        trusted = cluster.nodes["a2"].serving
        trusted.background.rebuild.trust(trusted.jobs)
        await cluster.until(
            lambda: not any(unready(cluster, name) for name in cluster.nodes),
            60.0,
            lambda: [unready(cluster, name) for name in cluster.nodes],
        )
        for name in cluster.nodes:
            found = await cluster.read(name, created.document_id, read=3)
            assert found.create.content == b"out of reach"

    simulate(scenario, seed, OFTEN)


@seeds(3)
def test_a_node_is_not_rebuilt_from_one_that_is_in_doubt_of_its_own_disk(seed: int) -> None:
    """It says "unknown" to whoever fetches a record: that is not all that there is."""

    async def scenario(cluster: SimCluster) -> None:
        created = await cluster.create("a1", "only a3 has it", write=3)
        cluster.kill("a1", "a2")
        partitions = cluster.ring.partitions
        identity = Identity(CLUSTER_ID, "a1", partitions)
        cluster.replace_disk("a1", {IDENTITY_KEY: identity.encode()})
        in_doubt, machine = cluster.nodes["a3"].serving, cluster.nodes["a1"]
        in_doubt.replica.leased_until_s = [-inf] * partitions
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(in_doubt.checkin, "_grant", lambda partition: None)
            machine.start()
            await cluster.until(lambda: bool(machine.events("node.fenced")), 10.0, "not fenced")
            await asyncio.sleep(5.0)
            assert len(machine.serving.background.rebuild.fenced()) == partitions
        await rebuilt(cluster, "a1", (created.document_id,))
        assert machine.stored(created.document_id) is not None

    simulate(scenario, seed, OFTEN)


def fence_all(cluster: SimCluster, name: str) -> None:
    """As if its disk were an old copy."""
    replica = cluster.nodes[name].serving.replica
    for partition in range(cluster.ring.partitions):
        replica.set_fenced(partition, True)


def unready(cluster: SimCluster, name: str) -> list[str]:
    """Why a node does not serve."""
    return cluster.nodes[name].serving.unready_reasons()


@seeds(3)
def test_two_replacements_say_unknown_although_neither_remembers_the_other(seed: int) -> None:
    """Their databases say so: each would confirm any boot of the other."""

    async def scenario(cluster: SimCluster) -> None:
        created = await cluster.create("a1", "only a3 has it", write=3)
        cluster.kill("a1", "a2", "a3")
        partitions = cluster.ring.partitions
        for name in ("a1", "a2"):
            values = {
                IDENTITY_KEY: Identity(CLUSTER_ID, name, partitions).encode(),
                REPLACED_KEY: Replaced(0, "an operator replaced it", "").encode(),
            }
            cluster.replace_disk(name, values)
            cluster.nodes[name].start()
        machine = cluster.nodes["a1"]
        await cluster.until(
            lambda: (
                machine.documents is not None and machine.serving.transport.connected(NodeId("a2"))
            ),
            10.0,
            "they do not start",
        )
        for _ in range(40):
            said = machine.serving.replica.fetch(created.document_id, None)
            assert said[0] is FetchResult.UNKNOWN, "of a document that it has never heard of"
            await asyncio.sleep(0.1)
        cluster.nodes["a3"].start()
        await rebuilt(cluster, "a1", (created.document_id,))
        assert machine.stored(created.document_id) is not None

    simulate(scenario, seed, OFTEN)
