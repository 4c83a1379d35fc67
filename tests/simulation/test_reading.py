"""Reads over replicas that know different things: absence, damage, tombstones, repair."""

import asyncio
from collections.abc import Callable
from typing import Final

import pytest

from cluster.ids import DocumentId, NodeId, partition_of
from cluster.settings import HintSettings
from docservice.documents import DocumentDeleted
from kvnode.codec import HEADER_BYTES
from kvnode.errors import KeyDeleted, ReadTimeout, Unavailable
from kvnode.replica import Replica
from kvnode.storage.keys import record_key
from tests.simulation.clients import id_of_key
from tests.simulation.cluster import DOCS, SimCluster, settings_of
from tests.simulation.convergence import settle
from tests.simulation.run import seeds, simulate

NODES: Final = ("a1", "a2", "a3")
#: So that nothing but reads heals a replica.
NO_HINTS: Final = HintSettings(total_bytes_max=0)
CONTENT: Final = "some content"


async def create_on(cluster: SimCluster, *holders: str) -> DocumentId:
    """A document that only these owners still have."""
    created = await cluster.create("a1", CONTENT, write=3)
    for name in NODES:
        if name not in holders:
            cluster.nodes[name].disk.lose(record_key(created.document_id))
    return created.document_id


# Absence is never guessed -----------------------------------------------------------------------


@seeds(2)
def test_a_replica_that_lost_its_disk_never_makes_a_document_absent(seed: int) -> None:
    """It asks the others, also at R=1; and gets its copy back by it (I2)."""

    async def scenario(cluster: SimCluster) -> None:
        document_id = await create_on(cluster, "a1", "a2")
        found = await cluster.read("a3", document_id, read=1)
        assert found.create.content.decode() == CONTENT
        await settle(cluster)
        assert cluster.nodes["a3"].stored(document_id) is not None

    simulate(scenario, seed)


@seeds(2)
def test_a_replica_that_has_nothing_and_is_alone_does_not_know(seed: int) -> None:
    """The owners that have the document are unreachable: 503, for 404 would be a guess (I2)."""

    async def scenario(cluster: SimCluster) -> None:
        document_id = await create_on(cluster, "a1", "a2")
        cluster.kill("a1", "a2")
        for _ in range(3):  # before the node knows that they are dead, and after
            for level in (1, 2, 3):
                with pytest.raises(Unavailable):
                    await cluster.read("a3", document_id, read=level)
            await asyncio.sleep(5.0)
        with pytest.raises(Unavailable):
            await cluster.read(DOCS, document_id)

    simulate(scenario, seed)


@seeds(2)
def test_a_stand_in_that_holds_nothing_does_not_vouch_for_absence(seed: int) -> None:
    """It was not asked to keep anything: that says nothing about the document (I2)."""

    async def scenario(cluster: SimCluster) -> None:
        owners = ("a1", "a2", "a3")
        created = await cluster.create("a1", CONTENT, key=cluster.key_of(*owners), write=3)
        cluster.kill("a1", "a2")
        await cluster.noticed("a1", "a2")
        cluster.nodes["a3"].disk.lose(record_key(created.document_id))
        for via in ("a3", "a4", "a5", DOCS):
            with pytest.raises(Unavailable):
                await cluster.read(via, created.document_id)

    simulate(scenario, seed, settings_of(5))


@seeds(2)
def test_an_owner_that_does_not_answer_in_time_is_no_absence(seed: int) -> None:
    """Two owners hang: at no moment of that is the document absent."""

    async def scenario(cluster: SimCluster) -> None:
        document_id = await create_on(cluster, "a1", "a2")
        cluster.pause("a1", "a2")
        for _ in range(12):  # until well after they are suspected
            with pytest.raises(Unavailable):
                await cluster.read("a3", document_id, timeout_s=0.5)
            await asyncio.sleep(0.2)

    simulate(scenario, seed)


@seeds(1)
def test_damaged_bytes_are_never_served(seed: int) -> None:
    """Every byte of a stored record is inverted in turn; the others serve, and it is counted."""

    async def scenario(cluster: SimCluster) -> None:
        created = await cluster.create("a1", CONTENT, write=3)
        damaged = cluster.nodes["a1"]
        size = len(damaged.disk.values[record_key(created.document_id)])
        assert size > HEADER_BYTES
        counted = 0
        for position in range(size):
            damaged.damage(created.document_id, position)
            for via, level in ("a1", 1), ("a2", 3):
                if level == 3:
                    with pytest.raises(Unavailable):  # only two can vouch for anything
                        await cluster.read(via, created.document_id, read=level)
                else:
                    found = await cluster.read(via, created.document_id, read=level)
                    assert found.create == created.create
            assert damaged.serving.replica.corrupt_count > counted
            counted = damaged.serving.replica.corrupt_count
            damaged.damage(created.document_id, position)
        await cluster.read("a1", created.document_id, read=3)

    simulate(scenario, seed)


