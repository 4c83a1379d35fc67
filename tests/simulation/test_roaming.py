"""Sessions of clients that move between regions: what a token promises there, and what it costs.

Nothing is shipped in time unless a test waits for it, so what one region has the other lacks.
"""

import asyncio
from collections import Counter
from typing import Any, Final

import pytest

from cluster.settings import RegionSettings
from docservice.documents import Created, DocumentDeleted, DocumentNotFound
from kvnode.coordinator import Coordinator
from kvnode.errors import Unavailable
from tests.simulation.clients import SimSession, id_of_key
from tests.simulation.cluster import SimCluster, settings_of
from tests.simulation.convergence import level
from tests.simulation.run import seeds, simulate
from tests.simulation.test_regions import TWO, A, B, cut_off, heal
from tests.simulation.test_sessions import NO_HINTS, hedges, replica_reads

LATE: Final = RegionSettings(ship_interval_s=1000.0)
LATE_TWO: Final = settings_of(regions="ab", between=LATE, hints=NO_HINTS)
LATE_THREE: Final = settings_of(regions="abc", between=LATE, hints=NO_HINTS)
CONTENT: Final = "some content"


async def must_read(cluster: SimCluster, via: str, created: Created, session: SimSession) -> None:
    """It is there, though nobody near has it."""
    try:
        found = await cluster.read(via, created.document_id, session=session)
    except Unavailable as error:
        pytest.fail(f"not found, though it can be reached: {error}")
    assert found.create == created.create


def asked_elsewhere(cluster: SimCluster, region: str) -> int:
    """Reads for which the nodes of a region have turned to other regions."""
    return sum(cluster.nodes[name].serving.elsewhere.asked_count for name in cluster.region(region))


