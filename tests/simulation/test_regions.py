"""Several regions: what is written in one reaches the others, whatever is between them.

``DiskWatch`` checks at every commit that what a node tells another region is true (I20), and
``level`` that in the end all owners in all regions hold the same.
"""

import asyncio
from typing import Final

import msgspec
import pytest

from cluster.ids import NodeId, uuid7
from cluster.settings import AntiEntropySettings, LifecycleSettings, LogSettings, RegionSettings
from docservice.documents import DocumentDeleted, DocumentNotFound
from kvnode.errors import Unavailable
from kvnode.storage.identity import Identity
from kvnode.storage.keys import IDENTITY_KEY, OUTBOX_PREFIX
from tests.simulation.cluster import SimCluster, settings_of
from tests.simulation.convergence import ended, level
from tests.simulation.run import seeds, simulate

A: Final = ("a1", "a2", "a3")
B: Final = ("b1", "b2", "b3")
#: Nothing but the outbox brings anything to another region.
SHIPPED = RegionSettings(ship_interval_s=0.1)
TWO = settings_of(regions="ab", between=SHIPPED)
#: The owners in one region are levelled soon, as a power cut takes hints with it.
LEVELLED = settings_of(
    regions="ab", between=SHIPPED, antientropy=AntiEntropySettings(interval_s=1.0)
)
#: Months that last seconds.
SHORT = LifecycleSettings(tombstone_retention_s=3.0, purge_bucket_s=0.5, sweep_interval_s=0.3)
#: And comparisons that follow.
COMPARED = settings_of(
    regions="ab",
    between=RegionSettings(ship_interval_s=0.1, compare_interval_s=1.0),
    antientropy=AntiEntropySettings(interval_s=1.0),
    lifecycle=SHORT,
)


def cut_off(cluster: SimCluster, region: str = "b") -> None:
    """Nothing gets from a region to the others, nor back."""
    cluster.note(f"region {region} is cut off")
    others = [name for name in cluster.machines if name not in cluster.region(region)]
    cluster.loop.network.partition(cluster.region(region), others)


async def heal(cluster: SimCluster) -> None:
    """The network is whole again."""
    cluster.note("healed")
    cluster.loop.network.heal_all()
    await cluster.ready()


def logged(cluster: SimCluster) -> int:
    """Entries of all outboxes."""
    disks = [machine.disk for machine in cluster.nodes.values()]
    return sum(key.startswith(OUTBOX_PREFIX) for disk in disks for key in disk.values)


@seeds(2)
def test_what_is_written_in_one_region_is_in_the_other_soon(seed: int) -> None:
    """At the least quorum, so that nothing but the outbox can have brought it."""

    async def scenario(cluster: SimCluster) -> None:
        created = [await cluster.create("a1", "from a"), await cluster.create("b2", "from b")]
        await cluster.delete("a2", created[1].document_id)
        await level(cluster)
        assert (
            await cluster.read("b3", created[0].document_id, read=3)
        ).create.content == b"from a"
        for via in ("a3", "b1"):
            with pytest.raises(DocumentDeleted):
                await cluster.read(via, created[1].document_id, read=3)
        assert logged(cluster) == 0

    simulate(scenario, seed, TWO)


@seeds(2)
def test_a_region_that_is_cut_off_serves_and_catches_up(seed: int) -> None:
    """Nobody on either side hears of the cut: it costs freshness, never an answer."""

    async def scenario(cluster: SimCluster) -> None:
        first = await cluster.create("a1", "before the cut", write=3)
        await level(cluster)
        cut_off(cluster)
        await asyncio.sleep(6)
        told = cluster.nodes["b1"].serving.watermarks.of("a")
        for number in range(30):
            await cluster.create(A[number % 3], f"{number} in a", write=2)
            await cluster.create(B[number % 3], f"{number} in b", write=2)
        await cluster.delete("b1", first.document_id, write=2)
        assert (await cluster.read("a1", first.document_id)).create.content == b"before the cut"
        assert cluster.nodes["b1"].serving.watermarks.of("a") == told
        await heal(cluster)
        await level(cluster)
        await cluster.until(
            lambda: cluster.nodes["b1"].serving.watermarks.of("a") > told, 5, "the watermark stands"
        )
        assert cluster.nodes["a1"].serving.background.antientropy.totals.pulled == 0

    simulate(scenario, seed, TWO)


