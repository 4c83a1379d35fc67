"""The end of documents: deleted stays deleted, expired is gone, and the disk is given back."""

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Final

import pytest

from cluster.ids import DocumentId, NodeId, partition_of
from cluster.settings import AntiEntropySettings, ClusterSettings, HintSettings, LifecycleSettings
from docservice.documents import DocumentDeleted, DocumentNotFound
from kvnode.codec import encode
from kvnode.errors import StoreError
from kvnode.hints import encode_hint
from kvnode.quarantine import State
from kvnode.storage.identity import Identity
from kvnode.storage.keys import IDENTITY_KEY, hint_key
from tests.simulation.clients import CLUSTER_ID
from tests.simulation.cluster import SimCluster, settings_of
from tests.simulation.machine import COMMIT_LATENCY_S
from tests.simulation.run import seeds, simulate

RETENTION_S: Final = 20.0
#: Retention, a bucket, skew on both sides, and time for all services.
PURGED_WITHIN_S: Final = RETENTION_S + 25.0


def ending(
    nodes: int = 3,
    hints: HintSettings | None = None,
    partitions: int = 16,
    sweep_interval_s: float = 1.0,
) -> ClusterSettings:
    """A cluster whose months last seconds."""
    return settings_of(
        nodes,
        partitions=partitions,
        hints=hints,
        antientropy=AntiEntropySettings(interval_s=2.0),
        lifecycle=LifecycleSettings(
            tombstone_retention_s=RETENTION_S,
            purge_bucket_s=2.0,
            sweep_interval_s=sweep_interval_s,
            clock_skew_max_s=5.0,
        ),
    )


def holders(cluster: SimCluster, document_id: DocumentId) -> list[str]:
    """Nodes on whose disk a record is."""
    return [
        name for name, machine in cluster.nodes.items() if machine.stored(document_id) is not None
    ]


async def purged(cluster: SimCluster, document_id: DocumentId) -> None:
    """Wait until no disk holds a record."""
    await cluster.until(
        lambda: not holders(cluster, document_id),
        PURGED_WITHIN_S,
        lambda: (
            holders(cluster, document_id),
            [machine.serving.background.purge.vetoes for machine in cluster.alive()],
        ),
    )


@seeds(3)
def test_what_was_deleted_leaves_every_disk_in_the_end(seed: int) -> None:
    """410 while the tombstone is kept, 404 afterwards, and nothing is left in the trees."""

    async def scenario(cluster: SimCluster) -> None:
        created = await cluster.create("a1", "to be deleted", write=3)
        kept = await cluster.create("a2", "to be kept", write=3)
        document_id = created.document_id
        await cluster.delete("a2", document_id, write=2)
        await asyncio.sleep(RETENTION_S / 2)
        with pytest.raises(DocumentDeleted):
            await cluster.read("a3", document_id)
        await purged(cluster, document_id)
        for name in cluster.nodes:
            with pytest.raises(DocumentNotFound):
                await cluster.read(name, document_id, read=2)
            assert (await cluster.read(name, kept.document_id)).create.content == b"to be kept"
            assert cluster.nodes[name].serving.replica.records.count == 1
        verified = [machine.serving.background.verify for machine in cluster.nodes.values()]
        await cluster.until(lambda: any(one.verified_count for one in verified), 10.0, "nothing")
        assert not any(one.contradicted_count for one in verified)

    simulate(scenario, seed, ending())


@seeds(2)
def test_a_document_whose_time_has_passed_is_gone_and_then_removed(seed: int) -> None:
    """Also from a replica that missed its whole life, and nobody brings it back."""

    async def scenario(cluster: SimCluster) -> None:
        cluster.kill("a3")
        await cluster.noticed("a3")
        created = await cluster.create("a1", "short-lived", ttl_s=10, write=2)
        document_id = created.document_id
        assert (await cluster.read("a2", document_id)).create.content == b"short-lived"
        await asyncio.sleep(15.0)
        with pytest.raises((DocumentDeleted, DocumentNotFound)):
            await cluster.read("a1", document_id)
        await cluster.restart("a3")  # the hints for it arrive now
        await cluster.until(
            lambda: not holders(cluster, document_id), 30.0, lambda: holders(cluster, document_id)
        )
        await asyncio.sleep(20.0)
        assert not holders(cluster, document_id)

    simulate(scenario, seed, ending())


