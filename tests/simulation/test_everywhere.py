"""The level that needs a quorum in each region, and what becomes of it when one can't answer."""

import asyncio
from collections.abc import Awaitable
from typing import Final

import pytest

from docservice.documents import Created, DocumentDeleted
from kvnode.errors import KeyReused, StoreError, Unavailable, WriteTimeout
from tests.simulation.cluster import SimCluster, settings_of
from tests.simulation.convergence import level
from tests.simulation.run import seeds, simulate
from tests.simulation.test_rebuild import fence_all
from tests.simulation.test_regions import TWO, B, cut_off, heal

THREE: Final = settings_of(regions="abc", between=TWO.regions)


@seeds(2)
def test_what_is_written_in_each_region_is_read_in_any_at_once(seed: int) -> None:
    """By a quorum there that asks nobody else; so is its deletion."""

    async def scenario(cluster: SimCluster) -> None:
        for number in range(5):
            created = await cluster.create(
                "a1", f"document {number}", write=2, sloppy=False, each_region=True
            )
            assert created.stored.acked >= created.stored.required == 6
            assert created.stored.copies == 9
            owners = cluster.owners(created.document_id)
            held = [cluster.nodes[name].stored(created.document_id) for name in owners]
            assert all(sum(map(bool, held[first : first + 3])) >= 2 for first in (0, 3, 6))
            await cluster.delete("b2", created.document_id, write=2, sloppy=False, each_region=True)
            with pytest.raises(DocumentDeleted):
                await cluster.read("c3", created.document_id, read=2)
        await level(cluster)

    simulate(scenario, seed, THREE)


@seeds(2)
def test_a_read_in_each_region_sees_what_any_of_them_has_acknowledged(seed: int) -> None:
    """It was written at a quorum of one region and has not been shipped yet."""

    async def scenario(cluster: SimCluster) -> None:
        for number in range(5):
            created = await cluster.create("a1", f"{number}", key=f"{number}", write=2)
            found = await cluster.read(
                "b1", created.document_id, read=2, sloppy=False, each_region=True
            )
            assert found.create.content == f"{number}".encode()

    simulate(scenario, seed, TWO)


@seeds(2)
def test_a_region_that_is_cut_off_is_named_with_its_counts(seed: int) -> None:
    """First 504, for this region has it already; once the cut is known 503, and nothing is."""

    async def scenario(cluster: SimCluster) -> None:
        there = await cluster.create("a1", "there", write=2)
        await level(cluster)
        cut_off(cluster)
        with pytest.raises(WriteTimeout, match=r"a [23] of 2, b 0 of 2"):
            await cluster.create("a1", "half", write=2, sloppy=False, each_region=True)
        with pytest.raises(Unavailable, match=r"a [23] of 2, b 0 of 2"):
            await cluster.read("a1", there.document_id, read=2, sloppy=False, each_region=True)
        await asyncio.sleep(8)
        with pytest.raises(StoreError, match="no node of region b") as refused:
            await cluster.create("a1", "nothing", write=2, sloppy=False, each_region=True)
        assert refused.value.outcome == "not_applied"
        await heal(cluster)
        await level(cluster)

    simulate(scenario, seed, TWO)


@seeds(2)
def test_another_node_is_asked_when_the_first_one_there_dies(seed: int) -> None:
    """Killed or silent: the request still ends well within its deadline."""

    async def scenario(cluster: SimCluster) -> None:
        for strike in (cluster.pause, cluster.kill):
            strike("b1")
            for number in range(6):
                await cluster.create(
                    "a1", f"{strike.__name__} {number}", write=2, sloppy=False, each_region=True
                )
            cluster.resume("b1") if strike == cluster.pause else None
        await cluster.restart("b1")
        await level(cluster)

    simulate(scenario, seed, TWO)


@seeds(4)
def test_of_two_bodies_that_race_in_two_regions_at_most_one_is_acknowledged(seed: int) -> None:
    """The owners of every region have elected it before it is stored anywhere."""

    async def scenario(cluster: SimCluster) -> None:
        for number in range(5):
            answers = await asyncio.gather(
                *(
                    cluster.create(
                        via,
                        f"{via} {number}",
                        key=f"{number}",
                        write=2,
                        sloppy=False,
                        each_region=True,
                    )
                    for via in ("a1", "b1")
                ),
                return_exceptions=True,
            )
            refused = [one for one in answers if isinstance(one, BaseException)]
            assert len(refused) == 1
            assert isinstance(refused[0], KeyReused | Unavailable)
        await level(cluster)

    simulate(scenario, seed, TWO)


@seeds(3)
def test_a_body_whose_coordinator_slept_after_its_election_is_no_second_one(
    seed: int,
) -> None:
    """It is the earlier of the two, so it would take the place of one that was acknowledged."""

    async def scenario(cluster: SimCluster) -> None:
        cluster.nodes["b1"].clock.jump(-2.0)

        def create(via: str, number: int) -> Awaitable[Created]:
            return cluster.create(
                via, f"{via} {number}", key=f"{number}", write=2, sloppy=False, each_region=True
            )

        for number in range(12):
            late = asyncio.ensure_future(create("b1", number))
            await asyncio.sleep(number / 1000)
            cluster.pause("b1")
            prompt = asyncio.ensure_future(create("a1", number))
            await asyncio.wait([prompt], timeout=1.0)
            cluster.resume("b1")
            answers = await asyncio.gather(prompt, late, return_exceptions=True)
            refused = [one for one in answers if isinstance(one, BaseException)]
            assert all(isinstance(one, KeyReused | Unavailable) for one in refused)
            assert refused, "both bodies were acknowledged"
        await level(cluster)

    simulate(scenario, seed, TWO)


@seeds(2)
def test_fenced_owners_elsewhere_neither_vouch_nor_acknowledge(seed: int) -> None:
    """Two of three are being rebuilt there: the third alone is no quorum of its region."""

    async def scenario(cluster: SimCluster) -> None:
        there = await cluster.create("a1", "there", write=2, sloppy=False, each_region=True)
        await level(cluster)
        with pytest.MonkeyPatch.context() as patch:
            for name in B[:2]:
                patch.setattr(cluster.nodes[name].serving.background.rebuild, "_lower", len)
                fence_all(cluster, name)
            with pytest.raises(Unavailable, match=r"a [23] of 2, b [01] of 2"):
                await cluster.read("a1", there.document_id, read=2, sloppy=False, each_region=True)
            with pytest.raises(WriteTimeout, match=r"a [23] of 2, b [01] of 2"):
                await cluster.create("a1", "half", write=2, sloppy=False, each_region=True)
        await level(cluster)
        found = await cluster.read("a1", there.document_id, read=2, sloppy=False, each_region=True)
        assert found.create.content == b"there"

    simulate(scenario, seed, TWO)
