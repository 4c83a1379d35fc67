"""Canonical operations, and the points at which they are cut: after each step, on each node.

Rules
-----
1. An operation is a scenario that does what it is about with ``Crash.during``. It is run once
   undisturbed, and the loop's steps of that part are counted; then once more for every step and
   every way of striking. Equal seeds take equal steps, so each run is the same up to its strike.
2. A machine that loses power comes back when the others have noticed, a process that is killed at
   once: so the work is gone on with by those that are left, or by the new process.
3. Then the cluster repairs itself without a request; every document is read, or has left every disk
   if it has to; every machine works; and the history is judged, as any other (``run.simulate``).
4. No disk is lost by a strike, so no node may come to doubt its own by one.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from typing import Any, Final, NamedTuple

from cluster.ids import partition_of
from cluster.ringchange import Phase
from cluster.settings import AntiEntropySettings, ClusterSettings, HintSettings, LifecycleSettings
from kvnode.agreement import Agreement
from kvnode.errors import KeyReused, StoreError
from kvnode.rpc.connection import SILENCE_S
from kvnode.services.layouts import Stage
from kvnode.storage.identity import Identity
from kvnode.storage.keys import IDENTITY_KEY
from scripts.checker.history import NoAnswer
from tests.simulation.clients import CLUSTER_ID
from tests.simulation.cluster import SimCluster, settings_of
from tests.simulation.convergence import converge, ended, fences, level, settle
from tests.simulation.histories import works
from tests.simulation.run import simulate
from tests.simulation.test_lifecycle import purged
from tests.simulation.test_ringchange import begin, changed, phases

#: What an operation leaves to be done behind its answer is struck, too.
_BEHIND_S: Final = 0.02
#: After a strike, until it is clear what becomes of the operation: clients have given up by then.
_PATIENCE_S: Final = 3.0
_WITHIN_S: Final = 30.0
_CHANGED_S: Final = 60.0
_KEY: Final = "key"
_BODIES: Final = ("the first body", "the second body")


class Strike(NamedTuple):
    """Which machines are struck at once, and how: they lose power, or their process is killed."""

    how: str
    names: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.how} {' '.join(self.names)}"


class Crash:
    """One run of an operation.

    Args:
        strike: What befalls it after the loop's step ``step``; None: nothing.
    """

    def __init__(self, cluster: SimCluster, strike: Strike | None, step: int) -> None:
        self._cluster = cluster
        self._strike = strike
        self._step = step
        #: The steps of the operation, if nothing befell it.
        self.steps = range(0)
        #: Whether the operation was through before anybody gave up.
        self.through = False

    async def during(self, work: Coroutine[Any, Any, object]) -> None:
        """Do what the operation is about, strike meanwhile, and start again what was struck."""
        loop, over = self._cluster.loop, asyncio.Event()
        first = loop.steps + 1

        def end() -> None:
            self.steps = range(first, loop.steps + 1)
            over.set()

        task = loop.create_task(work)
        task.add_done_callback(lambda _: loop.call_later(_BEHIND_S, end))
        if self._strike is not None:
            loop.at_step(self._step, partial(self._hit, self._strike, over))
        await over.wait()
        if self._strike is not None and self._strike.how == "kill":
            self._start(self._strike)
        await asyncio.wait([task], timeout=_PATIENCE_S)
        self.through = await _outcome(task)
        if self._strike is not None and self._strike.how == "power":
            await self._cluster.noticed(*self._strike.names)
            self._start(self._strike)
        await self._cluster.ready()

    def _hit(self, strike: Strike, over: asyncio.Event) -> None:
        (self._cluster.kill if strike.how == "kill" else self._cluster.power_off)(*strike.names)
        over.set()

    def _start(self, strike: Strike) -> None:
        for name in strike.names:
            self._cluster.note(f"{name} starts")
            self._cluster.nodes[name].start()


async def _outcome(task: "asyncio.Task[object]") -> bool:
    """Whether the work is done; it is given up if it is not, and what no client may meet raised."""
    if task.cancel():
        await asyncio.wait([task])
        return False
    error = task.exception()
    if error is not None and not isinstance(error, StoreError | NoAnswer):
        raise error
    return error is None


# The operations --------------------------------------------------------------------------------


async def create(cluster: SimCluster, crash: Crash, write: int) -> None:
    """A document, through one of its owners."""
    await crash.during(cluster.create("a1", "created", write=write))


async def keyed_create(cluster: SimCluster, crash: Crash) -> None:
    """In the strong mode: an election, then the write; whoever repeats it meets the same."""
    await crash.during(cluster.create("a1", _BODIES[0], key=_KEY, write=2))
    await cluster.create("a2", _BODIES[0], key=_KEY, write=2)
    await _refused(cluster, "a3", _BODIES[1])


async def race_for_a_key(cluster: SimCluster, crash: Crash) -> None:
    """Two bodies under one key; at the latest when both are repeated, one has won."""

    async def attempt(via: str, body: str) -> bool:
        try:
            await cluster.create(via, body, key=_KEY, write=2)
        except (StoreError, NoAnswer):
            return False
        return True

    async def race() -> None:
        await asyncio.gather(attempt("a1", _BODIES[0]), attempt("a2", _BODIES[1]))

    await crash.during(race())
    won = [await attempt("a1", _BODIES[0]), await attempt("a2", _BODIES[1])]
    assert sorted(won) == [False, True]
    await _refused(cluster, "a3", _BODIES[won.index(False)])


async def _refused(cluster: SimCluster, via: str, body: str) -> None:
    try:
        await cluster.create(via, body, key=_KEY, write=2)
    except KeyReused:
        return
    raise AssertionError(f"{body!r} was created under a key that has another one")


async def delete(cluster: SimCluster, crash: Crash, write: int) -> None:
    """A document that all owners have."""
    created = await cluster.create("a1", "to be deleted", write=3)
    await crash.during(cluster.delete("a1", created.document_id, write=write))


async def hint_delivery(cluster: SimCluster, crash: Crash) -> None:
    """Hints at an owner or, where there is one, at a stand-in: a create and a delete."""
    holder, _, target = owners = cluster.ring.owners[0]
    keys = cluster.keys_of(*owners)
    doomed = await cluster.create(holder, "to be deleted", key=next(keys), write=3)
    cluster.kill(target)
    await cluster.noticed(target)
    await cluster.create(holder, "missed", key=next(keys), write=2)
    await cluster.delete(holder, doomed.document_id, write=2)
    await cluster.restart(target)
    await crash.during(settle(cluster))


async def restart(cluster: SimCluster, crash: Crash) -> None:
    """A process starts anew, until all have confirmed its boot; it dies again meanwhile."""
    await cluster.create("a1", "known to all", write=3)
    cluster.kill("a3")
    await cluster.noticed("a3")
    await cluster.create("a1", "missed", write=2)
    cluster.nodes["a3"].start()
    await crash.during(cluster.ready())


async def exchange(cluster: SimCluster, crash: Crash) -> None:
    """Anti-entropy in both directions: creates and deletes for which nobody has kept hints."""
    one, _, other = owners = cluster.ring.owners[0]
    keys = cluster.keys_of(*owners)
    known = [await cluster.create(one, f"known {n}", key=next(keys), write=3) for n in range(2)]
    cluster.loop.network.partition([other], [name for name in cluster.nodes if name != other])
    for via, before in zip((one, other), known, strict=True):
        await cluster.create(via, f"only known to {via}", key=next(keys), write=1)
        await cluster.delete(via, before.document_id, write=1)
    await asyncio.sleep(2 * SILENCE_S)  # what is cut off is noticed to be
    cluster.loop.network.heal_all()
    connected = cluster.nodes[one].serving.transport.connected
    await cluster.until(lambda: connected(other), _WITHIN_S, "not connected")
    await crash.during(settle(cluster))


async def purge(cluster: SimCluster, crash: Crash) -> None:
    """All owners promise, the floor rises, and what was deleted leaves every disk."""
    doomed = await cluster.create("a1", "to be purged", write=3)
    await cluster.create("a1", "to be kept", write=3)
    await cluster.delete("a1", doomed.document_id, write=3)
    leader = cluster.nodes[cluster.owners(doomed.document_id)[0]].serving
    partition = partition_of(doomed.document_id, cluster.ring.partitions)
    agreement = Agreement(leader.replica, leader.rings)
    await cluster.until(lambda: agreement.propose(partition) is not None, _WITHIN_S, "not due")
    await crash.during(purged(cluster, doomed.document_id))


async def rebuild_of_an_empty_disk(cluster: SimCluster, crash: Crash) -> None:
    """A node's disk was wiped; it starts, and takes from the others what it had."""
    ids = [(await cluster.create("a1", f"text {n}", write=3)).document_id for n in range(6)]
    await cluster.delete("a2", ids[0], write=3)
    cluster.kill("a3")
    identity = Identity(CLUSTER_ID, "a3", cluster.ring.partitions)
    cluster.replace_disk("a3", {IDENTITY_KEY: identity.encode()})
    cluster.nodes["a3"].start()
    await crash.during(_rebuilt(cluster))


