"""Several regions: what is written in one reaches the others, whatever is between them.

``DiskWatch`` checks at every commit that what a node tells another region is true (I20), and
``level`` that in the end all owners in all regions hold the same.
"""

import asyncio
from typing import Final

import pytest

from cluster.settings import AntiEntropySettings, LifecycleSettings, RegionSettings
from docservice.documents import DocumentDeleted
from kvnode.storage.keys import OUTBOX_PREFIX
from tests.simulation.cluster import SimCluster, settings_of
from tests.simulation.convergence import level
from tests.simulation.run import seeds, simulate

A: Final = ("a1", "a2", "a3")
B: Final = ("b1", "b2", "b3")
#: Nothing but the outbox brings anything to another region.
SHIPPED = RegionSettings(ship_interval_s=0.1)
TWO = settings_of(regions="ab", between=SHIPPED)
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


@seeds(4)
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


@seeds(6)
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


@seeds(6)
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


@seeds(8)
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


@seeds(8)
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


@seeds(6)
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
