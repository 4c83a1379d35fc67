"""Random histories: a random cluster, random requests, random faults, all from one seed.

Three phases: faults strike while clients work; then every fault is undone; then the cluster has
to converge, and the whole history is judged.
"""

import asyncio
from collections.abc import Sequence
from random import Random
from typing import Final

import msgspec

from cluster.settings import (
    AntiEntropySettings,
    ClusterSettings,
    GossipSettings,
    HintSettings,
    HttpSettings,
    LifecycleSettings,
    RegionSettings,
)
from kvnode.node import DISK_INTERVAL_S
from kvnode.rpc.connection import SILENCE_S
from scripts.checker.workload import MIX, SHORT_LIVES, Workload
from tests.simulation.changes import Changes, strays
from tests.simulation.cluster import DOCS, SimCluster, settings_of
from tests.simulation.convergence import converge, ended, fences, level
from tests.simulation.eachregion import EachRegion
from tests.simulation.flow import WINDOW_BYTES
from tests.simulation.loop import Order
from tests.simulation.nemesis import Nemesis, PhaseNemesis, RegionNemesis
from tests.simulation.plan import Plan
from tests.simulation.run import simulate
from tests.simulation.sessions import Sessions
from tests.simulation.strikes import OldDisks, Strikes
from tests.simulation.words import Words

Trouble = Workload | Sessions | Nemesis | Strikes | Changes

#: Nodes that were away, or whose disk was struck, are rebuilt by then.
_REBUILT_S: Final = 60.0
FAULTS_S: Final = 20.0
LIFETIMES_S: Final = 40.0
REGIONS_S: Final = 25.0
LAYOUTS_S: Final = 50.0
#: Clients without a token where others bring one along.
_BESIDE_SESSIONS: Final = 2
_SLOW_LINK_S: Final = (0.001, 0.08)
_WINDOWS_BYTES: Final = (WINDOW_BYTES, WINDOW_BYTES, 2048, 256)


def random_history(seed: int, plan: Plan | None = None) -> SimCluster:
    """Run and judge the history of a seed."""
    plan = plan or Plan()
    chance = Random(f"{seed}/configuration")
    settings, order = random_settings(chance), random_order(chance)
    nemeses, slow_links = chance.randint(1, 3), chance.randint(0, 4)
    window_bytes = chance.choice(_WINDOWS_BYTES)

    async def scenario(cluster: SimCluster) -> None:
        names = list(cluster.machines)
        for _ in range(slow_links):
            source, target = chance.sample(names, 2)
            cluster.loop.network.latency_s[source, target] = _SLOW_LINK_S
        loop = cluster.loop
        loop.network.window_bytes = window_bytes
        troubles: list[Trouble] = [
            Workload(cluster, loop.stream("workload")),
            *_nemeses(cluster, plan, nemeses),
        ]
        await _live(cluster, troubles, FAULTS_S)
        await cluster.calm()
        await converge(cluster)
        await works(cluster)

    return simulate(scenario, seed, settings, order=order)


def random_lifetimes(seed: int, plan: Plan | None = None) -> SimCluster:
    """Run and judge the history of a seed in which documents end, and disks are lost.

    Nothing but the cluster's own background work heals it, and in the end every deleted document
    has left every disk.
    """
    plan = plan or Plan()
    chance = Random(f"{seed}/lifetimes")
    settings, order = short_lived(chance), random_order(chance)
    nemeses, window_bytes = chance.randint(0, 2), chance.choice(_WINDOWS_BYTES)

    async def scenario(cluster: SimCluster) -> None:
        loop = cluster.loop
        loop.network.window_bytes = window_bytes
        troubles: list[Trouble] = [
            Workload(cluster, loop.stream("workload"), SHORT_LIVES),
            *_nemeses(cluster, plan, nemeses),
            Strikes(cluster, loop.stream("strikes"), plan.line("s")),
        ]
        await _live(cluster, troubles, LIFETIMES_S)
        await cluster.calm()
        await level(cluster)
        await ended(cluster)
        await works(cluster)

    return simulate(scenario, seed, settings, order=order)