async def rebuild_of_an_old_disk(cluster: SimCluster, crash: Crash) -> None:
    """A node's disk is an old copy, with a document that was purged since."""
    doomed = await cluster.create("a1", "to be purged", write=3)
    cluster.kill("a3")
    copy = dict(cluster.nodes["a3"].disk.values)
    await cluster.restart("a3")
    await cluster.create("a2", "written after the copy", write=3)
    await cluster.delete("a1", doomed.document_id, write=3)
    await purged(cluster, doomed.document_id)
    cluster.kill("a3")
    cluster.replace_disk("a3", copy)
    cluster.nodes["a3"].start()
    await crash.during(_rebuilt(cluster))


async def _rebuilt(cluster: SimCluster) -> None:
    machine = cluster.nodes["a3"]
    await cluster.until(
        lambda: machine.documents is not None and not fences(cluster),
        _WITHIN_S,
        lambda: fences(cluster),
    )


async def join(cluster: SimCluster, crash: Crash, phase: Phase) -> None:
    """A node joins, and a phase of that begins: from the first that is ready, until all know."""
    await _texts(cluster)
    begin(cluster, add=("a4",))
    await _changes(cluster, crash, phase)


async def leave(cluster: SimCluster, crash: Crash, phase: Phase) -> None:
    """A node leaves, and a phase of that begins: from the first that is ready, until all know."""
    await _texts(cluster)
    begin(cluster, remove=("a2",))
    await _changes(cluster, crash, phase)