@seeds(2)
def test_a_document_that_one_region_deletes_while_the_other_is_cut_off_stays_deleted(
    seed: int,
) -> None:
    """Also if the other side creates it anew meanwhile, under its key: the tombstone settles it."""

    async def scenario(cluster: SimCluster) -> None:
        created = await cluster.create("a1", "content", key="key", write=3)
        await level(cluster)
        cut_off(cluster)
        await cluster.delete("a2", created.document_id, write=2)
        again = await cluster.create("b2", "content", key="key", write=2)
        assert again.replayed
        await heal(cluster)
        await level(cluster)
        for via in (*A, *B):
            with pytest.raises(DocumentDeleted):
                await cluster.read(via, created.document_id)

    simulate(scenario, seed, TWO)


@seeds(3)
def test_a_coordinator_that_dies_ships_what_it_acknowledged_when_it_is_back(seed: int) -> None:
    """Its entry is as durable as its copy; until then the watermark says that something lacks."""

    async def scenario(cluster: SimCluster) -> None:
        cut_off(cluster)
        created = [await cluster.create("a1", f"document {number}") for number in range(5)]
        cluster.power_off("a1")
        await heal(cluster)
        await asyncio.sleep(3)
        told = cluster.nodes["b1"].serving.watermarks.of("a")
        assert all(one.create.created_at_ms >= told - 10_000 for one in created)
        assert logged(cluster) >= 5
        await cluster.restart("a1")
        await level(cluster)
        for one in created:
            await cluster.read("b1", one.document_id, read=2)
        assert cluster.nodes["a2"].serving.replica.records.count == 5

    simulate(scenario, seed, TWO)


@seeds(3)
def test_a_node_that_takes_a_batch_and_dies_leaves_no_hole(seed: int) -> None:
    """Whatever it had stored is sent again, to another one."""

    async def scenario(cluster: SimCluster) -> None:
        cut_off(cluster)
        for number in range(40):
            await cluster.create("a1", f"document {number}")
        await heal(cluster)
        await asyncio.sleep(cluster.loop.stream("death").uniform(0, 0.3))
        cluster.power_off("b1")
        await asyncio.sleep(1)
        for number in range(10):
            await cluster.create("a2", f"another {number}")
        await cluster.until(
            lambda: not cluster.nodes["a1"].serving.replica.outbox.waiting("b"), 20, "not shipped"
        )
        await cluster.restart("b1")
        await level(cluster)

    simulate(scenario, seed, TWO)


@seeds(2)
def test_an_outbox_that_overflows_owes_comparisons_and_pays_them(seed: int) -> None:
    """Nothing is dropped in silence: what left the log is found by comparing partitions."""
    settings = settings_of(
        regions="ab", between=RegionSettings(ship_interval_s=0.1, outbox_bytes_max=400)
    )

    async def scenario(cluster: SimCluster) -> None:
        cut_off(cluster)
        for number in range(60):
            await cluster.create(A[number % 3], f"document {number}")
        await cluster.until(
            lambda: all(not cluster.nodes[name].serving.replica.outbox.overflowing for name in A),
            10,
            "still too much",
        )
        assert sum(cluster.nodes[name].serving.replica.outbox.dropped_count for name in A) > 20
        cluster.power_off("a2")  # what is owed is on disk
        cluster.nodes["a2"].start()
        assert any(cluster.nodes[name].serving.replica.outbox.owed("b") for name in A)
        await heal(cluster)
        await level(cluster)
        assert cluster.nodes["b1"].serving.replica.records.count == 60

    simulate(scenario, seed, settings)


