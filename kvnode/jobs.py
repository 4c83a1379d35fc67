"""Long work that an operator asked for: what it is, how far it has come, how to call it off.

A job lives in the memory of the node that does it, and the last ones that ended are remembered. A
restart forgets them all: what they do is work that is also done, or found to be due, without them.
"""

from collections.abc import Callable
from enum import Enum
from typing import Any, Final

import msgspec

from kvnode.ports import Clock

_REMEMBERED_MAX: Final = 32


class JobState(Enum):
    """Only RUNNING changes."""

    RUNNING = "running"
    DONE = "done"
    CANCELLED = "cancelled"


class Job(msgspec.Struct):
    """One job. ``done`` and ``total`` count what its kind counts: partitions, say."""

    id: str
    kind: str
    total: int
    started_s: float
    cancel: Callable[[], None]
    done: int = 0
    ended_s: float | None = None
    state: JobState = JobState.RUNNING
    #: What it waits for, and what it has done, by names that its kind chooses.
    detail: dict[str, Any] = msgspec.field(default_factory=dict)


class Jobs:
    """All jobs of a node."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._jobs: dict[str, Job] = {}
        self._begun = 0

    def begin(self, kind: str, total: int, cancel: Callable[[], None]) -> Job:
        """A new job. ``cancel`` is called when an operator calls it off, and may refuse that."""
        self._begun += 1
        job = Job(f"{kind}-{self._begun}", kind, total, self._clock.monotonic_s(), cancel)
        self._jobs[job.id] = job
        ended = [one.id for one in self._jobs.values() if one.state is not JobState.RUNNING]
        for old in ended[: max(0, len(self._jobs) - _REMEMBERED_MAX)]:
            del self._jobs[old]
        return job

    def end(self, job: Job, state: JobState = JobState.DONE) -> None:
        """A job has come to its end."""
        job.state = state
        job.ended_s = self._clock.monotonic_s()

    def all(self) -> list[Job]:
        """Oldest first."""
        return list(self._jobs.values())

    def find(self, job_id: str) -> Job | None:
        """By its id."""
        return self._jobs.get(job_id)

    def cancel(self, job: Job) -> None:
        """Call a job off, if it runs. Raises what its ``cancel`` raises: then it goes on."""
        if job.state is JobState.RUNNING:
            job.cancel()
            self.end(job, JobState.CANCELLED)

    def view(self, job: Job) -> dict[str, Any]:
        """For operators. ``eta_s``: None while there is nothing to judge by."""
        now_s = self._clock.monotonic_s() if job.ended_s is None else job.ended_s
        elapsed_s = now_s - job.started_s
        eta_s = elapsed_s * (job.total - job.done) / job.done if job.done else None
        return {
            "id": job.id,
            "kind": job.kind,
            "state": job.state.value,
            "done": job.done,
            "total": job.total,
            "elapsed_s": round(elapsed_s, 3),
            "eta_s": round(eta_s, 1) if eta_s is not None and job.ended_s is None else None,
            **job.detail,
        }
