"""One safeguard of a change of owners at a time: what would be lost, or seen twice, without it.

Of a partition that is moved there are four holders: one that *loses* it, two that stay, and the
newcomer. Each test breaks links so that what it is about is on one disk, or in one place, only.
"""

import asyncio
from collections.abc import Sequence
from typing import Final, NamedTuple

import pytest

from cluster.ids import DocumentId, NodeId, partition_of
from cluster.ringchange import Layout, Phase
from cluster.settings import HintSettings
from docservice.documents import DocumentDeleted
from kvnode.errors import KeyReused, Unavailable
from kvnode.storage.identity import Identity
from kvnode.storage.keys import IDENTITY_KEY, vote_key
from tests.simulation.clients import CLUSTER_ID, id_of_key
from tests.simulation.cluster import REGION, SimCluster, settings_of
from tests.simulation.convergence import hints
from tests.simulation.run import seeds, simulate
from tests.simulation.test_halves import begun, deleted, on_all_owners, read_at
from tests.simulation.test_ringchange import begin, changed, phases

_PARTITIONS: Final = 16
_NO_HINTS: Final = HintSettings(total_bytes_max=0)


class Moved(NamedTuple):
    """Partitions that are moved alike."""

    loses: str
    stay: tuple[str, ...]
    newcomer: str
    #: Other members, in the order in which they stand in.
    outside: tuple[str, ...]
    partitions: tuple[int, ...]

    def of(self, documents: Sequence[DocumentId]) -> list[DocumentId]:
        """Those of its partitions."""
        return [one for one in documents if partition_of(one, _PARTITIONS) in self.partitions]


def moved(cluster: SimCluster, layout: Layout, newcomer: str) -> Moved:
    """The most partitions that one loses while the same ones stay."""
    alike: dict[tuple[str, ...], list[int]] = {}
    for partition in layout.gained_by(NodeId(newcomer)):
        old, new = layout.old[partition], layout.new[partition]
        loses = next(one for one in old if one not in new)
        outside = cluster.nodes["a1"].serving.placement._fallbacks_of(partition)
        stay = sorted(one for one in old if one != loses)
        alike.setdefault((loses, *stay, *(one for one in outside if one != newcomer)), []).append(
            partition
        )
    nodes, partitions = max(alike.items(), key=lambda one: len(one[1]))
    return Moved(nodes[0], nodes[1:3], newcomer, nodes[3:], tuple(partitions))


def _cut(cluster: SimCluster, source: str, *targets: str) -> None:
    for target in targets:
        cluster.loop.network.cut(source, target)


async def _unconnected(cluster: SimCluster, name: str, *others: str) -> None:
    transport = cluster.nodes[name].serving.transport
    await cluster.until(
        lambda: not any(transport.connected(NodeId(other)) for other in others),
        20.0,
        f"{name} is connected with one of {others}",
    )


def _acknowledged(cluster: SimCluster, via: str) -> int:
    return sum(op.acknowledged for op in cluster.history if op.via == via and op.content is None)


@seeds(1)
def test_what_began_before_the_newcomer_counted_is_compared_as_well(seed: int) -> None:
    """It reaches its only owner after LEVEL has begun: who compares at once does not meet it."""

    async def scenario(cluster: SimCluster) -> None:
        documents = await on_all_owners(cluster)
        way = moved(cluster, begin(cluster, add=("a5",)), "a5")
        (via,) = way.outside
        network, ids = cluster.loop.network, way.of(documents)
        await _left_to(cluster, way.newcomer)
        _cut(cluster, via, *way.stay, way.newcomer)
        network.latency_s[via, way.loses] = (2.5, 2.5)
        under_way = [
            asyncio.ensure_future(cluster.delete(via, one, sloppy=False, timeout_s=4.0))
            for one in ids
        ]
        await asyncio.sleep(0.05)
        network.reset(via, way.newcomer)  # what was on its way to it is lost
        network.heal(via, way.newcomer)
        await begun(cluster, Phase.LEVEL)
        _fast(cluster, way.newcomer)
        await asyncio.gather(*under_way)
        cluster.power_off(via)
        network.heal_all()
        network.latency_s.clear()
        await cluster.restart(via)
        await begun(cluster, Phase.SWITCH)
        for one in ids:
            await read_at(cluster, way.newcomer, one, read=3)
        await changed(cluster)

    simulate(scenario, seed, settings_of(nodes=4, spares=1, hints=_NO_HINTS))


