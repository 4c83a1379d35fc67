"""Taking a node out of service while it goes on running, because somebody is about to stop it.

Rules
-----
1. A node that is drained is not ready and says so: load balancers and clients that ask leave it.
   What it is asked all the same it does, and for its peers it stays a replica like any other.
2. It is drained when no client has asked it anything for as long as balancers need to hear of it,
   and it keeps nothing for nodes and regions that are up. What it keeps for others stays on its
   disk: it can't be handed on, and its process that stops would lose nothing of it.
3. It stays out of service until the operator takes that back, or it is started again: a word about
   a process, and nothing on disk.
4. A process that was told to stop (``leave``) can't be told to stay.
"""

from collections.abc import Callable
from math import inf
from typing import Final

from cluster.ids import NodeId
from cluster.layout import Rings
from cluster.stage import Stage
from kvnode.errors import Refused
from kvnode.jobs import Job, Jobs, JobState
from kvnode.log import Log
from kvnode.ports import Clock
from kvnode.replica import Replica
from kvnode.services.loop import Work

INTERVAL_S: Final = 0.25


class Draining:
    """A service (``kvnode.services.loop``).

    Args:
        quiet_s: How long balancers may take to hear that a node is not ready.
    """

    name = "draining"
    interval_s = INTERVAL_S

    def __init__(
        self,
        replica: Replica,
        rings: Rings,
        *,
        quiet_s: float,
        is_up: Callable[[NodeId], bool],
        jobs: Jobs,
        clock: Clock,
        log: Log,
    ) -> None:
        self._replica = replica
        self._rings = rings
        self._quiet_s = quiet_s
        self._is_up = is_up
        self._jobs = jobs
        self._clock = clock
        self._log = log
        #: Of clients: requests that were answered until now, and those under way.
        self.requests: Callable[[], tuple[int, int]] = lambda: (0, 0)
        self._leaving = False
        self._job: Job | None = None
        self._answered = 0
        self._asked_s = -inf

    @property
    def stage(self) -> Stage:
        """How far it is."""
        if self._leaving:
            return Stage.STOPPING
        if self._job is None:
            return Stage.SERVING
        return Stage.DRAINED if self._job.state is JobState.DONE else Stage.DRAINING

    def leave(self) -> None:
        """Rule 4."""
        self._leaving = True
        self._log.info("node.draining")

    def begin(self) -> Job:
        """An operator takes the node out of service. The job that does so already, if there is one.

        Raises Refused: the process is about to stop.
        """
        if self._leaving:
            raise Refused("its process is about to stop")
        if self._job is None:
            self._job = self._jobs.begin("drain", self._kept(), self._return)
            self._answered, self._asked_s = self.requests()[0], self._clock.monotonic_s()
            self._log.info("node.draining", job=self._job.id)
            self._report(self._job)
        return self._job

    def end(self) -> None:
        """The operator takes that back; nothing, if it was not said."""
        if self._job is None:
            return
        if self._job.state is JobState.RUNNING:
            self._jobs.cancel(self._job)
        else:
            self._return()

    async def run_once(self) -> Work:
        """See how far it has come."""
        if self._job is not None and self._job.state is JobState.RUNNING:
            self._report(self._job)
        return Work.IDLE

    def _return(self) -> None:
        self._job = None
        self._log.info("node.drain_ended")

    def _report(self, job: Job) -> None:
        now_s = self._clock.monotonic_s()
        answered, under_way = self.requests()
        if under_way or answered != self._answered:
            self._answered, self._asked_s = answered, now_s
        kept, quiet_s = self._kept(), now_s - self._asked_s
        # Clients that go on writing may make more of it.
        job.total = max(job.total, kept)
        job.done = job.total - kept
        job.detail = {"writes": kept, "requests": under_way, "quiet_s": round(quiet_s, 3)}
        if not kept and quiet_s >= self._quiet_s:
            self._jobs.end(job)
            self._log.info("node.drained", job=job.id)

    def _kept(self) -> int:
        """Writes that are kept here for those that could take them now."""
        replica = self._replica
        hints = sum(held.count for target, held in replica.hints.targets() if self._is_up(target))
        regions = [
            region
            for region in replica.standing.others
            if any(map(self._is_up, self._rings.nodes_of(region)))
        ]
        return hints + sum(map(replica.outbox.waiting, regions))
