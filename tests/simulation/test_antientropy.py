"""What hints and reads did not heal, the comparison of whole partitions does."""

import asyncio
from typing import Final

from cluster.ids import DocumentId, NodeId
from cluster.settings import AntiEntropySettings, ClusterSettings, HintSettings, LifecycleSettings
from kvnode.services.budget import BURST_S
from kvnode.storage.keys import record_key
from tests.simulation.cluster import SimCluster, settings_of
from tests.simulation.convergence import wrong_books
from tests.simulation.run import seeds, simulate

INTERVAL_S: Final = 2.0
#: No hint fits.
NO_HINTS: Final = HintSettings(target_bytes_max=0, total_bytes_max=0)


def comparing(nodes: int = 3, hints: HintSettings | None = None) -> ClusterSettings:
    """A cluster that compares all the time."""
    return settings_of(nodes, hints=hints, antientropy=AntiEntropySettings(interval_s=INTERVAL_S))


def unlike(cluster: SimCluster, ids: list[DocumentId]) -> list[str]:
    """Documents that two of their owners hold differently."""
    return [
        document_id.hex()
        for document_id in ids
        if len({str(cluster.nodes[one].stored(document_id)) for one in cluster.owners(document_id)})
        != 1
    ]


def repairs(cluster: SimCluster) -> int:
    """Records that were sent or fetched to level partitions, by all nodes."""
    totals = [machine.serving.background.antientropy.totals for machine in cluster.nodes.values()]
    return sum(one.pushed + one.pulled for one in totals)


@seeds(3)
def test_what_no_hint_was_kept_for_is_healed(seed: int) -> None:
    """Creates and deletes that a node missed, in both directions of the exchange."""

    async def scenario(cluster: SimCluster) -> None:
        before = [await cluster.create("a1", f"before {number}", write=3) for number in range(6)]
        cluster.kill("a3")
        await cluster.noticed("a3")
        ids = [one.document_id for one in before]
        for number in range(6):
            created = await cluster.create("a2", f"missed {number}", write=2)
            ids.append(created.document_id)
        for document_id in ids[:3]:
            await cluster.delete("a1", document_id, write=2)
        assert not cluster.nodes["a1"].serving.replica.hints.held
        await cluster.restart("a3")
        await cluster.until(lambda: not unlike(cluster, ids), 20.0, lambda: unlike(cluster, ids))
        await cluster.until(lambda: repairs(cluster) >= 9, 5.0, lambda: repairs(cluster))

    simulate(scenario, seed, comparing(hints=NO_HINTS))


@seeds(2)
def test_a_quiescent_cluster_repairs_nothing(seed: int) -> None:
    """Not even what one replica removes a moment before another."""

    async def scenario(cluster: SimCluster) -> None:
        created = [await cluster.create("a1", f"text {n}", write=3) for n in range(5)]
        await cluster.create("a2", "short-lived", ttl_s=30, write=3)
        await cluster.delete("a2", created[0].document_id, write=3)
        await asyncio.sleep(3 * INTERVAL_S)
        before = repairs(cluster)
        await asyncio.sleep(25 * INTERVAL_S)
        assert repairs(cluster) == before
        for machine in cluster.nodes.values():
            assert all(
                one.complete_ms for one in machine.serving.background.antientropy.rounds.values()
            )

    simulate(scenario, seed, comparing())


@seeds(2)
def test_a_round_that_was_broken_off_begins_again(seed: int) -> None:
    """The peer is killed while it is compared with."""

    async def scenario(cluster: SimCluster) -> None:
        cluster.kill("a3")
        await cluster.noticed("a3")
        ids = [
            (await cluster.create("a1", f"missed {number}", write=2)).document_id
            for number in range(20)
        ]
        for _ in range(3):
            cluster.nodes["a3"].start()
            await asyncio.sleep(0.5)
            cluster.kill("a3")
        await cluster.restart("a3")
        await cluster.until(lambda: not unlike(cluster, ids), 30.0, lambda: unlike(cluster, ids))

    simulate(scenario, seed, comparing(hints=NO_HINTS))


@seeds(2)
def test_a_round_can_be_asked_for(seed: int) -> None:
    """``stele repair``: now, not at the interval."""

    async def scenario(cluster: SimCluster) -> None:
        await asyncio.sleep(5.0)  # the first rounds are over
        cluster.kill("a3")
        await cluster.noticed("a3")
        created = await cluster.create("a1", "missed", write=2)
        await cluster.restart("a3")
        ids = [created.document_id]
        await asyncio.sleep(5.0)
        for machine in cluster.nodes.values():
            machine.serving.background.antientropy.repair_now()
        await cluster.until(lambda: not unlike(cluster, ids), 5.0, lambda: unlike(cluster, ids))

    settings = settings_of(hints=NO_HINTS, antientropy=AntiEntropySettings(interval_s=1e6))
    simulate(scenario, seed, settings)