@seeds(2)
def test_two_damaged_copies_and_one_missing_are_not_an_absent_document(seed: int) -> None:
    """A damaged copy says "unknown", so a majority for "absent" can't come together (I2)."""

    async def scenario(cluster: SimCluster) -> None:
        document_id = await create_on(cluster, "a1", "a2")
        for name in ("a1", "a2"):
            cluster.nodes[name].damage(document_id, HEADER_BYTES)
        for via in (*NODES, DOCS):
            with pytest.raises(Unavailable):
                await cluster.read(via, document_id)

    simulate(scenario, seed)


# Tombstones -------------------------------------------------------------------------------------


@seeds(3)
def test_a_delete_that_overtakes_its_create_wins(seed: int) -> None:
    """The create reaches the third replica a second after the tombstone (scenario 18)."""

    async def scenario(cluster: SimCluster) -> None:
        cluster.loop.network.latency_s["a1", "a3"] = (1.0, 1.0)
        created = await cluster.create("a1", CONTENT, key="slow", write=1)
        await cluster.delete("a3", created.document_id, write=1)
        third = cluster.nodes["a3"]
        await cluster.until(lambda: third.stored(created.document_id) is not None, 0.5, "nothing")
        record = third.stored(created.document_id)
        assert record is not None
        assert record.create is None
        await asyncio.sleep(2.0)
        record = third.stored(created.document_id)
        assert record is not None
        assert record.create is not None
        for via in (*NODES, DOCS):
            with pytest.raises(DocumentDeleted):
                await cluster.read(via, created.document_id)

    simulate(scenario, seed)


@seeds(2)
@pytest.mark.parametrize("write", [1, 2, 3])
def test_a_create_after_its_delete_is_refused(seed: int, write: int) -> None:
    """Deleting is blind: also what was never seen is deleted, and stays so (I10)."""

    async def scenario(cluster: SimCluster) -> None:
        document_id = id_of_key("deleted first")
        await cluster.delete("a2", document_id, write=3)
        for via in (*NODES, DOCS):
            with pytest.raises(KeyDeleted):
                await cluster.create(via, CONTENT, key="deleted first", write=write)
            with pytest.raises(DocumentDeleted):
                await cluster.read(via, document_id)

    simulate(scenario, seed)


# Read repair ------------------------------------------------------------------------------------


@seeds(2)
def test_a_read_repairs_every_stale_replica_that_answered(seed: int) -> None:
    """Also one whose answer was "the same as you sent", when by then more was known.

    a2 and a3 have the create, a1 alone the tombstone. a2 asks both, and a3 answers last.
    """

    async def scenario(cluster: SimCluster) -> None:
        created = await cluster.create("a1", CONTENT, write=3)
        document_id = created.document_id
        cluster.kill("a2", "a3")
        await cluster.noticed("a2", "a3")
        await cluster.delete("a1", document_id, write=1)
        await cluster.restart("a2", "a3")
        cluster.loop.network.latency_s["a3", "a2"] = (0.01, 0.01)
        await asyncio.sleep(0.1)

        with pytest.raises(DocumentDeleted):
            await cluster.read("a2", document_id, read=3)

        await settle(cluster)
        for via in NODES:
            with pytest.raises(DocumentDeleted):
                await cluster.read(via, document_id, read=1)

    simulate(scenario, seed, settings_of(hints=NO_HINTS))


def _is_low(replica: Replica, _: int) -> None:
    replica.disk_low = True


def _has_purged(replica: Replica, partition: int) -> None:
    """Of this partition, later than any document here was created: an unknown copy is late."""
    replica.set_floor(partition, replica.lifecycle.floor(partition).advance(1, 1 << 60))


@pytest.mark.parametrize("make_refuse", [_is_low, _has_purged])
@seeds(2)
def test_a_replica_that_refuses_its_own_repair_stays_connected(
    make_refuse: Callable[[Replica, int], None], seed: int
) -> None:
    """An error would end the connection on which a peer's answer is received, with all requests."""

    async def scenario(cluster: SimCluster) -> None:
        document_id = await create_on(cluster, "a1", "a2")
        serving = cluster.nodes["a3"].serving
        make_refuse(serving.replica, partition_of(document_id, cluster.ring.partitions))
        found = await cluster.read("a3", document_id, read=2)
        assert found.create.content.decode() == CONTENT
        await asyncio.sleep(0.1)
        assert cluster.nodes["a3"].stored(document_id) is None, "it was refused"
        assert all(serving.transport.connected(NodeId(peer)) for peer in ("a1", "a2"))
        assert not cluster.nodes["a3"].events("peer.disconnected")

    simulate(scenario, seed)


