"""Two halves of a region while owners change, and around the moment when a phase begins.

Of a partition that is moved there are four holders. Whatever half of them acknowledges a write at a
quorum, no read at a quorum of the other half may miss it (``cluster.ringchange``, rules 2 and 3).
"""

import asyncio
import contextlib
from collections.abc import Sequence
from itertools import product
from typing import Final

import pytest

from cluster.ids import DocumentId, NodeId, partition_of
from cluster.ringchange import Layout, Phase
from cluster.settings import HintSettings
from docservice.documents import DocumentDeleted, DocumentNotFound, Found
from kvnode.errors import StoreError
from scripts.checker.history import NoAnswer
from tests.simulation.clients import id_of_key
from tests.simulation.cluster import REGION, SimCluster, settings_of
from tests.simulation.run import seeds, simulate
from tests.simulation.test_ringchange import begin, changed, phases

_ALL: Final = ("a1", "a2", "a3", "a4")
_HALVES: Final = (
    ("a1", "a2"),
    ("a1", "a3"),
    ("a1", "a4"),
    ("a2", "a3"),
    ("a2", "a4"),
    ("a3", "a4"),
)
#: Documents, of which each half deletes some in each of its turns.
_DOCUMENTS: Final = 60
_AT_ONCE: Final = 4
_ANY: Final = (StoreError, NoAnswer, DocumentDeleted, DocumentNotFound)
#: Nobody repairs anything but the change itself.
_SETTINGS: Final = settings_of(spares=1, hints=HintSettings(total_bytes_max=0))


@seeds(2)
@pytest.mark.parametrize("after_s", [0.0, 1.0])
def test_no_half_reads_what_the_other_has_deleted(seed: int, after_s: float) -> None:
    """Neither when some know of a phase and others don't, nor when all do."""

    async def scenario(cluster: SimCluster) -> None:
        documents = await on_all_owners(cluster)
        layout = begin(cluster, add=("a4",))
        moved = _of(documents, layout.gained_by(NodeId("a4")))
        halves = cluster.loop.stream("halves")
        for phase in (Phase.FILL, Phase.LEVEL, Phase.SWITCH, Phase.RETIRE):
            await begun(cluster, phase)
            await asyncio.sleep(after_s)
            here = halves.choice(_HALVES)
            there = [name for name in _ALL if name not in here]
            ids = [moved.pop() for _ in range(_AT_ONCE)]
            await _apart(cluster, here, there, ids)
        await changed(cluster)

    simulate(scenario, seed, _SETTINGS)


async def _apart(
    cluster: SimCluster, here: Sequence[str], there: Sequence[str], ids: Sequence[DocumentId]
) -> None:
    """One half deletes, the other one reads; the judge compares."""
    network = cluster.loop.network
    for one in here:
        for other in there:
            network.cut(one, other)
            network.cut(other, one)
    cluster.note(f"{here} are cut off from {there}")
    await asyncio.gather(*(deleted(cluster, here[n % 2], one) for n, one in enumerate(ids)))
    await asyncio.gather(*(read_at(cluster, there[n % 2], one) for n, one in enumerate(ids)))
    network.heal_all()
    cluster.note("they are whole again")
    await cluster.ready()


@seeds(2)
def test_what_only_the_old_owner_has_is_not_left_with_it(seed: int) -> None:
    """It was acknowledged at W = 1 after the new one had been filled; a read asks all there are."""

    async def scenario(cluster: SimCluster) -> None:
        documents = await on_all_owners(cluster)
        layout = begin(cluster, add=("a4",))
        moved = _of(documents, layout.gained_by(NodeId("a4")))
        await cluster.until(lambda: not any(_fenced(cluster)), 60, lambda: phases(cluster))
        assert cluster.rings.layouts[REGION].phase is Phase.FILL
        old = next(node for node in layout.old[layout.gained_by(NodeId("a4"))[0]] if node == "a1")
        for name in _ALL:
            if name != old:
                cluster.loop.network.cut(old, name)
        ids = [one for one in moved if old in _owners(layout.old, one)][:_AT_ONCE]
        await asyncio.gather(*(deleted(cluster, old, one, write=1) for one in ids))
        assert sum(op.acknowledged for op in cluster.history if op.via == old) >= len(ids)
        cluster.power_off(old)
        cluster.loop.network.heal_all()
        await cluster.restart(old)
        await begun(cluster, Phase.SWITCH)
        for one in ids:
            await read_at(cluster, "a4", one, read=3)
        await changed(cluster)

    simulate(scenario, seed, _SETTINGS)


