"""Random histories: a random cluster, random requests, random faults, all from one seed.

Three phases: faults strike while clients work; then every fault is undone; then the cluster has
to converge, and the whole history is judged.
"""

import asyncio
from random import Random
from typing import Final

from cluster.settings import ClusterSettings, HintSettings
from kvnode.rpc.connection import SILENCE_S
from tests.simulation.cluster import SimCluster, settings_of
from tests.simulation.convergence import converge
from tests.simulation.loop import Order
from tests.simulation.nemesis import Nemesis
from tests.simulation.run import simulate
from tests.simulation.workload import Workload

FAULTS_S: Final = 20.0
_SLOW_LINK_S: Final = (0.001, 0.08)


def random_history(seed: int) -> SimCluster:
    """Run and judge the history of a seed."""
    chance = Random(f"{seed}/configuration")
    settings, order = random_settings(chance), random_order(chance)
    nemeses, slow_links = chance.randint(1, 3), chance.randint(0, 4)

    async def scenario(cluster: SimCluster) -> None:
        names = list(cluster.machines)
        for _ in range(slow_links):
            source, target = chance.sample(names, 2)
            cluster.loop.network.latency_s[source, target] = _SLOW_LINK_S
        await _live(cluster, nemeses)
        await cluster.calm()
        await converge(cluster)
        await asyncio.sleep(2 * SILENCE_S)  # connections that a cut left half open are noticed
        await cluster.ready()
        for via in names:  # everything works again
            created = await cluster.create(via, f"after all, via {via}", write=3, sloppy=False)
            await cluster.read(via, created.document_id, read=3)

    return simulate(scenario, seed, settings, order=order)


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
    )


def random_order(chance: Random) -> Order:
    """Mostly the order of a real cluster; what is right in any order is tried as well."""
    return chance.choice([Order.PROCESSES, Order.PROCESSES, Order.UNIFORM])


async def _live(cluster: SimCluster, nemeses: int) -> None:
    """Let clients work under faults for a while; return when every fault is undone."""
    loop = cluster.loop
    workload = Workload(cluster, loop.stream("workload"))
    nemesis = [Nemesis(cluster, loop.stream(f"nemesis/{number}")) for number in range(nemeses)]
    troubles: list[Workload | Nemesis] = [workload, *nemesis]
    running = [loop.create_task(trouble.run()) for trouble in troubles]
    await asyncio.sleep(FAULTS_S)
    for trouble in troubles:
        trouble.stop()
    await asyncio.gather(*running)
