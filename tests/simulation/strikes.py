"""Random faults that destroy copies: one machine at a time, until it has been rebuilt.

Rules
-----
1. The next strike waits until the last one is healed: no node is fenced, no record damaged. So of N
   copies at most one is destroyed at a time; what no other disk had is known (``atlas``).
2. A disk is changed only while its machine is down, and after what was under way there has ended.
3. A strike that the plan spares does nothing, but draws and waits as if it did (``plan``).
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from random import Random
from typing import Final

from kvnode.storage.identity import Identity
from kvnode.storage.keys import IDENTITY_KEY, RECORD_PREFIX, document_id_of, record_key
from tests.simulation.clients import PATIENCE_S, TIMEOUT_S
from tests.simulation.cluster import SimCluster
from tests.simulation.convergence import fences
from tests.simulation.plan import Line
from tests.simulation.processes import ProcessState

_QUIET_S: Final = (0.1, 4.0)
_SETTLED_S: Final = TIMEOUT_S + PATIENCE_S
_FULL_S: Final = (1.0, 5.0)
#: A start has ended by then, one way or the other.
_SWAPPED_S: Final = 1.0
#: Strikes end before that, healed or not.
_HEALED_S: Final = 1000.0
#: Disks that are copied before all else.
_COPIED: Final = 2
#: Beyond what makes a machine absent.
_AWAY_S: Final = (1.0, 8.0)


class Strikes:
    """One line of strikes, one after the other."""

    def __init__(self, cluster: SimCluster, chance: Random, line: Line) -> None:
        self._cluster = cluster
        self._chance = chance
        self._line = line
        #: Whether the present strike is to do what it is called.
        self._happens = True
        self._stopped = False
        #: Disks as they were while their machine was down.
        self._copies: dict[str, dict[bytes, bytes]] = {}
        self._strikes: list[Callable[[str], Awaitable[None]]] = [
            self._wipe,
            self._back_up,
            self._put_back,
            self._stay_away,
            self._damage,
            self._fill,
            self._swap,
        ]

    async def run(self) -> None:
        """Return when ``stop`` was called and the last strike was healed."""
        while not self._stopped:
            await asyncio.sleep(self._chance.uniform(*_QUIET_S))
            name = self._chance.choice(list(self._cluster.nodes))
            await self._carry_out(self._chance.choice(self._strikes), name)

    async def _carry_out(self, strike: Callable[[str], Awaitable[None]], name: str) -> None:
        self._happens = self._line.admits(f"{strike.__name__} {name}", self._cluster.loop.time())
        await strike(name)
        await self._cluster.until(
            partial(self._over, name), _HEALED_S, f"{name} is not sure of itself"
        )

    def stop(self) -> None:
        """Strike no more."""
        self._stopped = True

    async def _wipe(self, name: str) -> None:
        if await self._taken_down(name):
            self._empty(name)
            self._bring_up(name)

    def _empty(self, name: str) -> None:
        settings = self._cluster.settings
        self._cluster.note(f"{name} is wiped")
        identity = Identity(settings.cluster_id, name, settings.replication.partitions)
        self._cluster.replace_disk(name, {IDENTITY_KEY: identity.encode()})

    async def _back_up(self, name: str) -> None:
        if not await self._taken_down(name):
            return
        self._cluster.note(f"{name} is copied")
        self._copies[name] = dict(self._cluster.nodes[name].disk.values)
        self._bring_up(name)

    async def _put_back(self, name: str) -> None:
        if name not in self._copies:
            await self._back_up(name)
            return
        if not await self._taken_down(name):
            return
        self._cluster.note(f"{name} is put back to its copy")
        self._cluster.replace_disk(name, self._copies[name])
        self._bring_up(name)

    async def _stay_away(self, name: str) -> None:
        lifecycle = self._cluster.settings.lifecycle
        kept_s = lifecycle.tombstone_retention_s + 2 * lifecycle.clock_skew_max_s
        paused = self._chance.random() < 0.3
        if paused and self._cluster.nodes[name].process.running:
            if self._happens:
                self._cluster.pause(name)
        else:
            await self._taken_down(name)
        await asyncio.sleep(kept_s + self._chance.uniform(*_AWAY_S))
        if not self._happens:
            return
        if self._cluster.nodes[name].process.state is ProcessState.PAUSED:
            self._cluster.resume(name)
        self._bring_up(name)

    async def _damage(self, name: str) -> None:
        """Flip a bit of a record that is not just being written, and that another disk has."""
        machine, watch = self._cluster.nodes[name], self._cluster.watch
        before_s = self._cluster.loop.time() - _SETTLED_S
        settled = [
            document_id
            for key in machine.disk.values
            if key.startswith(RECORD_PREFIX)
            and watch.commits[document_id := document_id_of(key)][-1].at_s < before_s
        ]
        if settled:
            document_id = self._chance.choice(settled)
            if self._happens and watch.atlas.damages(name, document_id):
                self._cluster.note(f"{name} has {document_id.hex()} damaged")
                size_bytes = len(machine.disk.values[record_key(document_id)])
                machine.damage(document_id, self._chance.randrange(size_bytes))

    async def _fill(self, name: str) -> None:
        space = self._cluster.nodes[name].space
        if self._happens:
            self._cluster.note(f"the disk of {name} fills up")
            space.low = True
        await asyncio.sleep(self._chance.uniform(*_FULL_S))
        if not self._happens:
            return
        space.low = False
        self._cluster.note(f"the disk of {name} has room")

    async def _swap(self, name: str) -> None:
        """Two machines are started with each other's disk, which they must refuse."""
        nodes = self._cluster.nodes
        other = self._chance.choice([one for one in nodes if one != name])
        await self._taken_down(name)
        if not await self._taken_down(other):
            await asyncio.sleep(_SWAPPED_S)
            return
        self._cluster.note(f"the disks of {name} and {other} are swapped")
        for one, disk in ((name, nodes[other].disk), (other, nodes[name].disk)):
            nodes[one].mounted = disk
            self._bring_up(one)
            self._cluster.in_repair[one] = None
        await asyncio.sleep(_SWAPPED_S)
        for one in (name, other):
            assert nodes[one].process.dead, f"{one} has started with a disk that is not its own"
            nodes[one].mounted = nodes[one].disk
            self._bring_up(one)

    def _over(self, name: str) -> bool:
        return self._stopped or self._sure(name)

    def _sure(self, name: str) -> bool:
        """Whether a machine runs, all its peers know its boot, and nothing is fenced anywhere."""
        machine = self._cluster.nodes[name]
        return (
            all(
                one.process.running and one.documents is not None
                for one in self._cluster.nodes.values()
            )
            and not machine.serving.checkin.unanswered
            and all(machine.serving.transport.connected(peer) for peer in machine.serving.peers)
            and not fences(self._cluster)
        )

    async def _taken_down(self, name: str) -> bool:
        """Take a machine down, if the strike happens."""
        if self._happens:
            self._cluster.in_repair[name] = None
            if not self._cluster.nodes[name].process.dead:
                self._cluster.kill(name)
        await asyncio.sleep(_SETTLED_S)
        return self._happens

    def _bring_up(self, name: str) -> None:
        self._cluster.in_repair.pop(name, None)
        if self._cluster.nodes[name].process.dead:
            self._cluster.note(f"{name} starts")
            self._cluster.nodes[name].start()


class OldDisks(Strikes):
    """Strikes after which a node knows less than it did."""

    def __init__(self, cluster: SimCluster, chance: Random, line: Line) -> None:
        super().__init__(cluster, chance, line)
        self._strikes = [self._wipe, self._put_back, self._put_back, self._back_up, self._stay_away]

    async def run(self) -> None:
        """As always, once there are copies of some disks from before all that is to come."""
        for name in self._chance.sample(list(self._cluster.nodes), _COPIED):
            self._happens = self._line.admits(f"_back_up {name}", self._cluster.loop.time())
            await self._back_up(name)
        await super().run()