@seeds(2)
def test_a_stand_in_that_overflows_entrusts_what_only_it_has(seed: int) -> None:
    """It coordinates for documents that it does not own: its outbox holds whole records of them."""
    settings = settings_of(
        5, regions="ab", between=RegionSettings(ship_interval_s=0.1, outbox_bytes_max=400)
    )

    async def scenario(cluster: SimCluster) -> None:
        cut_off(cluster)
        for number in range(40):
            await cluster.create("a1", f"document {number}", key=f"key {number}")
        outbox = cluster.nodes["a1"].serving.replica.outbox
        await cluster.until(lambda: not outbox.overflowing, 20, "still too much")
        assert outbox.dropped_count > 20
        await heal(cluster)
        await level(cluster)
        assert all(machine.disk.values for machine in cluster.nodes.values())

    simulate(scenario, seed, settings)


@seeds(2)
def test_what_only_a_stand_in_has_stays_in_its_outbox_until_an_owner_takes_it(seed: int) -> None:
    """However full the outbox is: nobody could ever compare what no owner has."""
    settings = settings_of(
        5, regions="ab", between=RegionSettings(ship_interval_s=0.1, outbox_bytes_max=400)
    )

    async def scenario(cluster: SimCluster) -> None:
        owners, holder = ("a3", "a4", "a5"), "a1"
        keys = [key for _, key in zip(range(10), cluster.keys_of(*owners), strict=False)]
        cut_off(cluster)
        others = [name for name in cluster.machines if name != holder]
        cluster.loop.network.partition([holder], others)
        up = cluster.nodes[holder].serving.is_up
        await cluster.until(lambda: not any(up(NodeId(one)) for one in owners), 10, "still up")
        for key in keys:
            await cluster.create(holder, key, key=key)
        outbox = cluster.nodes[holder].serving.replica.outbox
        await asyncio.sleep(5)
        assert outbox.waiting("b") == len(keys)
        assert outbox.overflowing
        await heal(cluster)
        await level(cluster)

    simulate(scenario, seed, settings)


@seeds(3)
def test_a_region_without_power_in_the_middle_of_a_batch_leaves_no_hole(seed: int) -> None:
    """An acknowledgement says that it is on a majority of the disks there."""

    async def scenario(cluster: SimCluster) -> None:
        chance = cluster.loop.stream("power")
        for name in B:
            cluster.nodes[name].commit_latency_s = (0.1, 0.4)
        for _ in range(3):
            for number in range(8):
                await cluster.create("a1", f"document {number}")
            await asyncio.sleep(chance.uniform(0.1, 0.6))
            cluster.power_off(*B)
            await asyncio.sleep(1)
            await cluster.restart(*B)
        await level(cluster)

    simulate(scenario, seed, LEVELLED)


@seeds(2)
def test_a_node_that_loses_its_disk_with_its_outbox_owes_all_of_it(seed: int) -> None:
    """What it acknowledged and had not shipped is on other disks of its region, and found there."""

    async def scenario(cluster: SimCluster) -> None:
        await level(cluster)
        cut_off(cluster)
        created = [await cluster.create("b1", f"document {n}", write=3) for n in range(8)]
        cluster.kill("b1")
        identity = Identity(cluster.settings.cluster_id, "b1", cluster.rings.partitions)
        cluster.replace_disk("b1", {IDENTITY_KEY: identity.encode()})
        cluster.nodes["b1"].start()
        await cluster.until(lambda: bool(cluster.nodes["b1"].events("node.rebuilt")), 60, "fenced")
        outbox = cluster.nodes["b1"].serving.replica.outbox
        assert len(outbox.owed("a")) == cluster.rings.partitions
        await heal(cluster)
        await level(cluster)
        for one in created:
            await cluster.read("a1", one.document_id, read=3)
        await cluster.until(
            lambda: bool(cluster.nodes["a1"].serving.watermarks.of("b")), 10, "it stands still"
        )

    simulate(scenario, seed, COMPARED)


