"""A copy that is on its way between two owners while its document is purged.

One owner has missed the deletion. It gives its live copy to another one, or takes one from there,
and that is slow; meanwhile the third one tells both of the deletion, and all agree on the purge.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final

import pytest

from cluster.ids import DocumentId, NodeId
from cluster.settings import AntiEntropySettings, HintSettings, LifecycleSettings
from docservice.documents import DocumentNotFound
from kvnode.merging import MergeSender
from kvnode.rpc.connection import SILENCE_S
from kvnode.rpc.operations import Op
from kvnode.services.asking import Asker
from tests.simulation.cluster import SimCluster, settings_of
from tests.simulation.run import seeds, simulate
from tests.simulation.test_lifecycle import holders

#: Nobody compares unasked, and a stand-in coordinates, which owes no comparison.
_SETTINGS: Final = settings_of(
    4,
    partitions=4,
    hints=HintSettings(total_bytes_max=0),
    antientropy=AntiEntropySettings(interval_s=36_000.0),
    lifecycle=LifecycleSettings(
        tombstone_retention_s=3.0, purge_bucket_s=1.0, sweep_interval_s=0.2
    ),
)
_DUE_S: Final = 9.0
_SLOW_S: Final = 3.0
#: Whoever hears nothing for so long closes the connection.
_SILENT_S: Final = SILENCE_S + 1.0


@seeds(1)
def test_a_copy_that_is_pushed_while_its_document_is_purged_brings_nothing_back(seed: int) -> None:
    """Regression: an owner vouched for it, so the purge floor was not looked at."""
    send = MergeSender.send

    async def scenario(cluster: SimCluster) -> None:
        first, second, third = _owners(cluster)
        document_id = await _created(cluster, without=())
        await _deleted(cluster, document_id, without=(third,))

        def slowly(self: MergeSender, *what: Any, **how: Any) -> None:
            if how.get("vouched_at") is not None and what[0].node == second:
                _overtake(cluster, (third, second), first)
            send(self, *what, **how)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(MergeSender, "send", slowly)
            await _purged_meanwhile(cluster, third, second, document_id)

    simulate(scenario, seed, _SETTINGS)


@seeds(1)
def test_a_copy_that_is_fetched_while_its_document_is_purged_brings_nothing_back(seed: int) -> None:
    """Regression: what was asked for before the purge was taken after it."""
    send = Asker.send

    async def scenario(cluster: SimCluster) -> None:
        first, second, third = _owners(cluster)
        document_id = await _created(cluster, without=(third,))
        await _deleted(cluster, document_id, without=(second, third))

        def slowly(self: Asker, peer: NodeId, op: Op, *what: Any) -> Any:
            if op is Op.FETCH and peer == second:
                _overtake(cluster, (second, third), first)
            return send(self, peer, op, *what)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Asker, "send", slowly)
            await _purged_meanwhile(cluster, third, second, document_id)

    simulate(scenario, seed, _SETTINGS)


def _owners(cluster: SimCluster) -> tuple[NodeId, NodeId, NodeId]:
    """In the order in which they propose a purge."""
    first, second, third = cluster.ring.owners[0]
    return first, second, third


def _stand_in(cluster: SimCluster) -> str:
    (name,) = (name for name in cluster.nodes if name not in cluster.ring.owners[0])
    return name


async def _created(cluster: SimCluster, without: tuple[str, ...]) -> DocumentId:
    key = next(cluster.keys_of(*_owners(cluster)))
    created: list[DocumentId] = []

    async def create(via: str, write: int) -> None:
        made = await cluster.create(via, "deleted", key=key, write=write, sloppy=False)
        created.append(made.document_id)

    await _missed_by(cluster, without, create)
    return created[0]


async def _deleted(cluster: SimCluster, document_id: DocumentId, without: tuple[str, ...]) -> None:
    async def delete(via: str, write: int) -> None:
        await cluster.delete(via, document_id, write=write, sloppy=False)

    await _missed_by(cluster, without, delete)
    await asyncio.sleep(_DUE_S)


async def _missed_by(
    cluster: SimCluster, missed: tuple[str, ...], write: Callable[[str, int], Any]
) -> None:
    """Write to all owners but some, who don't get it later either."""
    network, via = cluster.loop.network, _stand_in(cluster)
    for name in missed:
        network.cut(via, name)
    await write(via, 3 - len(missed))
    await asyncio.sleep(_SILENT_S)  # what was on its way is given up with its connection
    network.heal_all()
    await cluster.ready()


def _compare(cluster: SimCluster, name: str, *peers: NodeId) -> None:
    for peer in peers:
        cluster.nodes[name].serving.background.antientropy.rounds[peer].due_s = 0.0


def _overtake(cluster: SimCluster, slow: tuple[NodeId, NodeId], first: NodeId) -> None:
    """From now on a link is slow, and the one that knows of the deletion compares with both."""
    if slow not in cluster.loop.network.latency_s:
        cluster.loop.network.latency_s[slow] = (_SLOW_S, _SLOW_S)
        _compare(cluster, first, *slow)


async def _purged_meanwhile(
    cluster: SimCluster, behind: NodeId, peer: NodeId, document_id: DocumentId
) -> None:
    """Have the one that is behind compare first; in the end the document is gone everywhere."""
    latency_s = cluster.loop.network.latency_s
    _compare(cluster, behind, peer)
    await cluster.until(lambda: bool(latency_s), 5.0, "nothing is on its way")
    await asyncio.sleep(0.9 * _SLOW_S)
    assert holders(cluster, document_id) == [], "not purged meanwhile"
    await asyncio.sleep(_SLOW_S)
    assert holders(cluster, document_id) == []
    with pytest.raises(DocumentNotFound):
        await cluster.read(peer, document_id, read=2)