@seeds(2)
def test_a_node_that_is_away_holds_up_the_purge(seed: int) -> None:
    """Scenario 12, dark data: it comes back with the document, and learns that it is deleted."""

    async def scenario(cluster: SimCluster) -> None:
        created = await cluster.create("a1", "known to all", write=3)
        document_id = created.document_id
        cluster.kill("a3")
        await cluster.noticed("a3")
        await cluster.delete("a1", document_id, write=2)
        await asyncio.sleep(PURGED_WITHIN_S)
        partition = partition_of(document_id, cluster.ring.partitions)
        vetoes = [
            machine.serving.background.purge.vetoes.get(partition) for machine in cluster.alive()
        ]
        assert [veto.reason for veto in vetoes if veto is not None] == ["hints"]  # for a3
        assert holders(cluster, document_id) == ["a1", "a2", "a3"]
        await cluster.restart("a3")
        await purged(cluster, document_id)

    simulate(scenario, seed, ending())


@seeds(2)
def test_a_node_that_is_cut_off_from_all_other_owners_purges_nothing(seed: int) -> None:
    """It takes them for absent; by its floor those would be fenced that go on without it."""

    async def scenario(cluster: SimCluster) -> None:
        created = await cluster.create("a1", "known to all", write=3)
        document_id = created.document_id
        await cluster.delete("a1", document_id, write=3)
        cluster.loop.network.partition(["a3"], ["a1", "a2"])
        await cluster.until(
            lambda: holders(cluster, document_id) == ["a3"],
            2 * PURGED_WITHIN_S,
            lambda: (holders(cluster, document_id), cluster.nodes["a3"].stored(document_id)),
        )
        await asyncio.sleep(PURGED_WITHIN_S)
        assert holders(cluster, document_id) == ["a3"]
        partition = partition_of(document_id, cluster.ring.partitions)
        veto = cluster.nodes["a3"].serving.background.purge.vetoes[partition]
        assert (veto.node, veto.reason) == ("a3", "minority")

    simulate(scenario, seed, ending())


@seeds(3)
def test_a_node_that_was_away_for_too_long_is_fenced_and_brings_nothing_back(seed: int) -> None:
    """Its peers have purged without it; it has the document, and has never heard of its end."""
    return_after_a_purge(seed, COMMIT_LATENCY_S)


@seeds(2)
def test_what_a_fenced_node_puts_aside_is_not_served_while_it_leaves_a_slow_disk(seed: int) -> None:
    """Reads see the disk, and the fence falls when nothing is left to compare."""
    return_after_a_purge(seed, (0.3, 0.3))


def return_after_a_purge(seed: int, commit_latency_s: tuple[float, float]) -> None:
    """A node was away when a document was deleted and purged, and is started again."""

    async def scenario(cluster: SimCluster) -> None:
        doomed = await cluster.create("a1", "deleted while a3 was away", write=3)
        kept = await cluster.create("a1", "kept", write=3)
        cluster.kill("a3")
        await cluster.noticed("a3")
        await cluster.delete("a1", doomed.document_id, write=2)
        await cluster.until(
            lambda: holders(cluster, doomed.document_id) == ["a3"],
            2 * PURGED_WITHIN_S,
            lambda: [machine.serving.background.purge.vetoes for machine in cluster.alive()],
        )
        cluster.nodes["a3"].commit_latency_s = commit_latency_s
        cluster.nodes["a3"].start()
        await rebuilt(cluster, "a3", [kept.document_id], gone=[doomed.document_id])
        assert holders(cluster, doomed.document_id) == []
        assert len(holders(cluster, kept.document_id)) == 3
        assert cluster.nodes["a3"].events("node.fenced")
        assert cluster.nodes["a3"].events("node.rebuilt")

    simulate(scenario, seed, ending(hints=HintSettings(window_s=5.0)))