@seeds(2)
def test_what_one_quorum_has_read_no_later_one_misses(seed: int) -> None:
    """The one asks the owners before, the other those after: what is shown is shown to both."""

    async def scenario(cluster: SimCluster) -> None:
        layout = begin(cluster, add=("a4",))
        partitions = layout.gained_by(NodeId("a4"))
        keys = [key for n in range(40) if _of([id_of_key(key := f"key {n}")], partitions)]
        await begun(cluster, Phase.LEVEL)
        latency_s = cluster.loop.network.latency_s
        latency_s.update({("a4", name): (0.2, 0.2) for name in _ALL})  # it is the last to be done
        newcomer = cluster.nodes["a4"].serving

        def only_it_is_left() -> bool:
            told = [cluster.nodes[name].serving.layouts.waits_for() for name in ("a2", "a4")]
            return newcomer.background.moving.is_done() and all(list(one) == ["a4"] for one in told)

        await cluster.until(only_it_is_left, 60.0, lambda: phases(cluster), poll_s=0.000_2)
        latency_s.clear()
        for old, new in product(("a1", "a3"), ("a2", "a4")):
            cluster.loop.network.cut(old, new)
            cluster.loop.network.cut(new, old)
        for key in keys:
            with contextlib.suppress(*_ANY):
                await cluster.create("a3", key, key=key, write=1, sloppy=False, timeout_s=0.1)
        await cluster.until(
            lambda: newcomer.layouts.own.phase is Phase.SWITCH, 5.0, lambda: phases(cluster)
        )
        for key in keys:
            await read_at(cluster, "a3", id_of_key(key))
            await read_at(cluster, "a4", id_of_key(key))
        shown = [op.document_id for op in cluster.history if isinstance(op.answer, Found)]
        missed = [
            op.document_id for op in cluster.history if isinstance(op.answer, DocumentNotFound)
        ]
        assert missed
        again = [one for one in missed if one in shown]
        assert again == [], "what one quorum has read a later one misses"
        cluster.loop.network.heal_all()
        await changed(cluster)

    simulate(scenario, seed, _SETTINGS)


async def on_all_owners(cluster: SimCluster) -> list[DocumentId]:
    """Documents that are nowhere missing."""
    return [
        (await cluster.create(f"a{1 + n % 3}", f"body {n}", write=3, sloppy=False)).document_id
        for n in range(_DOCUMENTS)
    ]


def _of(documents: Sequence[DocumentId], partitions: Sequence[int]) -> list[DocumentId]:
    return [one for one in documents if partition_of(one, 16) in partitions]


def _owners(owners: Sequence[Sequence[NodeId]], document_id: DocumentId) -> Sequence[NodeId]:
    return owners[partition_of(document_id, 16)]


def _fenced(cluster: SimCluster) -> list[bool]:
    newcomer = cluster.nodes["a4"].serving
    if newcomer.layouts.own.phase is Phase.STABLE:
        return [True]
    return [newcomer.replica.fenced[one] for one in newcomer.layouts.own.gained_by(NodeId("a4"))]


async def begun(cluster: SimCluster, phase: Phase) -> Layout:
    """Wait until a first node knows of a phase."""
    layouts = cluster.rings.layouts
    await cluster.until(
        lambda: layouts[REGION].phase is phase, 120.0, lambda: phases(cluster), poll_s=0.000_2
    )
    return layouts[REGION]


async def deleted(cluster: SimCluster, via: str, one: DocumentId, write: int = 2) -> None:
    """Delete a document, if that can be done now."""
    with contextlib.suppress(*_ANY):
        await cluster.delete(via, one, write=write, sloppy=False, timeout_s=0.5)


async def read_at(cluster: SimCluster, via: str, one: DocumentId, read: int = 2) -> None:
    """Read a document; it is the judge who compares."""
    with contextlib.suppress(*_ANY):
        await cluster.read(via, one, read=read, sloppy=False, timeout_s=0.5)