@seeds(2)
def test_a_damaged_record_is_replaced_by_the_scrub(seed: int) -> None:
    """Nobody reads it, so nobody else would notice."""

    async def scenario(cluster: SimCluster) -> None:
        created = [await cluster.create("a1", f"text {n}", write=3) for n in range(5)]
        sick, document_id = cluster.nodes["a2"], created[2].document_id
        sick.damage(document_id)
        scrub = sick.serving.background.scrub
        await cluster.until(lambda: scrub.healed_count == 1, 120.0, lambda: scrub.progress)
        assert sick.stored(document_id) == cluster.nodes["a1"].stored(document_id)
        assert sick.events("record.healed")
        before = repairs(cluster)
        await asyncio.sleep(5 * INTERVAL_S)
        assert repairs(cluster) == before, "its digest in the tree is right"

    simulate(scenario, seed, comparing())


@seeds(2)
def test_what_was_deleted_while_it_was_damaged_is_purged_in_the_end(seed: int) -> None:
    """The digest of its bucket is wrong until the scrub has been there: no owner would agree."""

    async def scenario(cluster: SimCluster) -> None:
        created = [await cluster.create("a1", f"text {n}", write=3) for n in range(6)]
        sick = cluster.nodes["a2"]
        sick.damage(created[2].document_id)
        for one in created:
            await cluster.delete("a1", one.document_id, write=2)
        purged = [machine.serving.background.sweep for machine in cluster.nodes.values()]
        await cluster.until(
            lambda: all(sweep.purged_count >= len(created) for sweep in purged),
            120.0,
            lambda: [machine.serving.background.purge.vetoes for machine in cluster.alive()],
        )
        await cluster.until(lambda: not wrong_books(cluster), 5.0, lambda: wrong_books(cluster))

    # All deletions are in one bucket of one partition.
    lifecycle = LifecycleSettings(
        tombstone_retention_s=20.0, purge_bucket_s=5.0, sweep_interval_s=1.0
    )
    often = AntiEntropySettings(interval_s=INTERVAL_S)
    simulate(scenario, seed, settings_of(partitions=1, antientropy=often, lifecycle=lifecycle))


@seeds(2)
def test_a_record_that_vanished_is_missed_by_the_scrub_and_fetched_again(seed: int) -> None:
    """Its digest is still in the tree, so that comparisons alone would never find it."""

    async def scenario(cluster: SimCluster) -> None:
        created = [await cluster.create("a1", f"text {n}", write=3) for n in range(5)]
        sick, document_id = cluster.nodes["a2"], created[2].document_id
        sick.disk.lose(record_key(document_id))
        await cluster.until(
            lambda: sick.stored(document_id) is not None, 300.0, "it is not fetched again"
        )
        assert sick.events("leaf.corrected")

    simulate(scenario, seed, comparing())


@seeds(2)
def test_a_repair_stays_within_its_rate_however_much_differs(seed: int) -> None:
    """Rate x time, a burst, one batch too long: for that a partition is left half done."""
    rate, documents, content = 32 * 1024, 400, "x" * 1000
    settings = settings_of(
        hints=NO_HINTS,
        antientropy=AntiEntropySettings(interval_s=1e6, rate_bytes_per_s=rate),
        partitions=1,
    )

    async def scenario(cluster: SimCluster) -> None:
        cluster.kill("a3")
        await cluster.noticed("a3")
        for number in range(documents):
            await cluster.create("a1", f"{number} {content}", write=2)
        before = {name: machine for name, machine in cluster.nodes.items() if name != "a3"}
        began_s = cluster.loop.time()
        await cluster.restart("a3")
        while cluster.nodes["a3"].disk.record_count() < documents:
            await asyncio.sleep(0.25)
            allowed = rate * (cluster.loop.time() - began_s + BURST_S) + 2 * 128 * 1200
            for machine in before.values():
                assert machine.serving.background.antientropy.totals.size_bytes <= allowed
        assert cluster.loop.time() - began_s > 0.5 * documents * len(content) / (2 * rate)

    simulate(scenario, seed, settings)


@seeds(2)
def test_every_peer_has_its_turn_though_one_always_has_more(seed: int) -> None:
    """Regression: the peer that was served stayed in front, and the others waited for ever."""

    async def scenario(cluster: SimCluster) -> None:
        background = cluster.nodes["a1"].serving.background
        wanted = lambda peer, limit: [0] if peer == "a2" else []  # noqa: E731
        background.levelling.wanted = wanted  # type: ignore[method-assign]
        complete = background.antientropy.rounds[NodeId("a3")]
        await cluster.until(lambda: bool(complete.complete_ms), 20, "a3 was never compared with")

    simulate(scenario, seed, settings_of(antientropy=AntiEntropySettings(interval_s=1.0)))