def random_regions(seed: int, plan: Plan | None = None) -> SimCluster:
    """Run and judge the history of a seed in which regions are cut off, and documents end.

    As ``random_lifetimes``: in the end all regions hold the same, and nothing that was deleted.
    In four of ten some requests ask for a quorum in each region, and in as many operators say that
    a region is gone, and later that it is back.
    """
    plan = plan or Plan()
    chance = Random(f"{seed}/regions")
    settings, order = far_apart(chance), random_order(chance)
    nemeses = chance.randint(0, 1)
    everywhere = Random(f"{seed}/each region").random() < 0.4
    striking = Words if Random(f"{seed}/words").random() < 0.4 else Strikes

    async def scenario(cluster: SimCluster) -> None:
        loop = cluster.loop
        troubles: list[Trouble] = [
            Workload(cluster, loop.stream("workload"), SHORT_LIVES),
            *_nemeses(cluster, plan, nemeses),
            RegionNemesis(cluster, loop.stream("regions"), plan.line("r")),
            striking(cluster, loop.stream("strikes"), plan.line("s")),
        ]
        if everywhere:
            troubles.append(EachRegion(cluster, loop.stream("each region")))
        await _live(cluster, troubles, REGIONS_S)
        await cluster.calm()
        await level(cluster)
        await ended(cluster)
        await works(cluster)

    return simulate(scenario, seed, settings, order=order)


def far_apart(chance: Random) -> ClusterSettings:
    """A random cluster of two regions, or three, whose months last seconds."""
    return _in_regions(short_lived(chance), chance)


def _in_regions(settings: ClusterSettings, chance: Random) -> ClusterSettings:
    nodes, regions = chance.choice([(3, "ab"), (3, "ab"), (4, "ab"), (3, "abc")])
    between = RegionSettings(
        outbox_bytes_max=chance.choice([1 << 30, 300]),
        ship_interval_s=chance.choice([0.1, 0.4]),
        compare_interval_s=chance.choice([2.0, 5.0]),
    )
    apart = settings_of(
        nodes, partitions=settings.replication.partitions, regions=regions, between=between
    )
    return msgspec.structs.replace(settings, node=apart.node, regions=apart.regions)


def random_sessions(seed: int, plan: Plan | None = None) -> SimCluster:
    """Run and judge the history of a seed in which clients bring session tokens along.

    In every second one documents end and disks are lost; where none is, every session gets an
    answer in the end of all that it knows. In three of ten clients roam between regions.
    """
    plan = plan or Plan()
    chance = Random(f"{seed}/sessions")
    ending = chance.random() < 0.5
    settings = short_lived(chance) if ending else random_settings(chance)
    order, nemeses = random_order(chance), chance.randint(1, 3)
    of_regions = Random(f"{seed}/roaming")
    roaming = of_regions.random() > 0.7
    if roaming:
        settings = _in_regions(settings, of_regions)
        nemeses = min(nemeses, 1)  # what strikes regions comes on top
        soon = AntiEntropySettings(interval_s=min(settings.antientropy.interval_s, 5.0))
        settings = msgspec.structs.replace(settings, antientropy=soon)

    async def scenario(cluster: SimCluster) -> None:
        loop = cluster.loop
        sessions = Sessions(cluster, loop.stream("sessions"))
        mix = SHORT_LIVES if ending else MIX
        troubles: list[Trouble] = [
            sessions,
            Workload(cluster, loop.stream("workload"), mix),
            *_nemeses(cluster, plan, nemeses),
        ]
        if ending:
            troubles.append(Strikes(cluster, loop.stream("strikes"), plan.line("s")))
        if roaming:
            troubles.append(RegionNemesis(cluster, loop.stream("regions"), plan.line("r")))
        await _live(cluster, troubles, FAULTS_S)
        await cluster.calm()
        if not ending:
            await (level if roaming else converge)(cluster)
            await recovered(cluster)
            await sessions.reads_all()
        await works(cluster)

    return simulate(scenario, seed, settings, order=order)


def random_layouts(seed: int, plan: Plan | None = None) -> SimCluster:
    """Run and judge the history of a seed in which owners change, and everything befalls them.

    As ``random_lifetimes``, in one region or two; some clients bring session tokens along. Clients
    go on until the last change is over.
    """
    plan = plan or Plan()
    chance = Random(f"{seed}/layouts")
    settings, order = _with_spares(short_lived(chance), chance), random_order(chance)
    nemeses, struck, of_old = chance.randint(0, 2), chance.random() < 0.8, chance.random() < 0.6
    several = len(settings.region_names) > 1

    async def scenario(cluster: SimCluster) -> None:
        loop = cluster.loop
        workload = Workload(cluster, loop.stream("workload"), SHORT_LIVES)
        workload.clients = _BESIDE_SESSIONS
        sessions = Sessions(cluster, loop.stream("sessions"))
        changes = Changes(cluster, loop.stream("changes"))
        troubles: list[Trouble] = [
            changes,
            *_nemeses(cluster, plan, nemeses),
            PhaseNemesis(cluster, loop.stream("phases"), plan.line("p")),
        ]
        if struck:
            kind = OldDisks if of_old else Strikes
            troubles.append(kind(cluster, loop.stream("strikes"), plan.line("s")))
        if several:
            troubles.append(RegionNemesis(cluster, loop.stream("regions"), plan.line("r")))
        clients: list[Trouble] = [workload, sessions]
        at_work = [loop.create_task(one.run()) for one in clients]
        await _live(cluster, troubles, LAYOUTS_S)
        await cluster.calm()
        await changes.end()
        for one in clients:
            one.stop()
        await asyncio.gather(*at_work)
        await level(cluster)
        await ended(cluster)
        assert strays(cluster) == []
        await works(cluster)

    return simulate(scenario, seed, settings, order=order)


