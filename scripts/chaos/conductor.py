"""Carrying out a plan: each fault strikes when its time has come, and is undone after a while.

Rules
-----
1. Faults that pass may overlap. One that destroys copies waits until the last one is healed, every
   node serves and nothing else is broken; faults whose time comes meanwhile are left out. Only so
   can it be told what it destroys (``evidence``).
2. Whatever a fault does is undone by itself, also when the run is cut short. Two never stop and
   start the same process: the one that would come second, because the first took longer than
   planned, is left out.
3. Everything is noted with its times: for the report, and for who was disturbed when.
"""

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from scripts.chaos.arena import Arena
from scripts.chaos.disks import read_disk
from scripts.chaos.evidence import Destroyed
from scripts.chaos.plan import DESTROYING, PROCESSES, STRIKES, Fault, Kind
from scripts.chaos.proxy import Link, Trouble
from scripts.chaos.replicas import Replicas
from scripts.chaos.setbacks import Expected
from scripts.local_cluster import ClusterError

_POLL_S: Final = 0.3
#: Until a node that was started serves, or has been rebuilt.
READY_WITHIN_S: Final = 60.0
_FLAP_S: Final = 0.7
_RESET_S: Final = 0.3
_HOLDS: Final = Trouble(holds=True)
_SLOW: Final = Trouble(delay_s=0.15, bytes_per_s=500_000)
_CORRUPT: Final = Trouble(flips=0.05)


class Band(msgspec.Struct):
    """A fault as it happened."""

    what: str
    kind: Kind
    #: The first that it befell.
    node: str
    begins_s: float
    #: When it was undone; the nodes may need a while longer.
    ends_s: float | None = None


class Disturbed(msgspec.Struct):
    """When a node's process was not there, stopped, or on its way up."""

    node: str
    begins_s: float
    ends_s: float = float("inf")