async def _texts(cluster: SimCluster) -> None:
    for number in range(8):
        await cluster.create("a1", f"text {number}", write=3)


async def _changes(cluster: SimCluster, crash: Crash, phase: Phase) -> None:
    epoch = 1 + (phase or len(Phase))
    layouts = [one.serving.layouts for one in cluster.nodes.values()]
    await cluster.until(
        lambda: any(
            one.own.epoch == epoch - 1 and one._stages.get(one._node) is Stage.DONE
            for one in layouts
        ),
        _CHANGED_S,
        lambda: phases(cluster),
    )
    await crash.during(
        cluster.until(
            lambda: all(one.own.epoch >= epoch for one in layouts),
            _CHANGED_S,
            lambda: phases(cluster),
        )
    )
    await changed(cluster)


# The table -------------------------------------------------------------------------------------


def _settings(nodes: int = 3, hints: HintSettings | None = None) -> ClusterSettings:
    """A cluster that compares all the time."""
    often = AntiEntropySettings(interval_s=1.0)
    return settings_of(nodes, partitions=4, hints=hints, antientropy=often)


def _ending() -> ClusterSettings:
    """The same, and its months last seconds."""
    return settings_of(
        partitions=4,
        antientropy=AntiEntropySettings(interval_s=1.0),
        lifecycle=LifecycleSettings(
            tombstone_retention_s=3.0, purge_bucket_s=1.0, sweep_interval_s=0.2
        ),
    )


def _spare() -> ClusterSettings:
    """The same, with a node that is no member yet."""
    often = AntiEntropySettings(interval_s=1.0)
    return settings_of(spares=1, partitions=4, antientropy=often)


