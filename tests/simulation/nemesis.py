"""Random faults, each undone after a while.

Rules
-----
1. Any number of machines may be struck at once, all of them included: no disk is ever lost, so
   nothing that was acknowledged may be. (``strikes`` are the faults that destroy copies.)
2. Clocks stay within the bound that the cluster relies on.
3. Every fault is noted in the cluster's timeline.
4. A fault that the plan spares does nothing, but draws and waits as if it did (``plan``).
"""

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import Final

from tests.simulation.cluster import SimCluster
from tests.simulation.machine import COMMIT_LATENCY_S, WALL_AHEAD_S, Machine, NodeMachine
from tests.simulation.plan import Line
from tests.simulation.processes import ProcessState

_QUIET_S: Final = (0.1, 2.0)
_LASTS_S: Final = (0.05, 8.0)
_SLOW_COMMIT_S: Final = (0.05, 0.8)
_JUMP_S: Final = 1.0
_FAR_S: Final = (0.1, 0.6)
#: Of parts that travel, one in so many is damaged.
_DAMAGED_ONE_IN: Final = (1, 5, 25)
_SLOW_READ_BYTES: Final = (20, 2000)
_SLOW_READ_S: Final = (0.005, 0.1)
_FLAPS: Final = (3, 10)
_FLAP_S: Final = (0.02, 0.5)
#: Some end before the phase does that they begin with, more when the next one has begun.
_OVER_PHASES_S: Final = (4.0, 14.0)
_LOOK_S: Final = 0.1