@seeds(2)
def test_a_deletion_that_only_a_returning_node_knows_of_is_not_undone(
    seed: int,
) -> None:
    """It was acknowledged. Its peers have purged past it, so its node is fenced, but not deaf."""

    async def scenario(cluster: SimCluster) -> None:
        created = await cluster.create("a1", "deleted on a1 alone", write=3)
        cluster.loop.network.partition(["a1"], ["a2", "a3"])
        await cluster.delete("a1", created.document_id, write=1)
        cluster.kill("a1")
        cluster.loop.network.heal_all()
        await cluster.noticed("a1")
        other = await cluster.create("a2", "deleted by its peers", write=2)
        await asyncio.sleep(2 * RETENTION_S)
        await cluster.delete("a2", other.document_id, write=2)
        await purged(cluster, other.document_id)
        assert holders(cluster, created.document_id) == ["a1", "a2", "a3"]
        cluster.nodes["a1"].start()
        await rebuilt(cluster, "a1", [])
        assert cluster.nodes["a1"].events("node.fenced")
        await asyncio.sleep(1.0)
        for name in cluster.nodes:
            with pytest.raises(DocumentDeleted):
                await cluster.read(name, created.document_id, read=3)
        await purged(cluster, created.document_id)

    settings = ending(hints=HintSettings(target_bytes_max=0), partitions=1, sweep_interval_s=0.02)
    simulate(scenario, seed, settings)


@seeds(2)
def test_a_copy_from_a_backup_is_quarantined_and_never_served(seed: int) -> None:
    """A hint in a restored directory: the document was deleted and purged long ago."""

    async def scenario(cluster: SimCluster) -> None:
        created = await cluster.create("a1", "deleted for good", write=3)
        document_id, record = created.document_id, cluster.nodes["a1"].stored(created.document_id)
        assert record is not None
        (outsider,) = [name for name in cluster.nodes if name not in cluster.owners(document_id)]
        target = cluster.owners(document_id)[0]
        await cluster.delete(target, document_id, write=3)
        await purged(cluster, document_id)
        cluster.kill(outsider)
        now_ms = cluster.nodes[outsider].clock.wall_ms()
        hint = encode_hint(now_ms, encode(document_id, record))
        key = hint_key(NodeId(target), document_id)
        cluster.nodes[outsider].disk.values[key] = hint
        cluster.nodes[outsider].disk.sorted_keys.append(key)
        cluster.nodes[outsider].disk.sorted_keys.sort()
        await cluster.restart(outsider)
        quarantine = cluster.nodes[target].serving.replica.quarantine
        await cluster.until(
            lambda: quarantine.counts[State.ORPHAN] == 1, 20.0, lambda: quarantine.counts
        )
        await cluster.until(
            lambda: bool(cluster.nodes[target].events("orphan.quarantined")), 1.0, "no line"
        )
        assert not holders(cluster, document_id)
        for name in cluster.nodes:
            with pytest.raises(DocumentNotFound):
                await cluster.read(name, document_id)

    simulate(scenario, seed, ending(4))


@seeds(3)
def test_a_node_on_an_old_copy_of_its_disk_brings_nothing_back(seed: int) -> None:
    """Restored after a purge: it is fenced before it says a word, and rebuilt."""

    async def scenario(cluster: SimCluster) -> None:
        doomed = await cluster.create("a1", "deleted for good", write=3)
        kept = await cluster.create("a1", "kept", write=3)
        cluster.kill("a3")
        copy = dict(cluster.nodes["a3"].disk.values)
        await cluster.restart("a3")
        later = await cluster.create("a2", "written after the copy", write=3)
        await cluster.delete("a1", doomed.document_id, write=3)
        await purged(cluster, doomed.document_id)
        cluster.kill("a3")
        cluster.replace_disk("a3", copy)
        cluster.nodes["a3"].start()
        await rebuilt(cluster, "a3", [kept.document_id], gone=[doomed.document_id])
        assert cluster.nodes["a3"].events("node.fenced")
        assert holders(cluster, doomed.document_id) == []
        for one in (kept, later):
            assert len(holders(cluster, one.document_id)) == 3
        with pytest.raises(DocumentNotFound):
            await cluster.read("a3", doomed.document_id)

    simulate(scenario, seed, ending())