@seeds(1)
def test_what_only_the_former_owner_has_is_given_away_before_it_is_dropped(seed: int) -> None:
    """A hint was the other acknowledgement; it grew too old, and the former owner had it."""

    async def scenario(cluster: SimCluster) -> None:
        documents = await on_all_owners(cluster)
        way = moved(cluster, begin(cluster, add=("a5",)), "a5")
        (via,) = way.outside
        await begun(cluster, Phase.SWITCH)
        await asyncio.sleep(1.0)
        cluster.loop.network.partition((via, way.loses), (*way.stay, way.newcomer))
        await _unconnected(cluster, via, *way.stay, way.newcomer)
        ids = way.of(documents)
        await asyncio.gather(*(cluster.delete(via, one) for one in ids))
        await cluster.until(lambda: not hints(cluster), 30.0, lambda: hints(cluster))
        cluster.loop.network.heal_all()
        await changed(cluster)
        for one in ids:
            with pytest.raises(DocumentDeleted):
                await cluster.read(way.newcomer, one, read=3, sloppy=False)

    simulate(scenario, seed, settings_of(nodes=4, spares=1, hints=HintSettings(window_s=3)))


@seeds(1)
def test_a_former_owner_takes_no_write_of_who_has_not_heard_of_that(seed: int) -> None:
    """It may have given all away by then, and drops what it has."""

    async def scenario(cluster: SimCluster) -> None:
        documents = await on_all_owners(cluster)
        way = moved(cluster, begin(cluster, add=("a5",)), "a5")
        (via,) = way.outside
        await begun(cluster, Phase.SWITCH)
        await _left_to(cluster, way.newcomer)
        for name in cluster.nodes:
            if name != via:
                cluster.loop.network.cut(name, via)
        _fast(cluster, way.newcomer)
        former = cluster.nodes[way.loses].serving.layouts
        await cluster.until(lambda: former.own.phase is Phase.RETIRE, 5.0, lambda: phases(cluster))
        assert cluster.nodes[via].serving.layouts.own.phase is Phase.SWITCH
        await asyncio.gather(*(deleted(cluster, via, one) for one in way.of(documents)))
        cluster.loop.network.heal_all()
        await changed(cluster)

    simulate(scenario, seed, settings_of(nodes=4, spares=1, hints=_NO_HINTS))


@seeds(1)
@pytest.mark.parametrize("killed", [False, True])
def test_a_hint_for_a_former_owner_goes_to_one_of_now(seed: int, killed: bool) -> None:
    """It is all that there is: its holder acknowledged by it, lost power, and may be killed again.

    Regression: it stayed until its window had passed, for its target could not be reached.
    """

    async def scenario(cluster: SimCluster) -> None:
        documents = await on_all_owners(cluster)
        way = moved(cluster, begin(cluster, add=("a6",)), "a6")
        via, network = way.outside[0], cluster.loop.network
        network.partition([via], [way.loses])
        await _unconnected(cluster, via, way.loses)
        _cut(cluster, via, *way.stay, way.newcomer)
        ids = way.of(documents)
        await asyncio.gather(*(cluster.delete(via, one) for one in ids))
        cluster.power_off(via)
        network.heal_all()
        network.partition([via], [way.loses])
        cluster.nodes[via].start()
        assert all(cluster.hints_of(via, way.loses, one) for one in ids)
        holder = cluster.nodes[via]
        await cluster.until(
            lambda: holder.node is not None and holder.serving.layouts.own.phase is Phase.RETIRE,
            120.0,
            lambda: phases(cluster),
            poll_s=0.01,
        )
        if killed:
            await asyncio.sleep(0.01)
            cluster.kill(via)
            assert all(cluster.hints_of(via, way.loses, one) for one in ids)
            holder.start()
        await cluster.until(lambda: not hints(cluster), 30.0, lambda: hints(cluster))
        network.heal_all()
        await changed(cluster)
        for one in ids:
            with pytest.raises(DocumentDeleted):
                await cluster.read(way.newcomer, one, read=3, sloppy=False)

    simulate(scenario, seed, settings_of(nodes=5, spares=1))


