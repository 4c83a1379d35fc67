"""Power cuts at every moment: what was acknowledged is still there.

Every machine loses power at once, so nothing survives but what is on disks. The cut comes after
each step of the operation in turn: every state between two callbacks of any process is met.
"""

import asyncio

import pytest

from docservice.documents import DocumentDeleted, DocumentNotFound
from kvnode.errors import StoreError
from scripts.checker.history import NoAnswer
from tests.simulation.clients import id_of_key
from tests.simulation.cluster import SimCluster, settings_of
from tests.simulation.convergence import converge
from tests.simulation.run import seeds, simulate

NODES = ("a1", "a2", "a3")


def cut_short(operation: str, write: int, step: int = 0) -> tuple[range, bool]:
    """Run an operation and cut the power at a step. Returns its steps, and whether it succeeded."""
    steps = [0, 0]
    heard: list[bool] = []

    async def scenario(cluster: SimCluster) -> None:
        loop = cluster.loop
        document_id = None
        if operation == "delete":
            document_id = (await cluster.create("a1", "to be deleted", write=3)).document_id
        if step:
            loop.at_step(step, lambda: cluster.power_off(*NODES))
        steps[0] = loop.steps + 1
        try:
            if document_id is None:
                document_id = (await cluster.create("a1", "created", write=write)).document_id
            else:
                await cluster.delete("a1", document_id, write=write)
        except (StoreError, NoAnswer):
            heard.append(False)
        else:
            heard.append(True)
        await asyncio.sleep(0.02)  # the other replicas' answers, too
        steps[1] = loop.steps
        if not step:
            return
        await cluster.restart(*NODES)
        await converge(cluster)  # which also checks that what was acknowledged is everywhere
        if document_id is not None and heard == [True]:
            for via in NODES:
                if operation == "delete":
                    with pytest.raises(DocumentDeleted):
                        await cluster.read(via, document_id)
                else:
                    await cluster.read(via, document_id)

    simulate(scenario, 0)
    return range(*steps), heard == [True]


@pytest.mark.parametrize("write", [1, 2, 3])
@pytest.mark.parametrize("operation", ["create", "delete"])
def test_a_power_cut_at_any_step_loses_nothing_that_was_acknowledged(
    operation: str, write: int
) -> None:
    """All machines at once, at each step of a write (I1, I3, scenario 54)."""
    steps, acknowledged = cut_short(operation, write)
    assert acknowledged
    assert len(steps) > 20
    outcomes = [cut_short(operation, write, step)[1] for step in steps]
    assert outcomes == sorted(outcomes)
    assert True in outcomes
    assert False in outcomes


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