@seeds(2)
def test_what_gets_through_one_way_only_is_no_acknowledgement(seed: int) -> None:
    """Writes arrive, their acknowledgements don't: nothing leaves the outbox."""

    async def scenario(cluster: SimCluster) -> None:
        for one in B:
            for other in A:
                cluster.loop.network.cut(one, other)
        for number in range(10):
            await cluster.create("a1", f"document {number}")
        await asyncio.sleep(8)
        assert cluster.nodes["a1"].serving.replica.outbox.waiting("b") == 10
        await heal(cluster)
        await level(cluster)

    simulate(scenario, seed, TWO)


@seeds(2)
def test_a_region_whose_disks_are_all_lost_is_rebuilt_from_another(seed: int) -> None:
    """Nobody there remembers that there was anything: the other region does."""

    async def scenario(cluster: SimCluster) -> None:
        created = [await cluster.create("b1", f"document {n}", write=3) for n in range(10)]
        await cluster.delete("a1", created[0].document_id, write=3)
        await level(cluster)
        cluster.kill(*B)
        for name in B:
            identity = Identity(cluster.settings.cluster_id, name, cluster.rings.partitions)
            cluster.replace_disk(name, {IDENTITY_KEY: identity.encode()})
        await cluster.create("a2", "meanwhile")
        for name in B:
            cluster.note(f"{name} starts")
            cluster.nodes[name].start()
        await cluster.until(lambda: _rebuilt(cluster), 60, "not rebuilt")
        await level(cluster)
        assert cluster.nodes["b1"].serving.replica.records.count == 11
        await cluster.until(
            lambda: all(cluster.nodes[name].serving.watermarks.of("b") for name in A),
            10,
            "what b owes is not paid",
        )

    simulate(scenario, seed, COMPARED)


def _rebuilt(cluster: SimCluster) -> bool:
    """Whether every node of region b has asked for nothing more, and has been fenced before."""
    machines = [cluster.nodes[name] for name in B]
    return all(machine.events("node.rebuilt") for machine in machines)


@seeds(2)
def test_a_purge_waits_for_a_region_that_is_cut_off(seed: int) -> None:
    """It may lack the tombstone, or have been told less; afterwards all of it goes everywhere."""

    async def scenario(cluster: SimCluster) -> None:
        documents = [await cluster.create("b1", f"document {n}", write=3) for n in range(2)]
        await level(cluster)
        await cluster.delete("a1", documents[0].document_id, write=3)
        await level(cluster)
        cut_off(cluster)
        await cluster.delete("a1", documents[1].document_id, write=3)
        await asyncio.sleep(30)
        for machine in cluster.nodes.values():
            assert all(machine.stored(one.document_id) for one in documents)
        assert {reason for _, reason in vetoes(cluster)} <= {"outbox", "unreachable", "timeout"}
        assert {node[0] for node, reason in vetoes(cluster) if reason != "outbox"} <= {"b"}
        found = await cluster.read("b2", documents[1].document_id)
        assert found.create.content == b"document 1"
        await heal(cluster)
        await level(cluster)
        await ended(cluster)
        for machine in cluster.nodes.values():
            assert not any(machine.stored(one.document_id) for one in documents)

    simulate(scenario, seed, COMPARED)


def vetoes(cluster: SimCluster) -> list[tuple[str, str]]:
    """Of purges that region a proposes: which node, and why."""
    purges = [cluster.nodes[name].serving.background.purge for name in A]
    return [(veto.node, veto.reason) for purge in purges for veto in purge.vetoes.values()]