@seeds(2)
def test_one_replica_is_read_in_any_region_that_has_what_was_seen(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token costs nothing there: one replica, and no word to the region that it names."""
    reads = replica_reads(monkeypatch)

    async def scenario(cluster: SimCluster) -> None:
        session = SimSession()
        created = [await cluster.create(A[n % 3], f"{n}", session=session) for n in range(9)]
        await level(cluster)
        for carried in (session, None):
            reads.clear()
            hedged = hedges(cluster)
            for one in created:
                for via in B:
                    await cluster.read(via, one.document_id, session=carried)
            assert reads.total() == len(created) * len(B) + hedges(cluster) - hedged
        assert asked_elsewhere(cluster, "b") == 0

    simulate(scenario, seed, TWO)


@seeds(2)
def test_what_was_created_in_one_region_is_read_at_once_in_the_other(seed: int) -> None:
    """Under a key, whose time nobody can tell: 404 to others, and not to who has created it."""

    async def scenario(cluster: SimCluster) -> None:
        for number, via in enumerate(B):
            session, key = SimSession(number + 1), f"key {number}"
            created = await cluster.create("a1", CONTENT, key=key, session=session)
            with pytest.raises(DocumentNotFound):
                await cluster.read(via, created.document_id)
            await must_read(cluster, via, created, session)
        assert asked_elsewhere(cluster, "b") == len(B)

    simulate(scenario, seed, LATE_TWO)


@seeds(2)
def test_the_other_region_looks_on_all_its_owners_for_what_was_seen(seed: int) -> None:
    """The node that is asked there has missed it, or has the older body of two."""

    async def scenario(cluster: SimCluster) -> None:
        session = SimSession()
        asked_first, _, holder = cluster.owners_in("a", id_of_key("key"))
        cluster.loop.network.partition([holder], [one for one in cluster.nodes if one != holder])
        first = await cluster.create(holder, "first", key="key", session=session)
        await asyncio.sleep(5)  # more than clocks differ
        await cluster.create(asked_first, "second", key="key")
        await cluster.create("b1", "second", key="key")
        await heal(cluster)
        for via in B:
            await must_read(cluster, via, first, session)

    simulate(scenario, seed, LATE_TWO)


@seeds(2)
def test_a_deletion_that_a_session_has_seen_is_known_in_every_region(seed: int) -> None:
    """Who has deleted it, or was told so, in one region gets 410 in the other, without a read."""

    async def scenario(cluster: SimCluster) -> None:
        created = await cluster.create("a1", CONTENT)
        session, told = SimSession(1), SimSession(2)
        await level(cluster)
        cut_off(cluster)
        await cluster.delete("a1", created.document_id, write=3, session=session)
        with pytest.raises(DocumentDeleted):
            await cluster.read("a2", created.document_id, session=told)
        for via in B:
            await cluster.read(via, created.document_id)
            for carried in (session, told):
                with pytest.raises(DocumentDeleted):
                    await cluster.read(via, created.document_id, session=carried)

    simulate(scenario, seed, TWO)


@seeds(2)
@pytest.mark.parametrize("key", [None, "key"])
def test_what_was_seen_in_a_region_that_is_cut_off_is_refused_and_not_absent(
    seed: int, key: str | None
) -> None:
    """503 before the cut is noticed and after, whatever the id tells; and then the document."""

    async def scenario(cluster: SimCluster) -> None:
        session = SimSession()
        cut_off(cluster)
        created = await cluster.create("a1", CONTENT, key=key, write=3, session=session)
        for _ in range(2):
            for via in B:
                with pytest.raises(Unavailable) as refused:
                    await cluster.read(via, created.document_id, session=session)
                assert refused.value.retryable
            await asyncio.sleep(8)
        await heal(cluster)
        for via in B:
            await must_read(cluster, via, created, session)

    simulate(scenario, seed, LATE_TWO)


@seeds(2)
def test_of_two_bodies_in_two_regions_a_session_is_not_shown_the_older_one(seed: int) -> None:
    """It has seen the one that lasts: while the cut lasts the other side has only the other."""

    async def scenario(cluster: SimCluster) -> None:
        session = SimSession()
        cut_off(cluster)
        first = await cluster.create("a1", "first", key="key", write=2, session=session)
        await asyncio.sleep(5)
        await cluster.create("b1", "second", key="key", write=3)
        for via in B:
            assert (await cluster.read(via, id_of_key("key"))).create.content == b"second"
            with pytest.raises(Unavailable):
                await cluster.read(via, first.document_id, session=session)
        await heal(cluster)
        await must_read(cluster, "b1", first, session)

    simulate(scenario, seed, LATE_TWO)


@seeds(2)
def test_the_region_in_which_it_was_seen_is_asked_and_no_other(seed: int) -> None:
    """Of three: what lies between regions is slow, and costs by the byte."""
    asked: Counter[str] = Counter()
    read_here = Coordinator.read_here

    async def counted(self: Coordinator, *arguments: Any, **named: Any) -> Any:
        asked[self.node[0]] += 1
        return await read_here(self, *arguments, **named)

    async def scenario(cluster: SimCluster) -> None:
        for number, via in enumerate(B):
            session = SimSession(number)
            created = await cluster.create("c1", CONTENT, key=via, session=session)
            await must_read(cluster, via, created, session)
        assert asked == {"b": len(B), "c": len(B)}, "who was asked"

    with pytest.MonkeyPatch.context() as counting:
        counting.setattr(Coordinator, "read_here", counted)
        simulate(scenario, seed, LATE_THREE)


@seeds(2)
def test_a_region_that_has_it_is_enough(seed: int) -> None:
    """Once region b has shown it, its token names b: both others are asked, one can't be."""

    async def scenario(cluster: SimCluster) -> None:
        session = SimSession()
        created = await cluster.create("a1", CONTENT, key="key", session=session)
        cluster.loop.network.partition(cluster.region("b"), cluster.region("c"))
        began_s = cluster.loop.time()
        for via in B:
            await must_read(cluster, via, created, session)
        assert cluster.loop.time() - began_s < 1.0, "the third region was waited for"

    simulate(scenario, seed, LATE_THREE)


@seeds(2)
def test_what_was_only_seen_through_a_region_is_found_where_it_is(seed: int) -> None:
    """Region b has shown it and never had it: the token names b, and region c asks on."""

    async def scenario(cluster: SimCluster) -> None:
        created = await cluster.create("a1", CONTENT)
        session = SimSession()
        await must_read(cluster, "b1", created, session)
        await must_read(cluster, "c1", created, session)

    simulate(scenario, seed, LATE_THREE)


@seeds(2)
def test_a_node_that_hangs_in_the_other_region_is_passed_over(seed: int) -> None:
    """Its connections still stand: within the read's own time another owner there is asked."""

    async def scenario(cluster: SimCluster) -> None:
        session = SimSession()
        created = await cluster.create("a2", CONTENT, key="key", write=3, session=session)
        cluster.pause(cluster.owners_in("a", created.document_id)[0])
        for via in B:
            await must_read(cluster, via, created, session)

    simulate(scenario, seed, LATE_TWO)


@seeds(2)
def test_a_node_that_hangs_in_this_region_leaves_time_to_ask_the_other(seed: int) -> None:
    """Its word is missing for what this region has; but what was seen is somewhere else."""

    async def scenario(cluster: SimCluster) -> None:
        session = SimSession()
        created = await cluster.create("a1", CONTENT, key="key", session=session)
        cluster.pause("b3")
        for via in ("b1", "b2"):
            await must_read(cluster, via, created, session)

    simulate(scenario, seed, LATE_TWO)