def _with_spares(settings: ClusterSettings, chance: Random) -> ClusterSettings:
    nodes, zones = chance.randint(3, 5), chance.randint(2, 4)
    apart = settings_of(
        nodes,
        zones=zones,
        spares=chance.randint(1, 2),
        regions=chance.choice(["a", "a", "ab"]),
        between=RegionSettings(
            outbox_bytes_max=chance.choice([1 << 30, 300]),
            ship_interval_s=0.2,
            compare_interval_s=2.0,
        ),
    )
    hints = settings.hints
    if chance.random() < 0.7:  # room for them: who is to have them changes
        hints = HintSettings(window_s=hints.window_s)
    return msgspec.structs.replace(
        settings,
        node=apart.node,
        regions=apart.regions,
        hints=hints,
        http=HttpSettings(request_timeout_ms=2000),
        replication=msgspec.structs.replace(settings.replication, partitions=16),
    )


def _nemeses(cluster: SimCluster, plan: Plan, count: int) -> list[Nemesis]:
    stream = cluster.loop.stream
    return [
        Nemesis(cluster, stream(f"nemesis/{number}"), plan.line(f"n{number}"))
        for number in range(count)
    ]


def short_lived(chance: Random) -> ClusterSettings:
    """A random cluster whose months last seconds."""
    settings = random_settings(chance)
    window_s = chance.choice([3.0, 12.0, 10_800.0])
    return msgspec.structs.replace(
        settings,
        hints=msgspec.structs.replace(settings.hints, window_s=window_s),
        antientropy=AntiEntropySettings(interval_s=chance.choice([1.0, 2.0, 5.0])),
        lifecycle=LifecycleSettings(
            tombstone_retention_s=chance.choice([5.0, 6.0, 10.0]),
            purge_bucket_s=chance.choice([0.5, 1.0, 3.0]),
            sweep_interval_s=chance.choice([0.5, 1.0]),
        ),
    )


def random_settings(chance: Random) -> ClusterSettings:
    """Three to six nodes, in two to four zones, with or without room for hints."""
    hints = chance.choice(
        [HintSettings(), HintSettings(target_bytes_max=600), HintSettings(total_bytes_max=0)]
    )
    return settings_of(
        chance.randint(3, 6),
        zones=chance.randint(2, 4),
        partitions=chance.choice([4, 16, 64]),
        hints=hints,
        gossip=GossipSettings(interval_s=chance.choice([1.0, 2.0])),
    )


def random_order(chance: Random) -> Order:
    """Mostly the order of a real cluster; what is right in any order is tried as well."""
    return chance.choice([Order.PROCESSES, Order.PROCESSES, Order.UNIFORM])


async def _live(cluster: SimCluster, troubles: Sequence[Trouble], for_s: float) -> None:
    """Let clients work under faults for a while; return when every fault is undone."""
    running = [cluster.loop.create_task(trouble.run()) for trouble in troubles]
    await asyncio.sleep(for_s)
    for trouble in troubles:
        trouble.stop()
    await asyncio.gather(*running)


async def recovered(cluster: SimCluster) -> None:
    """Wait until nothing is left of the faults: connections, fences, what is said of disks."""
    half_open = cluster.loop.network.half_open
    await cluster.until(lambda: not half_open(), 2 * SILENCE_S, "connections are half open")
    await cluster.ready()
    await cluster.until(lambda: not fences(cluster), _REBUILT_S, lambda: fences(cluster))
    await cluster.until(lambda: not _low(cluster), 2 * DISK_INTERVAL_S, lambda: _low(cluster))


async def works(cluster: SimCluster) -> None:
    """Whatever befell it, everything works again."""
    await recovered(cluster)
    for via in [*cluster.rings.nodes, DOCS]:
        created = await cluster.create(via, f"after all, via {via}", write=3, sloppy=False)
        await cluster.read(via, created.document_id, read=3)


def _low(cluster: SimCluster) -> list[str]:
    """Who refuses creates: nobody has looked yet at a disk that has room again."""
    return [machine.name for machine in cluster.alive() if machine.serving.replica.disk_low]