@seeds(2)
def test_two_bodies_under_one_key_in_two_regions_end_as_one(seed: int) -> None:
    """The earlier one, on every disk, and every region that had the other one has counted it."""

    async def scenario(cluster: SimCluster) -> None:
        cut_off(cluster)
        first = await cluster.create("a1", "body of a", key="key", write=2)
        await asyncio.sleep(5)  # more than clocks differ
        second = await cluster.create("b1", "body of b", key="key", write=2)
        assert first.document_id == second.document_id
        await heal(cluster)
        await level(cluster)
        for via in (*A, *B):
            assert (await cluster.read(via, first.document_id)).create.content == b"body of a"
        losers = [name for name in B if cluster.nodes[name].serving.replica.conflicts.count]
        assert losers
        for name in losers:
            cluster.kill(name)
            await cluster.restart(name)
            (conflict,) = cluster.nodes[name].serving.replica.conflicts.newest(9)
            assert conflict.document_id == first.document_id
            assert conflict.kept_created_at_ms < conflict.lost_created_at_ms
            assert conflict.kept_fingerprint != conflict.lost_fingerprint

    simulate(scenario, seed, TWO)


def test_many_keys_with_two_bodies_are_a_few_lines_and_all_listed() -> None:
    """A client that has it wrong has it wrong with every key; the log's lines are for people."""
    settings = msgspec.structs.replace(TWO, log=LogSettings(documents_per_s=2))

    async def scenario(cluster: SimCluster) -> None:
        cut_off(cluster)
        for via in ("a1", "b1"):
            for number in range(20):
                await cluster.create(via, f"body of {via}", key=f"key {number}", write=2)
            await asyncio.sleep(5)  # more than clocks differ
        await heal(cluster)
        await level(cluster)
        for name in B:
            met = cluster.nodes[name].serving.replica.conflicts
            told = cluster.nodes[name].events("document.key_conflict")
            assert len(met) == 20
            assert 0 < len(told) < 20
            assert sum(1 + line.fields.get("unlogged", 0) for line in told) <= 20
            for line in told:
                assert sum(0 <= one.at_s - line.at_s < 0.99 for one in told) <= 2

    simulate(scenario, 0, settings)


@seeds(3)
def test_three_regions_pass_nothing_on(seed: int) -> None:
    """Each write is shipped once to each other region, by whoever coordinated it."""
    settings = settings_of(regions="abc", between=SHIPPED)

    async def scenario(cluster: SimCluster) -> None:
        for number in range(30):
            via = ("a1", "b2", "c3")[number % 3]
            await cluster.create(via, f"document {number}", write=2)
        await asyncio.sleep(5)
        shipped = [
            shipping.shipped_count
            for machine in cluster.nodes.values()
            for shipping in machine.serving.background.shipping.values()
        ]
        assert sum(shipped) == 2 * 30
        await level(cluster)

    simulate(scenario, seed, settings)


@seeds(2)
def test_what_was_just_created_is_found_from_another_region(seed: int) -> None:
    """Its id is younger than what is known of that region, which is asked before a 404."""

    async def scenario(cluster: SimCluster) -> None:
        for number in range(10):
            created = await cluster.create(A[number % 3], f"document {number}", write=2)
            try:
                found = await cluster.read(B[number % 3], created.document_id)
            except DocumentNotFound:
                pytest.fail("what one region has acknowledged is absent in the other")
            assert found.create.content == f"document {number}".encode()
        asked = [cluster.nodes[name].serving.elsewhere.found_count for name in B]
        assert sum(asked) > 0

    simulate(scenario, seed, TWO)


@seeds(2)
def test_a_young_miss_is_no_absence_while_the_other_region_is_cut_off(seed: int) -> None:
    """503, to be repeated; an id that is older than the watermark is absent for certain."""

    async def scenario(cluster: SimCluster) -> None:
        await level(cluster)
        await asyncio.sleep(3)
        told = min(cluster.nodes[name].serving.watermarks.of("a") for name in B)
        old = uuid7(told - 20_000, bytes(range(10)))
        cut_off(cluster)
        await asyncio.sleep(6)
        young = (await cluster.create("a1", "unknown there", write=2)).document_id
        for via in B:
            with pytest.raises(Unavailable):
                await cluster.read(via, young)
            with pytest.raises(DocumentNotFound):
                await cluster.read(via, old)
        await heal(cluster)
        for via in B:
            assert (await cluster.read(via, young)).create.content == b"unknown there"

    simulate(scenario, seed, TWO)
