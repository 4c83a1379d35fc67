"""Long work that operators watch: begun, followed, called off, and forgotten in the end."""

from kvnode.jobs import Jobs, JobState
from tests.support.http import NOW_MS


class SetClock:
    """Seconds as a test sets them."""

    now_s = 100.0

    def wall_ms(self) -> int:
        """See ``kvnode.ports.Clock``."""
        return NOW_MS

    def monotonic_s(self) -> float:
        """See ``kvnode.ports.Clock``."""
        return self.now_s


def never() -> None:
    """A job that nobody may call off."""
    raise AssertionError


def test_what_is_left_is_judged_by_what_was_done() -> None:
    """Unknown before the first step, and when it has ended nothing is left."""
    clock = SetClock()
    jobs = Jobs(clock)
    job = jobs.begin("repair", 10, never)
    assert jobs.view(job)["eta_s"] is None
    clock.now_s += 4.0
    job.done = 2
    assert jobs.view(job)["eta_s"] == 16.0
    job.done = 10
    jobs.end(job)
    clock.now_s += 100.0
    seen = jobs.view(job)
    assert (seen["state"], seen["elapsed_s"], seen["eta_s"]) == ("done", 4.0, None)


def test_a_job_is_called_off_once_and_one_that_ended_never() -> None:
    """DELETE may be repeated."""
    called: list[bool] = []
    jobs = Jobs(SetClock())
    job = jobs.begin("repair", 1, lambda: called.append(True))
    jobs.cancel(job)
    jobs.cancel(job)
    assert (called, job.state) == ([True], JobState.CANCELLED)
    done = jobs.begin("repair", 1, never)
    jobs.end(done)
    jobs.cancel(done)
    assert done.state is JobState.DONE


def test_jobs_that_ended_are_forgotten_in_time_and_running_ones_never() -> None:
    """Memory is bounded, however often a script asks for a repair."""
    jobs = Jobs(SetClock())
    running = jobs.begin("repair", 1, never)
    for _ in range(1000):
        jobs.end(jobs.begin("repair", 1, never))
    assert len(jobs.all()) < 50
    assert jobs.find(running.id) is running
