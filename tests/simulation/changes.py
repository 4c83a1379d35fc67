"""Random changes of owners, one after the other: nodes join and leave, others get other weights.

Rules
-----
1. The first member is asked, as an operator would do, again and again until it takes the change.
2. The next one is asked for as soon as the last one is over.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Final

from cluster.ids import NodeId
from cluster.ringchange import Layout
from kvnode.errors import Refused
from kvnode.services.layouts import Layouts
from tests.simulation.cluster import SimCluster

_QUIET_S: Final = (0.1, 6.0)
_ASK_EVERY_S: Final = 0.5
_WEIGHTS: Final = [0.5, 1.0, 2.0]
#: Each of a change's steps is over by then, once nothing befalls the cluster any more.
_STEP_S: Final = 120.0


class Changes:
    """One to three changes of owners.

    Args:
        chance: A stream of their own: what others do is not drawn anew because of them.
    """

    def __init__(self, cluster: SimCluster, chance: Random) -> None:
        self._cluster = cluster
        self._chance = chance
        self._stopped = False
        #: First layouts of those that were begun.
        self.begun: list[Layout] = []

    async def run(self) -> None:
        """Return when the last change has begun and is over, or none is to begin any more."""
        for _ in range(self._chance.randint(1, 3)):
            await asyncio.sleep(self._chance.uniform(*_QUIET_S))
            region = self._chance.choice(list(self._cluster.rings.by_region))
            wanted = self._wanted(region)
            await self._wait_for(partial(self._begin, region, *wanted))
            await self._wait_for(self._is_over)

    def stop(self) -> None:
        """Begin none any more."""
        self._stopped = True

    async def end(self) -> None:
        """Wait until what was begun is over, and every member knows: a change ends by itself."""
        steps = sum(layout.moves_left() > 0 for layout in self._cluster.rings.layouts.values())
        within_s = _STEP_S * (steps * self._cluster.settings.replication.copies + 1)
        await self._cluster.until(self._is_over, within_s, lambda: progress(self._cluster))

    async def _wait_for(self, met: Callable[[], bool]) -> None:
        while not (self._stopped or met()):  # noqa: ASYNC110 it is not this loop's to tell
            await asyncio.sleep(_ASK_EVERY_S)

    def _wanted(self, region: str) -> tuple[list[str], list[NodeId], dict[NodeId, float]]:
        """Who is to join and to leave, and weights."""
        layout, chance = self._cluster.rings.layouts[region], self._chance
        own = self._cluster.settings.region_nodes(region)
        outside = [node.id for node in own if node.node_id not in layout.ids]
        add = chance.sample(outside, chance.randint(0, len(outside)))
        spare = len(layout.ids) + len(add) - layout.copies
        remove = chance.sample(layout.ids, chance.randint(0, min(spare, 2)))
        weights = {}
        if not (add or remove) or chance.random() < 0.2:
            weights = {chance.choice(layout.ids): chance.choice(_WEIGHTS)}
        return add, remove, weights

    def _begin(
        self, region: str, add: list[str], remove: list[NodeId], weights: dict[NodeId, float]
    ) -> bool:
        cluster = self._cluster
        first = cluster.nodes[cluster.rings.layouts[region].ids[0]]
        if not first.process.running or first.documents is None:
            return False
        layouts = first.serving.layouts
        joining = [node for node in cluster.settings.node if node.id in add]
        try:
            layout = layouts.planned(add=joining, remove=remove, weights=weights)
            layouts.begin(layout)
        except Refused:
            return False
        cluster.note(f"owners in {region} change: +{add} -{remove} {weights}")
        self.begun.append(layout)
        return True

    def _is_over(self) -> bool:
        cluster = self._cluster
        for layout in cluster.rings.layouts.values():
            if not layout.is_stable:
                return False
            for machine in map(cluster.nodes.__getitem__, layout.ids):
                if not machine.process.running or machine.documents is None:
                    return False
                if machine.serving.layouts.versions != cluster.rings.versions:
                    return False
        return True


def progress(cluster: SimCluster) -> list[str]:
    """How far each node is with its region's change, as it knows it."""
    return [
        f"{machine.name}: {_of(machine.serving.layouts)}, "
        f"moved {machine.serving.background.moving.progress()}, "
        f"holds back {machine.serving.background.moving.held_back()}"
        for machine in cluster.alive()
        if machine.node is not None
    ]


def _of(layouts: Layouts) -> str:
    own = layouts.own
    return (
        f"{own.epoch} {own.phase.name}, waits for {layouts.waits_for()}, "
        f"unaware {layouts.unaware()}"
    )


def strays(cluster: SimCluster) -> list[str]:
    """Records and hints on disks that are not theirs, once no change is under way."""
    found = []
    for machine in cluster.nodes.values():
        owned = set(cluster.rings.by_region[machine.region].partitions_of(machine.own.node_id))
        replica = machine.serving.replica
        for partition in range(cluster.rings.partitions):
            if partition not in owned and replica.records.forest.root(partition, 0, 0):
                found.append(f"{machine.name} has records of partition {partition}")
        if not owned and machine.disk.record_count():
            found.append(f"{machine.name} owns nothing and has {machine.disk.record_count()}")
    return found
