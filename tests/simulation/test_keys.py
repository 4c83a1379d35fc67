"""Creates with an idempotency key: retries, races and deletes.

The strong mode (W above half of N) promises one body per key, whatever happens; the weak mode only
that all replicas end with the same one.
"""

import asyncio
from typing import Final

import pytest

from docservice.documents import Created, DocumentDeleted
from kvnode.errors import KeyDeleted, KeyReused, StoreError, Unavailable, WriteTimeout
from kvnode.rpc.connection import SILENCE_S
from scripts.checker.history import NoAnswer
from tests.simulation.clients import id_of_key
from tests.simulation.cluster import DOCS, SimCluster, settings_of
from tests.simulation.convergence import converge
from tests.simulation.run import seeds, simulate

KEY: Final = "the key"
BODIES: Final = ("the first body", "the second body")
NODES: Final = ("a1", "a2", "a3")


async def attempt(cluster: SimCluster, via: str, body: str, *, write: int = 2) -> str:
    """Try to create a document under the key: "created", "refused" or "unknown"."""
    try:
        await cluster.create(via, body, key=KEY, write=write)
    except KeyReused:
        return "refused"
    except (StoreError, NoAnswer):
        return "unknown"
    return "created"


# Retries ----------------------------------------------------------------------------------------


@seeds(2)
@pytest.mark.parametrize("write", [1, 2, 3])
def test_a_repeated_create_is_answered_with_the_first_one(seed: int, write: int) -> None:
    """Through any machine: the same id, the same document, and it says that it is a replay."""

    async def scenario(cluster: SimCluster) -> None:
        first = await cluster.create("a1", BODIES[0], key=KEY, write=write)
        assert not first.replayed
        await asyncio.sleep(0.05)
        for via in (*NODES, DOCS):
            again = await cluster.create(via, BODIES[0], key=KEY, write=write)
            assert (again.document_id, again.create) == (first.document_id, first.create)
            assert again.replayed
            with pytest.raises(KeyReused):
                await cluster.create(via, BODIES[1], key=KEY, write=write)
        assert list(cluster.watch.commits) == [id_of_key(KEY)]

    simulate(scenario, seed)


def interrupted_create(seed: int, via: str, write: int, step: int = 0) -> range:
    """Create under the key, kill a1 at a step, retry. Returns the first create's steps."""
    steps = [0, 0]

    async def scenario(cluster: SimCluster) -> None:
        loop = cluster.loop
        if step:
            loop.at_step(step, lambda: cluster.kill("a1"))
        steps[0] = loop.steps + 1
        heard = await attempt(cluster, via, BODIES[0], write=write)
        await asyncio.sleep(0.02)  # the third replica's answer, too
        steps[1] = loop.steps
        if not step:
            assert heard == "created"
            return
        await asyncio.sleep(0.1)
        second = await cluster.create("a2", BODIES[0], key=KEY, write=write)
        with pytest.raises(KeyReused):
            await cluster.create("a3", BODIES[1], key=KEY, write=2)
        await cluster.restart("a1")
        third = await cluster.create("a1", BODIES[0], key=KEY, write=write)
        assert {second.document_id, third.document_id} == {id_of_key(KEY)}
        await converge(cluster)
        (document_id,) = cluster.watch.commits
        documents = [cluster.nodes[name].stored(document_id) for name in NODES]
        assert documents[0] is not None
        assert documents[0].create is not None
        assert documents[0].create.content.decode() == BODIES[0]
        assert documents == [documents[0]] * 3

    simulate(scenario, seed)
    return range(*steps)


@pytest.mark.parametrize("write", [1, 2])
@pytest.mark.parametrize("via", ["a1", DOCS])
def test_a_retry_after_the_coordinator_died_at_any_step_makes_no_second_document(
    via: str, write: int
) -> None:
    """Killed at each step of a create: one id, one document, one body (scenario 52).

    A separate document service goes on by itself, with the next owner.
    """
    steps = interrupted_create(0, via, write)
    assert len(steps) > 15 * write
    for step in steps:
        interrupted_create(0, via, write, step)


# Races ------------------------------------------------------------------------------------------


@seeds(12)
@pytest.mark.parametrize("write", [2, 3])
def test_of_two_bodies_that_race_at_most_one_is_ever_acknowledged(seed: int, write: int) -> None:
    """And it is what every quorum reads from then on (scenario 50); the loser is told so.

    The clocks of the coordinators differ: the later body may well have the earlier time.
    """

    async def scenario(cluster: SimCluster) -> None:
        heard = await asyncio.gather(
            attempt(cluster, "a1", BODIES[0], write=write),
            attempt(cluster, "a2", BODIES[1], write=write),
        )
        assert sorted(heard) == ["created", "refused"]
        for via in (*NODES, DOCS):
            found = await cluster.read(via, id_of_key(KEY), read=2)
            assert found.create.content.decode() == BODIES[heard.index("created")]
        counts = [node.serving.coordinator.counts for node in cluster.nodes.values()]
        assert sum(one.key_conflicts for one in counts) == 1
        assert sum(node.serving.replica.conflicts.count for node in cluster.nodes.values()) == 0

    simulate(scenario, seed)


