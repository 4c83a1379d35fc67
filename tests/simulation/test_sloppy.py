"""Sloppy quorums: others take the place of owners that are down, and say so."""

import asyncio

import pytest

from cluster.settings import HintSettings
from docservice.documents import DocumentDeleted
from kvnode.errors import Unavailable, WriteTimeout
from tests.simulation.clients import id_of_key
from tests.simulation.cluster import DOCS, SimCluster, settings_of
from tests.simulation.convergence import hints, settle
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
@pytest.mark.parametrize("down", [0, 1, 2, 3])
def test_with_stand_ins_a_level_is_reached_while_that_many_nodes_are_up(
    seed: int, down: int
) -> None:
    """Five nodes, three owners: W counts distinct nodes, and hints are told apart (I18)."""

    async def scenario(cluster: SimCluster) -> None:
        owners = ("a1", "a2", "a3")
        document_id = id_of_key(cluster.key_of(*owners))
        struck = owners[:down]
        cluster.kill(*struck)
        await cluster.noticed(*struck)
        for via in [name for name in (*cluster.nodes, DOCS) if name not in struck]:
            for level in (1, 2, 3):
                if level > len(cluster.alive()):
                    with pytest.raises(Unavailable):
                        await cluster.delete(via, document_id, write=level)
                    continue
                stored = await cluster.delete(via, document_id, write=level)
                assert stored.acked >= level
                assert stored.hints <= down
                assert stored.acked - stored.hints <= len(owners) - down
                if level > len(owners) - down:
                    with pytest.raises(Unavailable):
                        await cluster.delete(via, document_id, write=level, sloppy=False)
        await cluster.calm()
        await settle(cluster)

    simulate(scenario, seed, settings_of(5))


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
def test_a_stand_ins_copy_is_not_served_after_a_delete_that_it_missed(seed: int) -> None:
    """The hint has the create, the owners the tombstone, and it is not delivered yet (scenario 2).

    Before the cut is over a stand-in serves what it has: it can't know better.
    """

    async def scenario(cluster: SimCluster) -> None:
        owners, stand_ins = ("a1", "a2", "a3"), ("a4", "a5")
        cluster.kill(*owners)
        await cluster.noticed(*owners)
        created = await cluster.create("a4", "on stand-ins", key=cluster.key_of(*owners))
        cluster.loop.network.partition(owners, (*stand_ins, DOCS))
        for owner in owners:
            cluster.machines[owner].start()
        await cluster.until(lambda: cluster.agree(*owners), 10.0, "the owners are apart")
        await cluster.delete("a1", created.document_id, write=3)
        found = await cluster.read("a4", created.document_id)
        assert found.create == created.create
        cluster.loop.network.heal_all()
        await cluster.ready()
        assert hints(cluster)
        for via in cluster.machines:
            for level in (1, 2, 3):
                with pytest.raises(DocumentDeleted):
                    await cluster.read(via, created.document_id, read=level)
        await settle(cluster)

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
def test_one_hint_without_room_does_not_refuse_the_write(seed: int) -> None:
    """The coordinator is alone, and full of hints for two owners; the third one's is kept."""

    async def scenario(cluster: SimCluster) -> None:
        others = ("a1", "a2", "a3", "a5")
        cluster.kill(*others)
        await cluster.noticed(*others)
        filling = cluster.keys_of("a1", "a5", "a3")
        await cluster.create("a4", "x" * 400, key=next(filling))
        with pytest.raises(Unavailable):
            await cluster.create("a4", "too much", key=next(filling))
        last = cluster.key_of("a1", "a2", "a3")

        created = await cluster.create("a4", "the last", key=last)

        assert (created.stored.acked, created.stored.hints) == (1, 1)
        assert cluster.hints_of("a4", "a2", created.document_id)

    simulate(scenario, seed, settings_of(5, hints=HintSettings(target_bytes_max=560)))


@seeds(2)
def test_a_strict_write_that_left_only_hints_is_not_called_refused(seed: int) -> None:
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
            await cluster.delete("a4", created.document_id, write=1, sloppy=False)

        await asyncio.sleep(0.2)
        assert cluster.hints_of("a4", "a3", created.document_id)

    simulate(scenario, seed, settings_of(5))