@seeds(2)
@pytest.mark.parametrize("wiped", [True, False], ids=["wiped", "old copy"])
def test_a_disk_is_doubted_however_often_it_was_started_before_anybody_saw_it(
    seed: int, wiped: bool
) -> None:
    """Started again and again, it catches up with the number of boots that others know (I22)."""

    async def scenario(cluster: SimCluster) -> None:
        cluster.kill("a3")
        copy = dict(cluster.nodes["a3"].disk.values)
        await cluster.restart("a3")
        created = await cluster.create("a1", "written after the copy", write=3)
        cluster.kill("a3")
        empty = {IDENTITY_KEY: Identity(CLUSTER_ID, "a3", cluster.ring.partitions).encode()}
        cluster.replace_disk("a3", empty if wiped else copy)
        cluster.loop.network.partition(["a3"], ["a1", "a2"])
        for _ in range(4):
            cluster.nodes["a3"].start()
            await asyncio.sleep(0.5)
            cluster.kill("a3")
        cluster.loop.network.heal_all()
        cluster.nodes["a3"].start()
        await rebuilt(cluster, "a3", [created.document_id])
        assert cluster.nodes["a3"].events("node.fenced")
        assert len(holders(cluster, created.document_id)) == 3

    simulate(scenario, seed, ending())


@seeds(3)
def test_a_wiped_node_is_rebuilt_before_it_answers(seed: int) -> None:
    """Its empty disk says "unknown", never "absent", until it has everything."""

    async def scenario(cluster: SimCluster) -> None:
        created = [await cluster.create("a1", f"text {n}", write=3) for n in range(30)]
        ids = [one.document_id for one in created]
        await cluster.delete("a2", ids[0], write=3)
        cluster.kill("a2")
        identity = {IDENTITY_KEY: Identity(CLUSTER_ID, "a2", 16).encode()}
        cluster.replace_disk("a2", identity)
        cluster.nodes["a2"].start()
        await rebuilt(cluster, "a2", ids)
        for document_id in ids:
            assert "a2" in holders(cluster, document_id)
        assert cluster.nodes["a2"].events("node.rebuilt")

    simulate(scenario, seed, ending())


@seeds(2)
def test_two_wiped_owners_are_rebuilt_from_the_third(seed: int) -> None:
    """Each is fenced, and has nothing to give to the other: they must not wait for each other."""

    async def scenario(cluster: SimCluster) -> None:
        created = await cluster.create("a1", "kept", write=3)
        cluster.kill("a2", "a3")
        for name in ("a2", "a3"):
            cluster.replace_disk(name, {IDENTITY_KEY: Identity(CLUSTER_ID, name, 16).encode()})
            cluster.nodes[name].start()
        for name in ("a2", "a3"):
            await rebuilt(cluster, name, [created.document_id])
        assert len(holders(cluster, created.document_id)) == 3

    simulate(scenario, seed, ending())


async def rebuilt(
    cluster: SimCluster, name: str, ids: Iterable[DocumentId], gone: Iterable[DocumentId] = ()
) -> None:
    """Ask a node for documents until it is ready.

    It must never deny one that others have, and never serve one that is gone.
    """
    machine = cluster.nodes[name]
    await cluster.until(lambda: machine.documents is not None, 5.0, "it does not start")
    for _ in range(400):
        for document_id in ids:
            with contextlib.suppress(StoreError, DocumentDeleted):
                await cluster.read(name, document_id, timeout_s=0.5)
        for document_id in gone:
            with contextlib.suppress(StoreError, DocumentDeleted, DocumentNotFound):
                served = await cluster.read(name, document_id, timeout_s=0.5)
                raise AssertionError(f"{name} served {served.create.content!r}, which is gone")
        if not machine.serving.unready_reasons():
            return
        await asyncio.sleep(0.05)
    raise AssertionError(machine.serving.unready_reasons())
