"""A node believes its disk while others vouch for it, and not a moment longer."""

import asyncio
from typing import Final

from cluster.ids import DocumentId
from cluster.settings import HintSettings
from docservice.documents import DocumentNotFound, Found
from kvnode.errors import StoreError
from kvnode.storage.keys import BOOT_PREFIX
from scripts.checker.history import NoAnswer
from tests.simulation.cluster import SimCluster
from tests.simulation.run import seeds, simulate
from tests.simulation.test_lifecycle import PURGED_WITHIN_S, ending, holders, rebuilt

LINK_S: Final = 0.5


async def shown(cluster: SimCluster, node: str, document_id: DocumentId) -> object:
    """What a node answers to a read at R=1, or the error."""
    try:
        return await cluster.read(node, document_id)
    except (StoreError, NoAnswer) as error:
        return error


@seeds(4)
def test_a_node_that_is_cut_off_for_long_shows_nothing_that_was_purged(seed: int) -> None:
    """It is up all the time, and asked all the time: before the others purge it is in doubt."""

    async def scenario(cluster: SimCluster) -> None:
        doomed = await cluster.create("a1", "deleted while a3 was cut off", write=3)
        kept = await cluster.create("a1", "kept", write=3)
        cluster.loop.network.partition(["a3"], ["a1", "a2"])
        assert not isinstance(await shown(cluster, "a3", kept.document_id), StoreError)
        await cluster.delete("a1", doomed.document_id, write=2)
        give_up_s = cluster.loop.time() + 2 * PURGED_WITHIN_S
        while holders(cluster, doomed.document_id) != ["a3"]:
            assert cluster.loop.time() < give_up_s
            await asyncio.sleep(0.2)
        assert isinstance(await shown(cluster, "a3", doomed.document_id), StoreError)
        cluster.loop.network.heal_all()
        while holders(cluster, doomed.document_id):
            answer = await shown(cluster, "a3", doomed.document_id)
            assert not isinstance(answer, Found), answer
            assert cluster.loop.time() < give_up_s + PURGED_WITHIN_S
            await asyncio.sleep(0.01)
        await rebuilt(cluster, "a3", (doomed.document_id, kept.document_id))
        assert cluster.nodes["a3"].events("node.fenced")

    simulate(scenario, seed, ending(hints=HintSettings(window_s=5.0)))


@seeds(4)
def test_a_node_that_was_paused_for_long_wakes_in_doubt(seed: int) -> None:
    """What waited in its sockets meanwhile is not answered from a disk of long ago."""

    async def scenario(cluster: SimCluster) -> None:
        doomed = await cluster.create("a1", "deleted while a3 was paused", write=3)
        cluster.pause("a3")
        await cluster.delete("a1", doomed.document_id, write=2)
        give_up_s = cluster.loop.time() + 2 * PURGED_WITHIN_S
        while holders(cluster, doomed.document_id) != ["a3"]:
            assert cluster.loop.time() < give_up_s
            await asyncio.sleep(0.2)
        cluster.resume("a3")
        while holders(cluster, doomed.document_id):
            answer = await shown(cluster, "a3", doomed.document_id)
            assert not isinstance(answer, Found), answer
            assert cluster.loop.time() < give_up_s + PURGED_WITHIN_S
            await asyncio.sleep(0.001)

    simulate(scenario, seed, ending(hints=HintSettings(window_s=5.0)))


@seeds(4)
def test_a_connected_owner_that_knows_more_is_waited_for(seed: int) -> None:
    """One owner has missed a boot, and answers first; what the other knows comes later."""

    async def scenario(cluster: SimCluster) -> None:
        copy = dict(cluster.nodes["a3"].disk.values)
        cluster.loop.network.partition(["a1"], ["a2", "a3"])
        cluster.kill("a3")
        cluster.nodes["a3"].start()
        await cluster.until(lambda: cluster.agree("a2", "a3"), 30.0, "a2 and a3 are apart")
        created = await cluster.create("a3", "on a2 and a3", write=2)
        cluster.kill("a3")
        cluster.replace_disk("a3", copy)
        cluster.loop.network.heal_all()
        cluster.loop.network.latency_s["a2", "a3"] = (LINK_S, LINK_S)
        cluster.nodes["a3"].start()
        for _ in range(400):
            if cluster.nodes["a3"].documents is not None:
                answer = await shown(cluster, "a3", created.document_id)
                assert not isinstance(answer, DocumentNotFound), answer
            await asyncio.sleep(0.01)
        await rebuilt(cluster, "a3", (created.document_id,))

    simulate(scenario, seed, ending())


@seeds(4)
def test_an_owner_that_missed_a_boot_hears_of_it_from_another(seed: int) -> None:
    """So it knows an old copy of that disk although whoever has seen the boot is down by now."""

    async def scenario(cluster: SimCluster) -> None:
        copy = dict(cluster.nodes["a3"].disk.values)
        disks = [cluster.nodes[name].disk.values for name in ("a1", "a2")]
        boots = BOOT_PREFIX + b"a3"
        first = disks[1][boots]
        cluster.loop.network.partition(["a1"], ["a3"])
        cluster.kill("a3")
        cluster.nodes["a3"].start()
        await cluster.until(lambda: disks[1][boots] != first, 30.0, "a2 has not met a3's boot")
        await cluster.until(
            lambda: disks[0][boots].endswith(disks[1][boots]), 10.0, "a1 has not heard of it"
        )
        cluster.kill("a2", "a3")
        cluster.replace_disk("a3", copy)
        cluster.loop.network.heal_all()
        cluster.nodes["a3"].start()
        await cluster.until(
            lambda: bool(cluster.nodes["a3"].events("node.fenced")), 20.0, "a3 is not fenced"
        )

    simulate(scenario, seed, ending())