class Conductor:
    """One plan.

    Args:
        now_s: The time of the history.
        seed: Of which bytes a strike damages.
    """

    def __init__(
        self,
        arena: Arena,
        plan: Sequence[Fault],
        replicas: Replicas,
        destroyed: Destroyed,
        *,
        now_s: Callable[[], float],
        seed: int,
    ) -> None:
        self._arena = arena
        self._plan = plan
        self._replicas = replicas
        self._destroyed = destroyed
        self._now_s = now_s
        self._chance = random.Random(f"{seed}/damage")
        self._stopped = asyncio.Event()
        #: Whether faults may begin.
        self._open = True
        self._strike = asyncio.Lock()
        #: Nodes whose process some fault stops and starts.
        self._busy: dict[str, None] = {}
        self._passing = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self.bands: list[Band] = []
        self.disturbed: list[Disturbed] = []
        self.notes: list[tuple[float, str]] = []
        #: What nodes did not do that they have to.
        self.failures: list[ClusterError] = []
        #: Faults that could not be carried out, and why.
        self.left_out: list[str] = []
        self._faults: dict[Kind, Callable[[Fault], Awaitable[None]]] = {
            Kind.KILL: self._kill,
            Kind.RESTART: self._restart,
            Kind.RESTART_ALL: self._kill,
            Kind.PAUSE: self._pause,
            Kind.ISOLATE: self._cut,
            Kind.HALVES: self._cut,
            Kind.ONE_WAY: self._cut,
            Kind.FLAP: self._flap,
            Kind.RESET: self._reset,
            Kind.SLOW: self._slow,
            Kind.CORRUPT: self._corrupt,
            Kind.WIPE: self._wipe,
            Kind.DAMAGE: self._damage,
            Kind.AWAY: self._stay_away,
            Kind.FILL: self._fill,
            Kind.CUT_REGION: self._cut,
            Kind.KILL_REGION: self._kill,
        }

    @property
    def strikes(self) -> list[Expected]:
        """When which node was struck by what destroys copies."""
        return [
            Expected(band.node, band.begins_s, band.ends_s or self._now_s())
            for band in self.bands
            if band.kind in DESTROYING
        ]

    @property
    def under_way(self) -> list[str]:
        """What is broken now."""
        return [band.what for band in self.bands if band.ends_s is None]

    def stood_still(self, since_s: float, late_s: float) -> None:
        """The machine was too busy; whoever was asked then, or was catching up, is not to blame."""
        self.notes.append((since_s, f"clients and proxies stood still for {late_s:.1f} s"))
        self.disturbed += [
            Disturbed(node, since_s, self._now_s() + late_s) for node in self._arena.nodes
        ]

    async def run(self) -> None:
        """Return when every fault was carried out and undone, or given up."""
        async with asyncio.TaskGroup() as group:
            for fault in self._plan:
                await self._pass(fault.at_s - self._now_s())
                if self._stopped.is_set():
                    return
                one = self._struck if fault.kind in STRIKES else self._passes
                group.create_task(one(fault))

    def stop(self) -> None:
        """Begin nothing more, and undo what is under way."""
        self._stopped.set()

    async def _pass(self, seconds: float) -> None:
        """Sleep, unless it is all over."""
        try:
            async with asyncio.timeout(max(seconds, 0.0)):
                await self._stopped.wait()
        except TimeoutError:
            return

    # One fault at a time, or several ------------------------------------------------------------

    async def _passes(self, fault: Fault) -> None:
        busy = [node for node in fault.nodes if node in self._busy and fault.kind in PROCESSES]
        if busy or not self._open:
            why = f"{', '.join(busy)} is busy" if busy else "a disk is being struck"
            self._note(f"{fault} is left out: {why}")
            return
        self._passing += 1
        self._idle.clear()
        try:
            await self._carry_out(fault)
        finally:
            self._passing -= 1
            if not self._passing:
                self._idle.set()

    async def _struck(self, fault: Fault) -> None:
        if fault.kind is Kind.FILL and self._arena.small_disk not in fault.nodes:
            self.left_out.append(f"{fault}: no small disk")
            return
        async with self._strike:
            if await self._alone():
                await self._carry_out(fault)
            self._open = True
            # Until it was rebuilt the next strike would have to wait, and nothing else could begin.
            while not self._stopped.is_set() and await self._arena.unready(list(fault.nodes)):
                await self._pass(_POLL_S)

    async def _alone(self) -> bool:
        """Let no fault begin, and wait until nothing is broken; False when it is all over."""
        self._open = False
        await self._idle.wait()
        while await self._arena.unready(self._arena.nodes) and not self._stopped.is_set():
            await self._pass(_POLL_S)
        return not self._stopped.is_set()

    async def _carry_out(self, fault: Fault) -> None:
        band = Band(str(fault), fault.kind, fault.nodes[0], self._now_s())
        self.bands.append(band)
        if fault.kind in PROCESSES:
            self._busy.update(dict.fromkeys(fault.nodes))
        self._note(f"{fault} begins")
        try:
            await self._faults[fault.kind](fault)
        except ClusterError as error:
            self.failures.append(error)
        finally:
            band.ends_s = self._now_s()
            self._note(f"{fault} is undone")
            if fault.kind in PROCESSES:
                for node in fault.nodes:
                    del self._busy[node]

    def _note(self, what: str) -> None:
        self.notes.append((self._now_s(), what))

    # Processes ----------------------------------------------------------------------------------

    def _disturb(self, nodes: Sequence[str]) -> list[Disturbed]:
        struck = [Disturbed(node, self._now_s()) for node in nodes]
        self.disturbed += struck
        return struck

    async def _come_up(self, struck: Sequence[Disturbed]) -> None:
        """Start nodes and wait until they can be asked."""
        for one in struck:
            self._arena.start(one.node)
        for one in struck:
            await self._arena.answers(one.node, READY_WITHIN_S)
            one.ends_s = self._now_s()

    async def _kill(self, fault: Fault) -> None:
        struck = self._disturb(fault.nodes)
        await asyncio.gather(*(self._arena.kill(node) for node in fault.nodes))
        await self._pass(fault.lasts_s)
        await self._come_up(struck)

    async def _restart(self, fault: Fault) -> None:
        struck = self._disturb(fault.nodes)
        hung = await self._arena.stop(*fault.nodes)
        if hung:
            raise ClusterError(f"{', '.join(hung)} did not stop when asked to")
        await self._come_up(struck)

    async def _pause(self, fault: Fault) -> None:
        struck = self._disturb(fault.nodes)
        for node in fault.nodes:
            self._arena.signal(node, signal.SIGSTOP)
        await self._pass(fault.lasts_s)
        for node in fault.nodes:
            self._arena.signal(node, signal.SIGCONT)
        await self._come_up(struck)

    # Links --------------------------------------------------------------------------------------

    async def _cut(self, fault: Fault) -> None:
        await self._trouble(self._links(fault), _HOLDS, fault.lasts_s)

    async def _slow(self, fault: Fault) -> None:
        await self._trouble(self._links(fault), _SLOW, fault.lasts_s)

    async def _corrupt(self, fault: Fault) -> None:
        await self._trouble(self._links(fault), _CORRUPT, fault.lasts_s)

    async def _flap(self, fault: Fault) -> None:
        until_s = self._now_s() + fault.lasts_s
        while self._now_s() < until_s and not self._stopped.is_set():
            await self._trouble(self._links(fault), _HOLDS, _FLAP_S)
            await self._pass(_FLAP_S)

    async def _reset(self, fault: Fault) -> None:
        one, other = fault.nodes
        until_s = self._now_s() + fault.lasts_s
        while self._now_s() < until_s and not self._stopped.is_set():
            self._arena.network.reset(one, other)
            await self._pass(_RESET_S)

    def _links(self, fault: Fault) -> list[Link]:
        """Between the nodes of a fault and the others, both ways; of a one-way cut its one."""
        if fault.kind is Kind.ONE_WAY:
            source, target = fault.nodes
            return [self._arena.network.links[source, target]]
        return self._arena.network.around(fault.nodes)

    async def _trouble(self, links: Sequence[Link], trouble: Trouble, lasts_s: float) -> None:
        for link in links:
            link.add(trouble)
        try:
            await self._pass(lasts_s)
        finally:
            for link in links:
                link.remove(trouble)

    # Disks --------------------------------------------------------------------------------------

    async def _wipe(self, fault: Fault) -> None:
        (node,) = fault.nodes
        struck = self._disturb(fault.nodes)
        await self._arena.kill(node)
        await self._destroys(node)
        await asyncio.to_thread(self._arena.wipe, node)
        self._open = True
        await self._come_up(struck)

    async def _damage(self, fault: Fault) -> None:
        (node,) = fault.nodes
        struck = self._disturb(fault.nodes)
        await self._arena.kill(node)
        await self._destroys(node)
        path = self._chance.choice(self._arena.database_files(node))
        await asyncio.to_thread(self._flip, path)
        self._open = True
        await self._come_up(struck)

    async def _stay_away(self, fault: Fault) -> None:
        (node,) = fault.nodes
        struck = self._disturb(fault.nodes)
        await self._arena.kill(node)
        self._open = True
        await self._pass(fault.lasts_s)
        self._open = False
        others = [other for other in self._arena.nodes if other != node]
        await self._idle.wait()
        await self._arena.ready(others, READY_WITHIN_S)
        await self._destroys(node)
        self._open = True
        await self._come_up(struck)

    async def _fill(self, fault: Fault) -> None:
        (node,) = fault.nodes
        struck = self._disturb(fault.nodes)
        await asyncio.to_thread(self._arena.fill, node)
        self._open = True
        await self._pass(fault.lasts_s)
        if not self._arena.runs(node):
            self._note(f"{node} has ended: no room is left at all")
        self._arena.empty(node)
        await self._come_up(struck)

    async def _destroys(self, node: str) -> None:
        disk = await asyncio.to_thread(read_disk, self._arena.local.var.node_directory(node))
        before = len(self._destroyed.lost)
        await self._destroyed.destroys(node, disk, self._replicas, self._now_s())
        lost = len(self._destroyed.lost) - before
        self._note(
            f"{node} is about to lose {len(disk.records)} records; "
            f"of {lost} documents nobody else has all"
        )

    def _flip(self, path: Path) -> None:
        content = bytearray(path.read_bytes())
        place = self._chance.randrange(len(content)) if content else None
        if place is None:
            self._note(f"{path.name} is empty: nothing to damage")
            return
        content[place] ^= 1 << self._chance.randrange(8)
        path.write_bytes(content)
        self._note(f"bit flipped in {path.parent.name}/{path.name} at {place} of {len(content)}")