class Nemesis:
    """One line of faults, one after the other; several may run side by side."""

    lasts_s = _LASTS_S

    def __init__(self, cluster: SimCluster, chance: Random, line: Line) -> None:
        self._cluster = cluster
        self._chance = chance
        self._line = line
        #: Whether the present fault is to do what it is called.
        self._happens = True
        self._stopped = False
        self._faults: list[Callable[[], Awaitable[None]]] = [
            self._kill,
            self._power_off,
            self._stop_politely,
            self._pause,
            self._cut,
            self._flap,
            self._isolate,
            self._partition,
            self._reset,
            self._break_off,
            self._damage_bytes,
            self._read_slowly,
            self._slow_disk,
            self._fail_disk,
            self._jump,
        ]

    async def run(self) -> None:
        """Return when ``stop`` was called and the last fault was undone."""
        while not self._stopped:
            await self._due()
            fault = self._chance.choice(self._faults)
            self._happens = self._line.admits(fault.__name__, self._cluster.loop.time())
            await fault()

    def stop(self) -> None:
        """Undo what is under way, and strike no more."""
        self._stopped = True

    async def _due(self) -> None:
        """Wait for the next fault's turn."""
        await asyncio.sleep(self._chance.uniform(*_QUIET_S))

    async def _kill(self) -> None:
        name = self._any()
        if self._happens and not self._cluster.machines[name].process.dead:
            self._cluster.kill(name)
        await self._revive(name)

    async def _power_off(self) -> None:
        name = self._any()
        if self._happens and not self._cluster.machines[name].process.dead:
            self._cluster.power_off(name)
        await self._revive(name)

    async def _stop_politely(self) -> None:
        machine = self._any_node()
        process = machine.process
        if self._happens and process.running and machine.documents is not None:
            self._cluster.request_stop(machine.name)
            await self._last()
            if not process.dead:  # whoever asked it has no more patience
                self._cluster.kill(machine.name)
        else:
            await self._last()
        self._start_again(machine)

    async def _revive(self, name: str) -> None:
        await self._last()
        self._start_again(self._cluster.machines[name])

    def _start_again(self, machine: Machine) -> None:
        name = machine.name
        if self._happens and machine.process.dead and name not in self._cluster.in_repair:
            self._cluster.note(f"{name} starts")
            machine.start()

    async def _pause(self) -> None:
        name = self._any()
        process = self._cluster.machines[name].process
        if process.running:
            if self._happens:
                self._cluster.pause(name)
            await self._last()
            if self._happens and process.state is ProcessState.PAUSED:
                self._cluster.resume(name)

    async def _cut(self) -> None:
        await self._separate([self._two()])

    async def _flap(self) -> None:
        source, target = self._two()
        if self._happens:
            self._cluster.note(f"the link {source}>{target} flaps")
        network = self._cluster.loop.network
        for _ in range(self._chance.randint(*_FLAPS)):
            for change in (network.cut, network.heal):
                if self._happens:
                    change(source, target)
                await asyncio.sleep(self._chance.uniform(*_FLAP_S))

    async def _isolate(self) -> None:
        name = self._any()
        others = [other for other in self._cluster.machines if other != name]
        await self._separate([(name, other) for other in others] + [(o, name) for o in others])

    async def _partition(self) -> None:
        names = self._chance.sample(list(self._cluster.machines), len(self._cluster.machines))
        split = self._chance.randrange(1, len(names))
        one, other = names[:split], names[split:]
        await self._separate([(a, b) for a in one for b in other])
        await self._separate([(b, a) for a in one for b in other])

    async def _separate(self, links: list[tuple[str, str]]) -> None:
        if not self._happens:
            await self._last()
            return
        network = self._cluster.loop.network
        named = " ".join(f"{source}>{target}" for source, target in links)
        self._cluster.note(f"cut {named}")
        for source, target in links:
            network.cut(source, target)
        await self._last()
        self._cluster.note(f"heal {named}")
        for source, target in links:
            network.heal(source, target)

    async def _reset(self) -> None:
        one, other = self._two()
        if self._happens:
            self._cluster.note(f"reset {one} {other}")
            self._cluster.loop.network.reset(one, other)

    async def _break_off(self) -> None:
        one, other = self._two()
        if self._happens:
            self._cluster.note(f"break off {one} {other}")
            self._cluster.loop.network.break_off(one, other)

    async def _damage_bytes(self) -> None:
        source, target = self._two()
        one_in = self._chance.choice(_DAMAGED_ONE_IN)
        if not self._happens:
            await self._last()
            return
        damaging = self._cluster.loop.network.damaging
        self._cluster.note(f"the link {source}>{target} changes bytes, of one part in {one_in}")
        damaging[source, target] = one_in
        await self._last()
        damaging.pop((source, target), None)
        self._cluster.note(f"the link {source}>{target} changes no more bytes")

    async def _read_slowly(self) -> None:
        name = self._any()
        pace = self._chance.randint(*_SLOW_READ_BYTES), self._chance.uniform(*_SLOW_READ_S)
        if not self._happens:
            await self._last()
            return
        slow_readers = self._cluster.loop.network.slow_readers
        self._cluster.note(f"{name} reads slowly, {pace[0]} bytes in {pace[1]:.3f} s")
        slow_readers[name] = pace
        await self._last()
        slow_readers.pop(name, None)
        self._cluster.note(f"{name} reads at once")

    async def _slow_disk(self) -> None:
        machine = self._any_node()
        if not self._happens:
            await self._last()
            return
        self._cluster.note(f"{machine.name} has a slow disk")
        machine.commit_latency_s = _SLOW_COMMIT_S
        await self._last()
        machine.commit_latency_s = COMMIT_LATENCY_S
        self._cluster.note(f"{machine.name} has a fast disk")

    async def _fail_disk(self) -> None:
        machine, applied = self._any_node(), self._chance.random() < 0.5
        if self._happens:
            self._cluster.note(f"the disk of {machine.name} fails")
            self._cluster.disturb(machine.name)
            machine.disk.failing = applied
        await self._last()
        if self._happens:
            self._cluster.note(f"the disk of {machine.name} is mended")
            machine.disk.failing = None
        await self._revive(machine.name)

    async def _jump(self) -> None:
        name, seconds = self._any(), self._chance.uniform(-_JUMP_S, _JUMP_S)
        ahead_s = self._cluster.machines[name].clock.ahead_s
        seconds = min(max(seconds, -WALL_AHEAD_S - ahead_s), WALL_AHEAD_S - ahead_s)
        if self._happens:
            self._cluster.note(f"the wall clock of {name} jumps {seconds:+.3f} s")
            self._cluster.machines[name].clock.jump(seconds)

    def _any(self) -> str:
        return self._chance.choice(list(self._cluster.machines))

    def _any_node(self) -> NodeMachine:
        return self._chance.choice(list(self._cluster.nodes.values()))

    def _two(self) -> tuple[str, str]:
        one, other = self._chance.sample(list(self._cluster.machines), 2)
        return one, other

    async def _last(self) -> None:
        await asyncio.sleep(self._chance.uniform(*self.lasts_s))