class Operation(NamedTuple):
    """What is cut."""

    scenario: Callable[[SimCluster, Crash], Coroutine[Any, Any, None]]
    settings: ClusterSettings
    #: CI cuts it at every so manieth step: about as many points of each, however long it takes.
    stride: int
    #: Whose disk is doubted, for a good reason.
    doubted: tuple[str, ...] = ()
    #: Whether what is deleted leaves the disks.
    ends: bool = False


OPERATIONS: Final = {
    **{f"create W={w}": Operation(partial(create, write=w), _settings(), 5) for w in (1, 2, 3)},
    "keyed create": Operation(keyed_create, _settings(), 9),
    "race for a key": Operation(race_for_a_key, _settings(), 13),
    **{f"delete W={w}": Operation(partial(delete, write=w), _settings(), 5) for w in (1, 2, 3)},
    "hints of an owner": Operation(hint_delivery, _settings(), 53),
    "hints of a stand-in": Operation(hint_delivery, _settings(4), 23),
    "restart": Operation(restart, _settings(), 23),
    "exchange": Operation(exchange, _settings(hints=HintSettings(target_bytes_max=0)), 101),
    "purge": Operation(purge, _ending(), 47, ends=True),
    "rebuild of an empty disk": Operation(rebuild_of_an_empty_disk, _settings(), 59, ("a3",)),
    "rebuild of an old disk": Operation(rebuild_of_an_old_disk, _ending(), 101, ("a3",), ends=True),
    "join, SWITCH": Operation(partial(join, phase=Phase.SWITCH), _spare(), 201),
    "leave, RETIRE": Operation(partial(leave, phase=Phase.RETIRE), _settings(4), 301),
}


class Point(NamedTuple):
    """One of the ways in which an operation is cut short: ``purge: power a2: 4711``."""

    operation: str
    strike: Strike
    step: int

    def __str__(self) -> str:
        return f"{self.operation}: {self.strike}: {self.step}"


def point_of(text: str) -> Point:
    """The inverse of ``str``. Raises ValueError."""
    operation, _, rest = text.partition(": ")
    strike, _, step = rest.partition(": ")
    if operation not in OPERATIONS or not step.isdecimal():
        raise ValueError(f"{text!r} is no point, as 'purge: power a2: 4711' is one")
    how, *names = strike.split()
    return Point(operation, Strike(how, tuple(names)), int(step))


def steps_of(operation: str) -> range:
    """The steps of an operation that nothing befalls."""
    return _play(operation).steps


def strikes_on(operation: str) -> list[Strike]:
    """All nodes at once, and each by itself."""
    names = [node.id for node in OPERATIONS[operation].settings.node]
    alone = [Strike(how, (name,)) for how in ("power", "kill") for name in names]
    return [Strike("power", tuple(names)), *alone]


def points_of(operation: str, stride: int = 1) -> Iterator[Point]:
    """Every point, or every so manieth step; then each strike begins at another one."""
    steps = steps_of(operation)
    for number, strike in enumerate(strikes_on(operation)):
        for step in steps[number * stride // len(strikes_on(operation)) :: stride]:
            yield Point(operation, strike, step)


def cut(point: Point) -> bool:
    """Cut an operation short and judge what becomes of it; whether it was through all the same."""
    try:
        return _play(*point).through
    except BaseException as error:
        error.add_note(f"replay: python -m scripts.simulate.crash_points --replay '{point}'")
        raise


def _play(name: str, strike: Strike | None = None, step: int = 0) -> Crash:
    operation = OPERATIONS[name]
    crashes: list[Crash] = []

    async def scenario(cluster: SimCluster) -> None:
        crashes.append(Crash(cluster, strike, step))
        await operation.scenario(cluster, crashes[0])
        await level(cluster)
        await (ended if operation.ends else converge)(cluster)
        await works(cluster)
        fenced = [one.name for one in cluster.nodes.values() if one.events("node.fenced")]
        assert fenced == [*operation.doubted], f"I22: the disks of {fenced} are doubted"

    simulate(scenario, 0, operation.settings)
    return crashes[0]
