"""One run: up, load and faults, heal, read everything back, down, judge.

Rules
-----
1. However a run ends, nothing that it started still runs.
2. What a client or the judge finds wrong is kept, never raised: a run goes on to its report.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from math import inf
from random import Random
from typing import Final

import msgspec

from cluster.ids import DocumentId, partition_of
from cluster.secret import read_secret
from kvnode.errors import CannotStart, StoreError
from kvnode.record import Record
from scripts.chaos.arena import RETENTION_S, SKEW_S, Arena
from scripts.chaos.clients import Clients
from scripts.chaos.conductor import Band, Conductor, Disturbed
from scripts.chaos.disks import DiskContents, read_disk
from scripts.chaos.evidence import Destroyed, Witness
from scripts.chaos.habits import Habits
from scripts.chaos.healing import Look, heal
from scripts.chaos.plan import Fault, Kind
from scripts.chaos.replicas import Replicas
from scripts.chaos.setbacks import setbacks
from scripts.chaos.verdict import Verdict, is_definite, pronounce
from scripts.checker.checks import judge, judge_converged
from scripts.checker.evidence import Bounds, Violation
from scripts.checker.history import NoAnswer, Operation

#: All nodes read the same wall clock; it is corrected now and then.
_CLOCK_ERROR_S: Final = 0.1
#: An answer may be late by that much on a machine that is busy with all nodes and clients at once.
_LATE_S: Final = 0.8
#: How often this process looks whether it runs itself, and from when on it did not.
_BEAT_S: Final = 0.1
_STALL_S: Final = 0.4
_READERS: Final = 24
_TRIES: Final = 5
_AGAIN_S: Final = 0.5

Tell = Callable[[str], None]


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What a run is to be."""

    seed: int
    #: In each region.
    nodes: int
    regions: int = 1
    duration_s: float
    plan: Sequence[Fault]
    clients: int = 24
    #: Requests a second, of all clients together, at most.
    rate: float = 120.0

    @property
    def size(self) -> str:
        """Of the cluster, in words."""
        return f"{self.regions} x {self.nodes} nodes" if self.regions > 1 else f"{self.nodes} nodes"


class Outcome(msgspec.Struct, kw_only=True):
    """All that is known of a run when it is over."""

    options: Options
    verdict: Verdict
    violations: list[Violation]
    history: list[Operation]
    bands: list[Band]
    notes: list[tuple[float, str]]
    left_out: list[str]
    looks: list[Look]
    #: When clients stopped, and when all was read back.
    load_ended_s: float
    ended_s: float