class RegionNemesis(Nemesis):
    """Faults that strike a whole region, or what is between two."""

    def __init__(self, cluster: SimCluster, chance: Random, line: Line) -> None:
        super().__init__(cluster, chance, line)
        self._faults = [self._cut_region, self._cut_one_way, self._slow_region, self._darken]

    async def _cut_region(self) -> None:
        mine, others = self._split()
        await self._separate([pair for a in mine for b in others for pair in ((a, b), (b, a))])

    async def _cut_one_way(self) -> None:
        mine, others = self._split()
        await self._separate([(a, b) for a in mine for b in others])

    async def _slow_region(self) -> None:
        mine, others = self._split()
        if not self._happens:
            await self._last()
            return
        latency_s = self._cluster.loop.network.latency_s
        usual = dict(latency_s)
        self._cluster.note(f"{' '.join(mine)} are far from all others")
        for one in mine:
            for other in others:
                latency_s[one, other] = latency_s[other, one] = _FAR_S
        await self._last()
        self._cluster.note(f"{' '.join(mine)} are as near as before")
        latency_s.clear()
        latency_s.update(usual)

    async def _darken(self) -> None:
        mine, _ = self._split()
        running = [name for name in mine if not self._cluster.machines[name].process.dead]
        if self._happens and running:
            self._cluster.power_off(*running)
        await self._last()
        for name in mine:
            self._start_again(self._cluster.machines[name])

    def _split(self) -> tuple[list[str], list[str]]:
        """The machines of one region, and all others."""
        region = self._chance.choice(list(self._cluster.rings.by_region))
        machines = self._cluster.machines
        mine = [name for name, machine in machines.items() if machine.region == region]
        return mine, [name for name in machines if name not in mine]


class PhaseNemesis(Nemesis):
    """Faults that begin when a phase of a change of owners does, and may outlast it.

    They strike one that loses partitions: what is written meanwhile waits as hints for who is no
    owner any more when it is reached again.
    """

    lasts_s = _OVER_PHASES_S

    def __init__(self, cluster: SimCluster, chance: Random, line: Line) -> None:
        super().__init__(cluster, chance, line)
        self._faults = [self._kill, self._part, self._part, self._part]

    async def _due(self) -> None:
        layouts = self._cluster.watch.layouts
        known = len(layouts)
        while not self._stopped and len(layouts) == known:  # noqa: ASYNC110 it is not its to tell
            await asyncio.sleep(_LOOK_S)

    async def _part(self) -> None:
        """Some of the others can't reach it: the change goes on."""
        name = self._any()
        others = [other for other in self._cluster.machines if other != name]
        some = self._chance.sample(others, self._chance.randrange(1, len(others)))
        await self._separate([pair for one in some for pair in ((name, one), (one, name))])

    def _any(self) -> str:
        begun = [layout for _, layout in self._cluster.watch.layouts[-1:]]
        losing = [node for layout in begun for node in layout.ids if layout.lost_by(node)]
        return self._chance.choice(losing or list(self._cluster.nodes))