@seeds(2)
def test_a_stale_replica_is_healed_by_a_quorum_read_and_by_nothing_before(seed: int) -> None:
    """The weak mode at work: R=1 may be behind, R+W>N is not, and heals what it meets."""

    async def scenario(cluster: SimCluster) -> None:
        created = await cluster.create("a1", CONTENT, write=3)
        document_id = created.document_id
        cluster.kill("a3")
        await cluster.noticed("a3")
        await cluster.delete("a1", document_id, write=2)
        await cluster.restart("a3")
        found = await cluster.read("a3", document_id, read=1)
        assert found.create == created.create
        with pytest.raises(DocumentDeleted):
            await cluster.read("a3", document_id, read=2)
        await settle(cluster)
        with pytest.raises(DocumentDeleted):
            await cluster.read("a3", document_id, read=1)

    simulate(scenario, seed, settings_of(hints=NO_HINTS))


@seeds(2)
def test_a_quorum_read_that_found_a_lone_copy_spreads_it(seed: int) -> None:
    """A create that one replica took, and nobody acknowledged, stays once read (scenario 45)."""

    async def scenario(cluster: SimCluster) -> None:
        document_id = await create_on(cluster, "a1")
        await cluster.read("a1", document_id, read=2)
        await asyncio.sleep(0.1)
        cluster.kill("a1")
        await cluster.noticed("a1")
        for via in ("a2", "a3"):
            for level in (1, 2):
                await cluster.read(via, document_id, read=level)

    simulate(scenario, seed)


@seeds(2)
def test_a_quorum_read_gives_up_the_repair_of_its_own_slow_disk(seed: int) -> None:
    """Peers answer by the deadline or count as lost; this node's own replica knows none (I27)."""

    async def scenario(cluster: SimCluster) -> None:
        document_id = await create_on(cluster, "a2")
        cluster.kill("a3")
        await cluster.noticed("a3")
        cluster.nodes["a1"].commit_latency_s = (10.0, 10.0)
        with pytest.raises(ReadTimeout):
            await cluster.read("a1", document_id, read=2)

    simulate(scenario, seed)


@seeds(2)
def test_a_quorum_read_ends_when_only_a_stand_in_has_less(seed: int) -> None:
    """Another body under the key, in the weak mode: a stand-in is not repaired, so nobody is."""

    async def scenario(cluster: SimCluster) -> None:
        key = cluster.key_of("a1", "a2", "a3")
        cluster.kill("a2", "a3")
        cluster.loop.network.partition(["a1"], ["a4"])
        first = await cluster.create("a1", "first", key=key)
        await asyncio.sleep(5.0)  # later by any clock
        await cluster.create("a4", "second", key=key)
        cluster.loop.network.heal_all()
        await cluster.ready()
        assert (await cluster.read("a1", first.document_id)).create == first.create
        asked_s = cluster.loop.time()
        with pytest.raises(ReadTimeout):
            await cluster.read("a1", first.document_id, read=2)
        assert cluster.loop.time() < asked_s + 0.1, "there is nothing to wait for"

    simulate(scenario, seed, settings_of(4))


@seeds(2)
def test_a_repair_that_fails_is_made_up_for_by_the_next_read(seed: int) -> None:
    """The stale replica dies before it has what the read sent it (scenario 41)."""

    async def scenario(cluster: SimCluster) -> None:
        document_id = await create_on(cluster, "a1", "a2")
        cluster.nodes["a3"].commit_latency_s = (0.3, 0.3)
        reading = cluster.loop.create_task(cluster.read("a1", document_id, read=3))
        await asyncio.sleep(0.1)
        cluster.power_off("a3")
        with pytest.raises(ReadTimeout):
            await reading
        await cluster.restart("a3")
        assert cluster.nodes["a3"].stored(document_id) is None
        await cluster.read("a1", document_id, read=3)
        assert cluster.nodes["a3"].stored(document_id) is not None

    simulate(scenario, seed)


@seeds(2)
def test_a_read_does_not_wait_for_a_slow_replica_when_another_can_answer(seed: int) -> None:
    """It asks one more as soon as the first takes longer than usual (scenario 66)."""

    async def scenario(cluster: SimCluster) -> None:
        created = await cluster.create("a1", CONTENT, write=3)
        node = cluster.nodes["a1"].serving
        partition = partition_of(created.document_id, cluster.ring.partitions)
        _, first, _ = node.placement.read_plan(partition, sloppy=True)
        cluster.pause(first.node)
        for _ in range(5):
            started_s = cluster.loop.time()
            await cluster.read("a1", created.document_id, read=2)
            assert cluster.loop.time() - started_s < 0.1
        assert node.coordinator.counts.hedged_reads == 5

    simulate(scenario, seed)


@seeds(3)
def test_quorum_reads_are_monotone(seed: int) -> None:
    """Once a quorum has found a document, no later quorum misses it (scenario 39).

    One of three owners has it, and dies right after it was read.
    """

    async def scenario(cluster: SimCluster) -> None:
        document_id = await create_on(cluster, "a1")
        for name in ("a2", "a3"):
            cluster.nodes[name].commit_latency_s = (0.3, 0.3)
        await cluster.read("a1", document_id, read=2)
        cluster.power_off("a1")
        for via in ("a2", "a3"):
            await cluster.read(via, document_id, read=2)

    simulate(scenario, seed)
