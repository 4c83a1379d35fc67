"""Power cuts of every machine at once: nothing survives but what is on disks.

Operations that are cut short at each of their steps: ``test_crash_points``.
"""

import asyncio

import pytest

from docservice.documents import DocumentNotFound
from kvnode.errors import StoreError
from scripts.checker.history import NoAnswer
from tests.simulation.clients import id_of_key
from tests.simulation.cluster import SimCluster, settings_of
from tests.simulation.convergence import converge
from tests.simulation.run import seeds, simulate

NODES = ("a1", "a2", "a3")


@seeds(3)
def test_documents_under_load_survive_a_power_cut_of_everything(seed: int) -> None:
    """Many at once, so that group commits hold several, and the cut falls among them."""

    async def scenario(cluster: SimCluster) -> None:
        async def client(via: str, number: int) -> None:
            for count in range(20):
                try:
                    await cluster.create(via, f"{number}/{count}", write=1 + count % 3)
                except (StoreError, NoAnswer):
                    return

        clients = asyncio.gather(
            *(client(via, number) for number, via in enumerate(2 * list(cluster.nodes)))
        )
        await asyncio.sleep(cluster.loop.stream("cut").uniform(0.02, 0.06))
        cluster.power_off(*cluster.nodes)
        await clients
        assert sum(op.acknowledged for op in cluster.history) > 5
        await cluster.restart(*cluster.nodes)
        await converge(cluster)

    simulate(scenario, seed, settings_of(5))


@seeds(2)
def test_what_a_power_cut_could_take_away_is_not_read(seed: int) -> None:
    """A create is on its way to every disk: whoever read it now might have seen a phantom."""

    async def scenario(cluster: SimCluster) -> None:
        for machine in cluster.nodes.values():
            machine.commit_latency_s = (0.5, 0.5)
        create = asyncio.create_task(cluster.create("a1", "under way", key="key"))
        await asyncio.sleep(0.1)
        for via in NODES:
            for level in (1, 2, 3):
                with pytest.raises(DocumentNotFound):
                    await cluster.read(via, id_of_key("key"), read=level)
        cluster.power_off(*NODES)
        with pytest.raises(NoAnswer):
            await create
        await cluster.restart(*NODES)
        with pytest.raises(DocumentNotFound):
            await cluster.read("a1", id_of_key("key"), read=3)

    simulate(scenario, seed)
