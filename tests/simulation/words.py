"""What operators say of regions at any time: that one is gone, rightly or not, and that it is back.

Rules
-----
1. One region at a time, and the next one once the last is rebuilt: of two regions that gave each
   other up none is to be believed. Between two words the disks of single nodes are struck.
2. A region that is given up is cut off, or without power, or its machines are replaced and all its
   disks lost. Seldom nothing ails it: the word is wrong.
3. Mostly all is undone after the region was said to be back; else its nodes hear the other word
   first, and wait.
4. An operator asks one node after the other, until some disk has the word.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import partial
from random import Random
from typing import Final

from kvnode.errors import Refused
from kvnode.standing import is_gone
from kvnode.storage.keys import standing_key
from tests.simulation.cluster import SimCluster
from tests.simulation.plan import Line
from tests.simulation.strikes import Strikes

#: Until somebody loses patience.
_AWAY_S: Final = (0.0, 5.0)
#: Long enough for some purges without the region, mostly.
_GONE_S: Final = (2.0, 20.0)
_BACK_EARLY: Final = 0.4
_HEARD_S: Final = (0.0, 3.0)
_ASK_EVERY_S: Final = 0.5
#: Some node can be asked by then.
_SAID_S: Final = 100.0


class Words(Strikes):
    """One line of words and strikes, a region that is given up first."""

    def __init__(self, cluster: SimCluster, chance: Random, line: Line) -> None:
        super().__init__(cluster, chance, line)
        self._strikes = [
            *[self._give_up] * 4,
            self._wipe,
            self._back_up,
            self._put_back,
            self._stay_away,
            self._damage,
        ]
        #: Rule 2; each returns what undoes it.
        self._ailments: list[Callable[[str], Awaitable[Callable[[], None]]]] = [
            *[self._cut] * 3,
            *[self._darken] * 2,
            *[self._lose] * 3,
            self._spare,
        ]

    async def run(self) -> None:
        """As always, after a first word."""
        await self._carry_out(self._give_up, self._chance.choice(list(self._cluster.nodes)))
        await super().run()

    async def _give_up(self, name: str) -> None:
        """The region of a node."""
        region, chance = self._cluster.nodes[name].region, self._chance
        ails, early = chance.choice(self._ailments), chance.random() < _BACK_EARLY
        away_s, gone_s = chance.uniform(*_AWAY_S), chance.uniform(*_GONE_S)
        heard_s = chance.uniform(*_HEARD_S)
        undo = await ails(region)
        await asyncio.sleep(away_s)
        await self._say(region, gone=True)
        await asyncio.sleep(gone_s)
        if early:
            undo()
        await asyncio.sleep(heard_s)
        await self._say(region, gone=False)
        undo()

    async def _cut(self, region: str) -> Callable[[], None]:
        machines, network = self._cluster.machines, self._cluster.loop.network
        mine = [name for name, machine in machines.items() if machine.region == region]
        others = [name for name in machines if name not in mine]
        links = [pair for a in mine for b in others for pair in ((a, b), (b, a))]

        def heal() -> None:
            if self._happens:
                self._cluster.note(f"region {region} is reached again")
                for source, target in links:
                    network.heal(source, target)

        if self._happens:
            self._cluster.note(f"region {region} is cut off")
            for source, target in links:
                network.cut(source, target)
        return heal

    async def _darken(self, region: str) -> Callable[[], None]:
        nodes = self._cluster.region(region)
        if self._happens:
            self._cluster.in_repair |= dict.fromkeys(nodes)
            processes = {name: self._cluster.nodes[name].process for name in nodes}
            self._cluster.power_off(*(name for name in nodes if not processes[name].dead))
        return partial(self._bring_up_all, nodes)

    async def _lose(self, region: str) -> Callable[[], None]:
        nodes = self._cluster.region(region)
        await asyncio.gather(*map(self._taken_down, nodes))
        if self._happens:
            for name in nodes:
                self._empty(name)
        return partial(self._bring_up_all, nodes)

    async def _spare(self, region: str) -> Callable[[], None]:
        if self._happens:
            self._cluster.note(f"nothing ails region {region}")
        return lambda: None

    def _bring_up_all(self, nodes: list[str]) -> None:
        if self._happens:
            for name in nodes:
                self._bring_up(name)

    def _sure(self, name: str) -> bool:
        """As always, and every disk has heard the same: who has not is not rebuilt yet."""
        nodes = self._cluster.nodes.values()
        keys = map(standing_key, self._cluster.rings.by_region)
        heard = all(len({machine.disk.values.get(key) for machine in nodes}) == 1 for key in keys)
        return heard and super()._sure(name)

    async def _say(self, region: str, *, gone: bool) -> None:
        if self._happens:
            await self._cluster.until(
                partial(self._is_said, region, gone), _SAID_S, "nobody takes it", _ASK_EVERY_S
            )

    def _is_said(self, region: str, gone: bool) -> bool:
        """Whether some disk has the word; if not, ask somebody."""
        nodes, key = self._cluster.nodes, standing_key(region)
        rows = [machine.disk.values.get(key, b"") for machine in nodes.values()]
        if is_gone(max(int.from_bytes(row, "big") for row in rows)) == gone:
            return True
        via = self._chance.choice(list(nodes))
        if nodes[via].process.running and nodes[via].documents is not None:
            with contextlib.suppress(Refused):  # it is of that region itself
                say(self._cluster, via, region, gone=gone)
        return False


def say(cluster: SimCluster, via: str, region: str, *, gone: bool) -> None:
    """As ``stele region`` does on one node. Raises Refused."""
    cluster.nodes[via].serving.partings.say(region, gone=gone)
    cluster.note(f"{via} is told that region {region} is {'gone' if gone else 'back'}")
    if gone:
        cluster.watch.spoken.said(region)
