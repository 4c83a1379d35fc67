"""An operator's changes of who owns what: staged, planned, begun, and followed as jobs.

Rules
-----
1. What is staged is in this node's memory, and a restart forgets it. Nothing is refused later than
   it can be: each addition to what is staged must be a change that could begin.
2. A commit names the epoch that its plan was made of: who plans and who commits mean the same.
3. A change that has begun is on every member's disk and goes on to its end: it can't be called off.
   Another change may lead back.
4. A node that is told to rebuild itself stays a member and owns what it owned. So its peers must be
   able to answer for it meanwhile, and to give all of it back.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NoReturn, TypeVar

import msgspec

from cluster.ids import NodeId
from cluster.layout import Rings
from cluster.layoutviews import IN_WORDS, CommitRequest, PlanView, Staged, planned
from cluster.ringchange import Layout
from cluster.settings import NodeSettings, is_loopback
from kvnode.errors import Malformed, Refused
from kvnode.jobs import Job, Jobs, JobState
from kvnode.log import Log
from kvnode.ports import Clock
from kvnode.replica import Replica
from kvnode.services.layouts import Layouts
from kvnode.services.loop import Work
from kvnode.services.moving import Moving
from kvnode.services.rebuild import Rebuild

if TYPE_CHECKING:
    from kvnode.node import Node

INTERVAL_S: Final = 0.25
_Body = TypeVar("_Body")


class Changing:
    """A service (``kvnode.services.loop``), and what operators ask of it.

    Args:
        is_up: Whether requests to a node have a chance now.
        meet: Told of a node that may join, to be connected to it.
    """

    name = "changing"
    interval_s = INTERVAL_S

    def __init__(
        self,
        layouts: Layouts,
        rings: Rings,
        node: NodeId,
        *,
        moving: Moving,
        rebuild: Rebuild,
        replica: Replica,
        is_up: Callable[[NodeId], bool],
        meet: Callable[[NodeSettings], None],
        connected: Callable[[NodeId], bool],
        jobs: Jobs,
        clock: Clock,
        log: Log,
    ) -> None:
        self._layouts = layouts
        self._rings = rings
        self._node = node
        self._moving = moving
        self._rebuild = rebuild
        self._replica = replica
        self._is_up = is_up
        self._meet = meet
        self._connected = connected
        self._jobs = jobs
        self._clock = clock
        self._log = log
        self.staged = Staged()
        #: Replicas that the change under way moves in all, as far as this process has seen it.
        self.moves_total = 0
        self._change: Job | None = None
        self._rebuilding: Job | None = None
        #: What was seen of the change last, and since when it is so.
        self._seen: object = None
        self._seen_s = clock.monotonic_s()

    @property
    def still_s(self) -> float:
        """For how long nothing has gone on: neither here, nor with a member that is down."""
        waits_for = self._layouts.waits_for()
        held_up = self._node in waits_for or not all(map(self._is_up, waits_for))
        return self._clock.monotonic_s() - self._seen_s if waits_for and held_up else 0.0

    # What operators ask -------------------------------------------------------------------------

    def stage(self, body: bytes) -> Staged:
        """Add to what is staged. Raises Malformed, and Refused for what could not begin."""
        more = _decoded(body, Staged)
        for name, weight in more.weights.items():
            if not 0 < weight <= 1000:
                raise Malformed(f"weights.{name} must be above 0 and at most 1000, not {weight:g}")
        for newcomer in more.add:
            self._check(newcomer)
        staged = self.staged.joined(more)
        if staged:
            self._first_of(staged)
        self.staged = staged
        for newcomer in more.add:
            self._meet(newcomer)
        return staged

    def plan(self) -> PlanView:
        """What a commit would do. Raises Refused: nothing is staged, or it can't be done."""
        return planned(self._layouts.own, self._first_of(self._wanted()))

    def commit(self, body: bytes) -> Job:
        """Begin what is staged. Raises Malformed, and Refused: not here, not now, or not so."""
        epoch, own = _decoded(body, CommitRequest).epoch, self._layouts.own
        if epoch != own.epoch:
            raise Refused(
                f"the plan was made of epoch {epoch}, and region {own.region} is at epoch "
                f"{own.epoch}: plan it again"
            )
        wanted = self._wanted()
        for newcomer in wanted.add:
            if not self._connected(newcomer.node_id):
                at = f"{newcomer.host}:{newcomer.rpc_port}"
                raise Refused(f"{newcomer.id} is not reached at {at}: start it first")
        return self._begin(wanted)

    def revert(self) -> Staged:
        """Forget what is staged."""
        self.staged = Staged()
        return self.staged

    def leave(self, name: str) -> Job:
        """Have a member give all away and leave. Raises Refused."""
        if self.staged:
            raise Refused("another change is staged here: commit it, or revert it first")
        return self._begin(Staged(remove=(NodeId(name),)))

    def replace(self, name: str) -> Job:
        """Have this node believe nothing that it holds before its peers have given it back.

        The job that does so already, if there is one. Raises Refused; see rule 4.
        """
        if name != self._node:
            raise Refused(f"this is {self._node}: {name} is to be told on its own listener")
        if self._rebuilding is not None and self._rebuilding.state is JobState.RUNNING:
            return self._rebuilding
        if not self._layouts.own.is_stable:
            raise Refused("owners are being changed: wait until that has ended")
        owned = self._rings.partitions_of(self._node)
        if not owned:
            raise Refused(f"{name} owns nothing that could be rebuilt")
        if short := [one for one in owned if not self._can_be_given_back(one)]:
            raise Refused(
                f"of {len(short)} partitions too few other owners are up to answer for {name} and "
                "give all back: bring them up first"
            )
        self._rebuild.raise_all()
        self._replica.outbox.owe_all()
        self._log.warning("node.fenced", reason="an operator does not trust its disk")
        self._rebuilding = self._jobs.begin("replace", len(owned), _refuse_to_end_rebuilding)
        return self._rebuilding

    def _can_be_given_back(self, partition: int) -> bool:
        region, copies = self._layouts.own.region, self._layouts.own.copies
        near = [one for one in self._rings.owners_in(region, partition) if one != self._node]
        others = [one for one in self._rings.owners(partition) if one != self._node]
        enough = min(copies - 1, copies // 2 + 1)
        return sum(map(self._is_up, near)) >= enough and any(map(self._is_up, others))

    def _check(self, newcomer: NodeSettings) -> None:
        """What ``cluster.topology`` refuses in a file. Raises Malformed, Refused."""
        name = newcomer.id
        loopback = is_loopback(self._layouts.own.members[0].host)
        if loopback and not is_loopback(newcomer.host):
            raise Malformed(f'{name} has host = "{newcomer.host}"; nodes listen on loopback only')
        if self._rings.region_of.get(newcomer.node_id, newcomer.region) != newcomer.region:
            raise Refused(f"there is a {name} in another region: give it another id")
        taken = {
            (one.host, port): one.id
            for layout in self._rings.layouts.values()
            for one in layout.members
            for port in one.ports
        }
        for port in newcomer.ports:
            other = taken.get((newcomer.host, port), name)
            if other != name:
                raise Refused(f"port {port} of {name} is a port of {other}: choose another one")

    def _wanted(self) -> Staged:
        if not self.staged:
            raise Refused("nothing is staged here: `stele layout stage` does that")
        return self.staged

    def _first_of(self, staged: Staged) -> Layout:
        return self._layouts.planned(add=staged.add, remove=staged.remove, weights=staged.weights)

    def _begin(self, wanted: Staged) -> Job:
        first = self._first_of(wanted)
        self._layouts.begin(first)
        self.staged = Staged()
        self.moves_total = first.moves_left()
        self._change = self._jobs.begin("layout", self.moves_total, _refuse_to_end_change)
        self._follow(self._change)
        return self._change

    # The service --------------------------------------------------------------------------------

    async def run_once(self) -> Work:
        """See how far things have come."""
        own = self._layouts.own
        if own.is_stable:
            self.moves_total = 0
        else:
            self.moves_total = max(self.moves_total, own.moves_left())
        seen = own.epoch, self._moving.progress(), self._moving.held_back()
        if seen != self._seen:
            self._seen, self._seen_s = seen, self._clock.monotonic_s()
        if self._change is not None and self._change.state is JobState.RUNNING:
            self._follow(self._change)
        if self._rebuilding is not None and self._rebuilding.state is JobState.RUNNING:
            self._rebuilding.done = self._rebuilding.total - len(self._rebuild.fenced())
            if self._rebuilding.done >= self._rebuilding.total:
                self._jobs.end(self._rebuilding)
        return Work.IDLE

    def _follow(self, job: Job) -> None:
        own = self._layouts.own
        job.done = job.total if own.is_stable else job.total - own.moves_left()
        job.detail = {
            "region": own.region,
            "epoch": own.epoch,
            "phase": own.phase.name.lower(),
            "in_words": IN_WORDS[own.phase],
            "waits_for": self._layouts.waits_for(),
        }
        if own.is_stable:
            self._jobs.end(job)


def changing_of(node: "Node") -> Changing:
    """The service of a node that is put together."""

    def meet(newcomer: NodeSettings) -> None:
        node.rings.region_of.setdefault(newcomer.node_id, newcomer.region)
        at = {newcomer.node_id: (newcomer.host, newcomer.rpc_port)}
        node.transport.meet(at, corrected=True)

    return Changing(
        node.layouts,
        node.rings,
        node.own.node_id,
        moving=node.background.moving,
        rebuild=node.background.rebuild,
        replica=node.replica,
        is_up=node.is_up,
        meet=meet,
        connected=node.transport.connected,
        jobs=node.jobs,
        clock=node.clock,
        log=node.log,
    )


def _decoded(body: bytes, form: type[_Body]) -> _Body:
    try:
        return msgspec.json.decode(body, type=form)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Malformed(str(error)) from error


def _refuse_to_end_change() -> NoReturn:
    raise Refused("a change of owners that has begun goes on to its end; another one may lead back")


def _refuse_to_end_rebuilding() -> NoReturn:
    raise Refused("what is fenced is believed only when it was rebuilt; keep its peers up")
