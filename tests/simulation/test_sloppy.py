"""Sloppy quorums: others take the place of owners that are down, and say so."""

import asyncio

import pytest

from cluster.settings import HintSettings
from kvnode.errors import Unavailable, WriteTimeout
from tests.simulation.clients import id_of_key
from tests.simulation.cluster import DOCS, SimCluster, settings_of
from tests.simulation.convergence import settle
from tests.simulation.run import seeds, simulate


@seeds(2)
def test_a_stand_in_from_another_zone_takes_the_place_of_a_down_owner(seed: int) -> None:
    """With a fourth zone the fallback adds one: the document is still in three zones."""

    async def scenario(cluster: SimCluster) -> None:
        zones = {node.id: node.zone for node in cluster.settings.node}
        key = cluster.key_of("a1", "a2", "a3")
        document_id = id_of_key(key)
        stand_in = cluster.stand_ins(document_id)[0]
        assert zones[stand_in] not in {zones[owner] for owner in cluster.owners(document_id)}
        cluster.kill("a2")
        await cluster.noticed("a2")

        created = await cluster.create("a1", "three copies", key=key, write=3)

        assert (created.stored.acked, created.stored.hints) == (3, 1)
        assert cluster.hints_of(stand_in, "a2", document_id)
        await cluster.restart("a2")
        await settle(cluster)
        assert cluster.nodes["a2"].stored(document_id) == cluster.nodes["a1"].stored(document_id)

    simulate(scenario, seed, settings_of(5, zones=4))


@seeds(2)
def test_a_strict_write_takes_no_stand_in(seed: int) -> None:
    """With sloppy=false W=3 is refused at once, leaving nothing, and W=2 needs no hint."""

    async def scenario(cluster: SimCluster) -> None:
        key = cluster.key_of("a1", "a2", "a3")
        cluster.kill("a2")
        await cluster.noticed("a2")

        with pytest.raises(Unavailable):
            await cluster.create("a1", "strict", key=key, write=3, sloppy=False)
        assert not cluster.watch.contents
        created = await cluster.create("a1", "strict", key=key, write=2, sloppy=False)

        assert (created.stored.acked, created.stored.hints) == (2, 0)

    simulate(scenario, seed, settings_of(5))


@seeds(2)
@pytest.mark.parametrize("noticed", [True, False], ids=["killed", "cut"])
def test_a_node_that_holds_a_replica_and_hints_counts_once(seed: int, noticed: bool) -> None:
    """W=2 is not met by one disk, however many hints are on it (scenario 47)."""

    async def scenario(cluster: SimCluster) -> None:
        if noticed:
            cluster.kill("a2", "a3")
            await cluster.noticed("a2", "a3")
        else:
            cluster.loop.network.partition(["a1"], ["a2", "a3"])
        with pytest.raises(Unavailable if noticed else WriteTimeout) as caught:
            await cluster.create("a1", "one disk", write=2, timeout_s=0.5)
        assert caught.value.acked == (0 if noticed else 1)
        alone = await cluster.create("a1", "one is enough", write=1)
        assert (alone.stored.acked, alone.stored.hints) == (1, 0)

    simulate(scenario, seed)


@seeds(2)
def test_with_every_owner_down_any_node_accepts_and_the_document_can_be_read(seed: int) -> None:
    """The hints alone are durable and readable; the owners get them when they are back."""

    async def scenario(cluster: SimCluster) -> None:
        owners = ["a1", "a2", "a3"]
        key = cluster.key_of(*owners)
        document_id = id_of_key(key)
        cluster.kill(*owners)
        await cluster.noticed(*owners)

        # Weak: nobody is left who could vote on the key's body.
        created = await cluster.create("a4", "orphan", key=key, write=1)

        assert (created.stored.acked, created.stored.hints) == (1, 1)

        def both_hold() -> bool:
            return all(
                any(cluster.hints_of(holder, owner, document_id) for owner in owners)
                for holder in ("a4", "a5")
            )

        await cluster.until(both_hold, 1.0, "a stand-in holds nothing")
        for via in ("a4", "a5", DOCS):
            for level in (1, 2):
                found = await cluster.read(via, document_id, read=level)
                assert found.create == created.create
        await cluster.restart(*owners)
        await settle(cluster)
        for owner in owners:
            record = cluster.nodes[owner].stored(document_id)
            assert record is not None
            assert record.create == created.create

    simulate(scenario, seed, settings_of(5))


@seeds(2)
def test_a_stand_in_without_room_for_hints_is_no_acknowledgement(seed: int) -> None:
    """Whoever can't keep a hint says so at once, and what is left is one replica."""

    async def scenario(cluster: SimCluster) -> None:
        document_id = id_of_key(cluster.key_of("a1", "a2", "a3"))
        cluster.kill("a2", "a3")
        await cluster.noticed("a2", "a3")
        started_s = cluster.loop.time()

        with pytest.raises(WriteTimeout) as caught:
            await cluster.delete("a1", document_id, write=2)

        assert caught.value.acked <= 1
        assert cluster.loop.time() - started_s < 0.1

    simulate(scenario, seed, settings_of(5, hints=HintSettings(total_bytes_max=10)))


@seeds(2)
def test_a_refused_strict_write_left_nothing_and_one_that_left_a_hint_says_so(seed: int) -> None:
    """A hint on its way to the coordinator's disk is an effect, although it counts for nothing.

    The owners that are up refuse (their copies are damaged) before that hint is durable.
    """

    async def scenario(cluster: SimCluster) -> None:
        key = cluster.key_of("a1", "a2", "a3")
        created = await cluster.create("a1", "soon damaged", key=key, write=3)
        cluster.kill("a3")
        await cluster.noticed("a3")
        for owner in ("a1", "a2"):
            cluster.nodes[owner].damage(created.document_id)
        cluster.nodes["a4"].commit_latency_s = (0.1, 0.1)

        with pytest.raises(WriteTimeout):
            await cluster.delete("a4", created.document_id, write=2, sloppy=False)

        await asyncio.sleep(0.2)
        assert cluster.hints_of("a4", "a3", created.document_id)

    simulate(scenario, seed, settings_of(5))