@seeds(1)
def test_nobody_is_rebuilt_from_a_newcomer_that_has_nothing_yet(seed: int) -> None:
    """One that lost its disk would believe the empty one, and say that there is nothing."""

    async def scenario(cluster: SimCluster) -> None:
        documents = await on_all_owners(cluster)
        layout = begin(cluster, add=("a4",))
        way = moved(cluster, layout, "a4")
        lost, newcomer = cluster.nodes[way.stay[0]], cluster.nodes["a4"]
        await cluster.until(
            lambda: newcomer.serving.layouts.own == layout, 5.0, "not heard", poll_s=0.000_1
        )
        others = [name for name in cluster.nodes if name not in (lost.name, "a4")]
        cluster.loop.network.partition((lost.name, "a4"), others)
        cluster.kill(lost.name)
        identity = Identity(CLUSTER_ID, lost.name, _PARTITIONS)
        cluster.replace_disk(lost.name, {IDENTITY_KEY: identity.encode()})
        lost.start()
        await asyncio.sleep(15.0)
        replica = lost.serving.replica
        missing = [
            one
            for one in way.of(documents)
            if replica.believes(partition_of(one, _PARTITIONS)) and not lost.stored(one)
        ]
        assert missing == [], f"{lost.name} believes that there is nothing"
        cluster.loop.network.heal_all()
        await changed(cluster)

    simulate(scenario, seed, settings_of(spares=1, hints=_NO_HINTS))


@seeds(1)
def test_no_body_wins_by_the_vote_of_who_was_not_asked_before(seed: int) -> None:
    """Another one was elected without the newcomer, and its coordinator slept since."""

    async def scenario(cluster: SimCluster) -> None:
        way = moved(cluster, begin(cluster, add=("a5",)), "a5")
        (via,), (one, _) = way.outside, way.stay
        network = cluster.loop.network
        keys = [key for n in range(60) if way.of([id_of_key(key := f"key {n}")])]
        assert keys
        others = [name for name in cluster.machines if name != way.loses]
        network.partition([way.loses], others)
        alone = [_claimed(cluster, way.loses, key, "later", timeout_s=0.1) for key in keys]
        for answer in await asyncio.gather(*alone, return_exceptions=True):
            assert isinstance(answer, Unavailable)
        for name in others:
            network.reset(way.loses, name)  # nobody else is asked for a vote
        network.heal_all()
        await cluster.ready()
        await _left_to(cluster, way.newcomer)
        slow = [asyncio.ensure_future(_claimed(cluster, via, key, "first")) for key in keys]
        rows = [vote_key(id_of_key(key)) for key in keys]
        voters = [cluster.nodes[name].disk for name in way.stay]
        await cluster.until(
            lambda: all(row in disk.values for row in rows for disk in voters),
            1.0,
            "not elected",
            poll_s=0.000_1,
        )
        cluster.pause(via)
        awake = cluster.nodes[one].serving.layouts
        await cluster.until(lambda: awake.own.phase is Phase.LEVEL, 5.0, lambda: phases(cluster))
        _fast(cluster, way.newcomer)
        prompt = [_claimed(cluster, one, key, "later", timeout_s=1.5) for key in keys]
        won = await asyncio.gather(*prompt, return_exceptions=True)
        cluster.resume(via)
        won += await asyncio.gather(*slow, return_exceptions=True)
        refused = [one for one in won if isinstance(one, BaseException)]
        assert all(isinstance(one, KeyReused | Unavailable) for one in refused), refused
        assert len(refused) >= len(keys), "both bodies were acknowledged"
        await changed(cluster)

    simulate(scenario, seed, settings_of(nodes=4, spares=1, hints=_NO_HINTS))


async def _claimed(
    cluster: SimCluster, via: str, key: str, body: str, timeout_s: float = 4.5
) -> object:
    body = f"the {body} body of {key}"
    return await cluster.create(via, body, key=key, write=2, sloppy=False, timeout_s=timeout_s)


async def _left_to(cluster: SimCluster, newcomer: str) -> None:
    """Wait until a phase waits for nothing but the newcomer's word, which takes a while."""
    others = [name for name in cluster.nodes if name != newcomer]
    told = [cluster.nodes[name].serving.layouts for name in others]

    def all_settled() -> bool:
        newest = cluster.rings.layouts[REGION].epoch
        return all(one.own.epoch == newest and one.all_settled() for one in told)

    def left() -> bool:
        return all([*one.waits_for()] == [newcomer] for one in told)

    for met in (all_settled, left):
        await cluster.until(met, 60.0, lambda: phases(cluster), poll_s=0.001)
        cluster.loop.network.latency_s.update({(newcomer, name): (0.6, 0.6) for name in others})


def _fast(cluster: SimCluster, newcomer: str) -> None:
    latency_s = cluster.loop.network.latency_s
    for link in [one for one in latency_s if one[0] == newcomer]:
        del latency_s[link]
