"""Which requests succeed with how many nodes down, and what the others are told.

An error is part of the contract: "unavailable" (503) means that nothing was written and nothing
ever will be, "write timeout" (504) that nobody can tell.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Final

import pytest

from cluster.ids import DocumentId
from docservice.documents import DocumentNotFound
from kvnode.errors import DiskLow, ReadTimeout, StoreError, Unavailable, WriteTimeout
from kvnode.node import DISK_INTERVAL_S
from tests.simulation.cluster import DOCS, SimCluster
from tests.simulation.invariants import BOUNDS
from tests.simulation.run import seeds, simulate

COPIES: Final = 3
#: Shorter than it takes to notice that a node is silent.
TIMEOUT_S: Final = 0.2
NOBODYS: Final = DocumentId(bytes(16))


@seeds(2)
@pytest.mark.parametrize("down", [0, 1, 2])
@pytest.mark.parametrize("noticed", [True, False], ids=["killed", "paused"])
def test_a_level_is_reached_if_and_only_if_that_many_owners_are_up(
    seed: int, down: int, noticed: bool
) -> None:
    """Every R and W of 1..3, strict, through a node and through a document service (scenario 44).

    A killed node is known to be down at once, so a write that can't succeed is refused before
    anything is stored. A paused one is not: then the write has left something, and says so.
    """
    up, struck = COPIES - down, ["a2", "a3"][:down]

    async def scenario(cluster: SimCluster) -> None:
        there = await cluster.create("a1", "there", write=3)
        if noticed:
            cluster.kill(*struck)
            await cluster.noticed(*struck)
        else:
            cluster.pause(*struck)
        for via in ("a1", DOCS) if noticed else ("a1",):
            for level in (1, 2, 3):
                with _expected(level <= up, Unavailable if noticed else WriteTimeout):
                    created = await cluster.create(
                        via, f"{via} {level}", write=level, sloppy=False, timeout_s=TIMEOUT_S
                    )
                    assert created.stored.acked >= level
                with _expected(level <= up, Unavailable if noticed else WriteTimeout):
                    await cluster.delete(
                        via, NOBODYS, write=level, sloppy=False, timeout_s=TIMEOUT_S
                    )
                with _expected(level <= up, Unavailable if noticed else ReadTimeout):
                    found = await cluster.read(
                        via, there.document_id, read=level, timeout_s=TIMEOUT_S
                    )
                    assert found.fetched.answered >= level

    simulate(scenario, seed)


@contextlib.contextmanager
def _expected(success: bool, otherwise: type[StoreError]) -> Iterator[None]:
    if success:
        yield
    else:
        with pytest.raises(StoreError) as caught:
            yield
        assert type(caught.value) is otherwise


@seeds(2)
def test_absence_takes_a_majority_of_the_owners_whatever_r_is(seed: int) -> None:
    """A read of what nobody has is answered while two owners are up, and refused with one (I2)."""

    async def scenario(cluster: SimCluster) -> None:
        for down, up in ((), 3), (("a3",), 2), (("a2",), 1):
            cluster.kill(*down)
            await cluster.noticed(*down)
            for level in (1, 2, 3):
                enough = max(level, 2) <= up
                with pytest.raises(DocumentNotFound if enough else Unavailable):
                    await cluster.read("a1", NOBODYS, read=level)

    simulate(scenario, seed)


@seeds(2)
def test_a_silent_majority_costs_the_deadline_and_no_more(seed: int) -> None:
    """The deadline is handed down to every hop, and the client hears by then (I27)."""

    async def scenario(cluster: SimCluster) -> None:
        cluster.loop.network.cut("a1", "a2")
        cluster.loop.network.cut("a3", "a1")
        for timeout_s in (0.1, 0.5, 1.0):
            started_s = cluster.loop.time()
            with pytest.raises(WriteTimeout):
                await cluster.create("a1", f"{timeout_s}", write=2, timeout_s=timeout_s)
            assert cluster.loop.time() <= started_s + timeout_s + BOUNDS.late_s

    simulate(scenario, seed)


@seeds(2)
def test_with_every_node_down_a_document_service_says_so_at_once(seed: int) -> None:
    """It knows that it is connected to nobody: there is nothing to wait for."""

    async def scenario(cluster: SimCluster) -> None:
        cluster.kill("a1", "a2", "a3")
        await cluster.noticed("a1", "a2", "a3")
        started_s = cluster.loop.time()
        with pytest.raises(Unavailable):
            await cluster.create(DOCS, "nowhere")
        with pytest.raises(Unavailable):
            await cluster.read(DOCS, NOBODYS)
        assert cluster.loop.time() - started_s < 0.1

    simulate(scenario, seed)


@seeds(2)
def test_a_slow_disk_holds_up_no_write_that_others_can_acknowledge(seed: int) -> None:
    """One disk is a hundred times slower: W=2 is two others' business (scenario 66)."""

    async def scenario(cluster: SimCluster) -> None:
        cluster.nodes["a1"].commit_latency_s = (0.3, 0.3)
        for write, slow in (1, False), (2, False), (3, True):
            started_s = cluster.loop.time()
            await cluster.create("a1", f"{write}", write=write)
            assert (cluster.loop.time() - started_s > 0.1) == slow

    simulate(scenario, seed)


@seeds(2)
def test_a_node_on_a_full_disk_refuses_creates_and_goes_on_reading_and_deleting(seed: int) -> None:
    """What frees space must not need any; and nothing is written for what was refused."""

    async def scenario(cluster: SimCluster) -> None:
        created = await cluster.create("a1", "before", write=3)
        cluster.nodes["a1"].space.low = True
        await asyncio.sleep(2 * DISK_INTERVAL_S)
        with pytest.raises(DiskLow):
            await cluster.create("a1", "refused")
        await cluster.read("a1", created.document_id)
        await cluster.delete("a1", created.document_id)
        cluster.nodes["a1"].space.low = False
        await asyncio.sleep(2 * DISK_INTERVAL_S)
        await cluster.create("a1", "after")

    simulate(scenario, seed)