class Run:
    """One run in an arena that is not up yet.

    Args:
        tell: Takes each line of what is told meanwhile.
    """

    def __init__(self, options: Options, arena: Arena, tell: Tell) -> None:
        self._options = options
        self._arena = arena
        self._tell = tell
        self._stopping = asyncio.Event()
        self._violations: list[Violation] = []
        self._excused = 0

    def stop(self) -> None:
        """End clients and faults now; the rest goes on."""
        self._stopping.set()

    async def play(self) -> Outcome:
        """The whole of it. Raises ClusterError if the cluster does not even come up."""
        options, arena = self._options, self._arena
        if any(fault.kind is Kind.FILL for fault in options.plan):
            why = arena.mount_small_disk(arena.nodes[-1])
            if why is not None:
                self._tell(f"no disk will be filled: {why}")
        await arena.up()
        self._tell(f"{len(arena.nodes)} nodes are up")
        secret = read_secret(arena.local.var.secret_file)
        began_s = time.monotonic()
        start_ms = time.time_ns() // 1_000_000
        clients = Clients(arena.http_addresses, arena.settings.cluster_id, began_s)
        replicas = Replicas(arena.settings, secret, arena.rings)
        destroyed = Destroyed()
        conductor = Conductor(
            arena, options.plan, replicas, destroyed, now_s=clients.now_s, seed=options.seed
        )
        watching = asyncio.create_task(self._watch_itself(clients, conductor))
        try:
            await self._load(clients, conductor)
            load_ended_s = clients.now_s()
            self._tell("clients have stopped, every fault is undone")
            arena.network.heal()
            documents = _known(clients.history)
            looks = await heal(arena, replicas, documents, clients.now_s)
            self._healed(looks[-1], load_ended_s)
            await self._read_back(clients, documents)
        finally:
            watching.cancel()
            await replicas.close()
            clients.hang_up()
        ended_s = clients.now_s()
        disks = await self._take_down()
        self._set_back(clients.history, conductor, destroyed, start_ms)
        lifecycle = arena.settings.lifecycle
        bounds = Bounds(
            copies=arena.settings.replication.copies,
            clock_error_s=_CLOCK_ERROR_S,
            late_s=_LATE_S,
            start_ms=start_ms,
            life_s=max(lifecycle.tombstone_retention_s, lifecycle.clock_skew_max_s),
            region_of={node.id: node.region for node in arena.settings.node},
        )
        witness = Witness(
            clients.history,
            bounds=bounds,
            atlas=destroyed,
            expires_ms=clients.expires_ms,
            disks=disks,
            healed_s=inf if looks[-1].reasons else looks[-1].at_s,
            ended_s=clients.now_s(),
            retention_s=RETENTION_S - SKEW_S,
        )
        self._judge(clients, conductor, witness, disks, healed=not looks[-1].reasons)
        return Outcome(
            options=options,
            verdict=pronounce(clients.history, self._violations, self._excused),
            violations=self._violations,
            history=clients.history,
            bands=conductor.bands,
            notes=conductor.notes,
            left_out=conductor.left_out,
            looks=looks,
            load_ended_s=load_ended_s,
            ended_s=ended_s,
        )

    # Phases -------------------------------------------------------------------------------------

    async def _load(self, clients: Clients, conductor: Conductor) -> None:
        options = self._options
        rate = options.rate / options.clients
        habits = [
            Habits(clients, Random(f"{options.seed}/client {number}"), f"c{number}", rate)
            for number in range(options.clients)
        ]
        working = [asyncio.create_task(one.run()) for one in habits]
        striking = asyncio.create_task(conductor.run())
        teller = asyncio.create_task(self._progress(clients, conductor))
        try:
            async with asyncio.timeout(options.duration_s):
                await self._stopping.wait()
        except TimeoutError:
            pass
        conductor.stop()
        for one in habits:
            one.stop()
        results = await asyncio.gather(striking, *working, return_exceptions=True)
        teller.cancel()
        for error in results:
            if isinstance(error, BaseException):
                raise error
        self._violations += [Violation("I16", str(error)) for error in conductor.failures]

    async def _progress(self, clients: Clients, conductor: Conductor) -> None:
        """One line a second."""
        seen = 0
        while True:
            await asyncio.sleep(1.0)
            recent = clients.history[seen:]
            seen = len(clients.history)
            answered = sum(map(is_definite, recent))
            self._tell(
                f"{clients.now_s():6.1f} s  {len(recent):4d} requests, {answered:4d} "
                f"answered  {', '.join(conductor.under_way)}"
            )

    async def _watch_itself(self, clients: Clients, conductor: Conductor) -> None:
        """Note when clients and proxies stood still: who does not run can't say who was late."""
        while True:
            before_s = clients.now_s()
            await asyncio.sleep(_BEAT_S)
            late_s = clients.now_s() - before_s - _BEAT_S
            if late_s > _STALL_S:
                conductor.stood_still(before_s, late_s)

    def _healed(self, last: Look, load_ended_s: float) -> None:
        took_s = last.at_s - load_ended_s
        if last.reasons:
            what = f"not healed after {took_s:.0f} s: {'; '.join(last.reasons)}"
            self._violations.append(Violation("I16", what))
            self._tell(what)
        else:
            self._tell(f"healed after {took_s:.1f} s")

    async def _read_back(self, clients: Clients, documents: Sequence[DocumentId]) -> None:
        """Read every document through every node."""
        left = [(node, one) for one in documents for node in self._arena.nodes]
        self._tell(f"reading {len(documents):,} documents back through every node")

        async def reader() -> None:
            while left:
                node, document_id = left.pop()
                await self._read_one(clients, node, document_id)

        await asyncio.gather(*(reader() for _ in range(_READERS)))

    async def _read_one(self, clients: Clients, node: str, document_id: DocumentId) -> None:
        error: Exception | None = None
        for _ in range(_TRIES):
            try:
                await clients.read(node, document_id)
            except StoreError as refused:
                if not refused.retryable:
                    return
                error = refused
            except NoAnswer as silent:
                error = silent
            else:
                return
            await asyncio.sleep(_AGAIN_S)
        what = f"{node} does not answer a read although every fault is over: {error!r}"
        self._violations.append(Violation("I16", what, document_id))

    async def _take_down(self) -> dict[str, DiskContents]:
        """Stop every node and read its disk."""
        arena = self._arena
        hung = await arena.stop(*arena.nodes)
        self._violations += [Violation("I16", f"{node} did not stop when asked") for node in hung]
        disks = {}
        for node in arena.nodes:
            try:
                directory = arena.local.var.node_directory(node)
                disks[node] = await asyncio.to_thread(read_disk, directory)
            except CannotStart as error:
                self._violations.append(Violation("I16", f"the disk of {node}: {error}"))
        return disks

    def _set_back(
        self,
        history: Sequence[Operation],
        conductor: Conductor,
        destroyed: Destroyed,
        start_ms: int,
    ) -> None:
        """Count what nodes have lost by themselves."""
        local, rings = self._arena.local, self._arena.rings
        log = {node: local.log(node) for node in self._arena.nodes}
        for one in setbacks(log, conductor.strikes, start_ms):
            conductor.notes.append((one.at_s, one.what))
            conductor.disturbed.append(Disturbed(one.node, one.at_s - _LATE_S, one.until_s))
            struck = [strike.begins_s for strike in conductor.strikes if strike.node == one.node]
            since_s = max((at_s for at_s in struck if at_s < one.at_s), default=0.0)

            def owned(document_id: DocumentId, node: str = one.node) -> bool:
                return node in rings.owners(partition_of(document_id, rings.partitions))

            destroyed.sets_back(owned, since_s, one.at_s, history)

    def _judge(
        self,
        clients: Clients,
        conductor: Conductor,
        witness: Witness,
        disks: dict[str, DiskContents],
        *,
        healed: bool,
    ) -> None:
        for operation in clients.history:
            answered_s = operation.answered_s or inf
            operation.disturbed = operation.disturbed or any(
                one.node == operation.via
                and one.begins_s <= answered_s
                and operation.invoked_s <= one.ends_s
                for one in conductor.disturbed
            )
        self._violations += clients.violations
        self._violations += witness.violations
        rings, now_s = self._arena.rings, clients.now_s()

        def stored(document_id: DocumentId) -> list[Record | None]:
            owners = rings.owners(partition_of(document_id, rings.partitions))
            return [disks[owner].records.get(document_id) for owner in owners]

        def judged() -> list[Violation]:
            found = list(judge(clients.history, witness))
            if healed and len(disks) == len(self._arena.nodes):
                found += judge_converged(clients.history, stored, witness, now_s)
            return found

        violations = judged()
        self._violations += violations
        blamed = {one.document_id for one in violations}
        witness.atlas.lost.clear()
        self._excused = len({one.document_id for one in judged()} - blamed)


def _known(history: Sequence[Operation]) -> list[DocumentId]:
    """Every document that a client has heard of."""
    ids = (operation.document_id for operation in history)
    return list(dict.fromkeys(one for one in ids if one is not None))