@seeds(6)
def test_in_the_weak_mode_two_bodies_converge_to_one_and_are_counted(seed: int) -> None:
    """Both may be acknowledged, on two sides of a cut; then the earlier create wins everywhere."""

    async def scenario(cluster: SimCluster) -> None:
        cluster.loop.network.partition(["a1"], ["a2", "a3"])
        heard = [
            await attempt(cluster, "a1", BODIES[0], write=1),
            await attempt(cluster, "a2", BODIES[1], write=1),
        ]
        assert heard == ["created", "created"]
        created = [op.answer for op in cluster.history]
        cluster.loop.network.heal_all()
        await cluster.ready()
        await converge(cluster)
        first = min(
            (answer.create for answer in created if isinstance(answer, Created)),
            key=lambda create: create.order(),
        )
        for via in (*NODES, DOCS):
            assert (await cluster.read(via, id_of_key(KEY))).create == first
        assert sum(node.serving.replica.conflicts.count for node in cluster.nodes.values()) > 0

    simulate(scenario, seed)


@seeds(2)
def test_a_key_whose_voters_are_down_waits_for_them(seed: int) -> None:
    """Stand-ins don't vote: they could elect another body while the owners are away."""

    async def scenario(cluster: SimCluster) -> None:
        key = cluster.key_of("a1", "a2", "a3")
        cluster.kill("a1", "a2")
        await cluster.noticed("a1", "a2")
        for via in ("a3", "a4", DOCS):
            with pytest.raises(Unavailable):
                await cluster.create(via, BODIES[0], key=key, write=2)
        assert not cluster.watch.contents
        await cluster.restart("a1")
        await cluster.create("a3", BODIES[0], key=key, write=2)

    simulate(scenario, seed, settings_of(5))


@seeds(2)
def test_a_create_that_a_silent_node_may_have_stored_is_not_called_refused(seed: int) -> None:
    """The first owner stores it and its answer is lost; the second, cut off, stores nothing.

    What that one says is true of itself, and not of the whole.
    """

    async def scenario(cluster: SimCluster) -> None:
        first, second, third = cluster.owners(id_of_key(KEY))
        cluster.loop.network.partition([second], [first, third])
        await asyncio.sleep(2 * SILENCE_S)
        cluster.loop.network.cut(first, DOCS)
        with pytest.raises(WriteTimeout):
            await cluster.create(DOCS, BODIES[0], key=KEY, write=2)
        assert cluster.nodes[first].stored(id_of_key(KEY)) is not None
        assert cluster.nodes[second].stored(id_of_key(KEY)) is None
        await cluster.calm()
        again = await cluster.create(DOCS, BODIES[0], key=KEY, write=2)
        assert again.replayed

    simulate(scenario, seed)


# Deletes ----------------------------------------------------------------------------------------


@seeds(2)
@pytest.mark.parametrize("write", [1, 2, 3])
def test_a_create_is_not_repeated_after_its_document_was_deleted(seed: int, write: int) -> None:
    """Neither with its own body nor with another, through any machine (I10)."""

    async def scenario(cluster: SimCluster) -> None:
        created = await cluster.create("a1", BODIES[0], key=KEY, write=write)
        await cluster.delete("a3", created.document_id, write=3)
        for via in (*NODES, DOCS):
            for body in BODIES:
                with pytest.raises(KeyDeleted):
                    await cluster.create(via, body, key=KEY, write=write)
            with pytest.raises(DocumentDeleted):
                await cluster.read(via, created.document_id)

    simulate(scenario, seed)


@seeds(4)
def test_a_retry_that_meets_a_delete_never_brings_the_document_back(seed: int) -> None:
    """The retry's coordinator has not heard of the delete: W + W > N tells it."""

    async def scenario(cluster: SimCluster) -> None:
        created = await cluster.create("a1", BODIES[0], key=KEY, write=3)
        cluster.loop.network.partition(["a1"], ["a2", "a3"])
        await cluster.delete("a2", created.document_id, write=2)
        cluster.loop.network.heal_all()
        with pytest.raises(KeyDeleted):
            await cluster.create("a1", BODIES[0], key=KEY, write=2)
        await converge(cluster)

    simulate(scenario, seed)
