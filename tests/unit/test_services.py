"""Background work is paced by what it finds and what it costs, and stops between two units."""

import asyncio
from collections.abc import Callable, Iterable

import pytest

from kvnode.services.budget import TIME_SHARE, Budget
from kvnode.services.loop import Stop, Work, run_until_stopped
from tests.simulation.loop import SimLoop

INTERVAL_S = 1.0


class VirtualTime:
    """The loop's clock, which work can also push on: what holds the loop takes time."""

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop
        self.worked_s = 0.0

    def wall_ms(self) -> int:
        """See ``kvnode.ports.Clock``."""
        return int(self.monotonic_s() * 1000)

    def monotonic_s(self) -> float:
        """See ``kvnode.ports.Clock``."""
        return self._loop.time() + self.worked_s


class Even:
    """No jitter: the middle of what was asked for."""

    def random_bytes(self, count: int) -> bytes:
        """See ``kvnode.ports.Entropy``."""
        return bytes(count)

    def uniform(self, low: float, high: float) -> float:
        """See ``kvnode.ports.Entropy``."""
        return (low + high) / 2


class Scripted:
    """A service that finds what it is told, and notes when it was called."""

    name = "scripted"
    interval_s = INTERVAL_S

    def __init__(self, clock: VirtualTime, finds: Iterable[Work], *, held_s: float = 0.0) -> None:
        self._clock = clock
        self._finds = iter(finds)
        self._held_s = held_s
        self.began_s: list[float] = []
        self.ended_s: list[float] = []

    async def run_once(self) -> Work:
        """Hold the loop for a while, wait for something for a second, hold it again."""
        self.began_s.append(asyncio.get_running_loop().time())
        self._clock.worked_s += self._held_s / 2
        await asyncio.sleep(1.0)
        self._clock.worked_s += self._held_s / 2
        self.ended_s.append(asyncio.get_running_loop().time())
        return next(self._finds, Work.IDLE)

    def pauses_s(self) -> list[float]:
        """Between each unit and the next."""
        return [b - a for a, b in zip(self.ended_s, self.began_s[1:], strict=False)]


def run_for(
    seconds: float, services: Callable[[VirtualTime], list[Scripted]], budget: Budget | None = None
) -> list[Scripted]:
    """Run services, ask them to stop, and return when all have."""
    loop = SimLoop(0)
    clock = VirtualTime(loop)

    async def main() -> list[Scripted]:
        stop = Stop()
        running = services(clock)
        loop.call_later(seconds, stop.set)
        await run_until_stopped(running, stop, budget or Budget({}), clock=clock, entropy=Even())
        return running

    try:
        return loop.run(main())
    finally:
        loop.close()


def test_a_busy_service_is_called_again_at_once_an_idle_one_at_its_interval() -> None:
    """A backlog is worked off without waiting for the clock, one unit at a time."""
    finds = [Work.BUSY, Work.BUSY, Work.IDLE, Work.IDLE]
    (service,) = run_for(8.5, lambda clock: [Scripted(clock, finds)])
    assert service.pauses_s() == pytest.approx([0.0, 0.0, INTERVAL_S, INTERVAL_S])


def test_a_throttled_service_waits_for_bytes_and_not_for_its_interval() -> None:
    """Else a short interval would be the rate's only measure."""
    (service,) = run_for(4.0, lambda clock: [Scripted(clock, [Work.THROTTLED] * 9)])
    assert max(service.pauses_s()) < INTERVAL_S
    assert min(service.pauses_s()) > 0


def test_a_service_rests_for_what_it_held_the_loop_and_not_for_what_it_waited() -> None:
    """A second of waiting for a peer costs clients nothing."""
    held_s = 0.04
    (service,) = run_for(9.0, lambda clock: [Scripted(clock, [Work.BUSY] * 9, held_s=held_s)])
    rest_s = held_s / TIME_SHARE - held_s
    assert service.pauses_s() == pytest.approx([rest_s] * (len(service.began_s) - 1))


def test_lateness_of_the_loop_slows_background_work_down() -> None:
    """Each pause is a measurement: here, every wake-up is late by what others hold the loop."""
    budget = Budget({})

    class Hog(Scripted):
        async def run_once(self) -> Work:
            asyncio.get_running_loop().call_later(0.05, self._hold)
            return Work.IDLE

        def _hold(self) -> None:
            self._clock.worked_s += 10 * INTERVAL_S

    run_for(10.0, lambda clock: [Hog(clock, [])], budget)
    assert budget.pace < 0.2


def test_stop_waits_for_the_unit_under_way_and_starts_no_other() -> None:
    """What a unit uses may be closed as soon as the services have returned."""
    idle, busy = run_for(
        2.5, lambda clock: [Scripted(clock, []), Scripted(clock, [Work.BUSY] * 99)]
    )
    for service in (idle, busy):
        assert len(service.began_s) == len(service.ended_s)
    assert (idle.began_s, idle.ended_s) == ([1.0], [2.0])
    assert busy.began_s[-1] < 2.5 <= busy.ended_s[-1]


def test_stop_cuts_a_rest_short() -> None:
    """A node must not take minutes to stop because its work was long."""
    (service,) = run_for(1.5, lambda clock: [Scripted(clock, [Work.BUSY], held_s=1e6)])
    assert len(service.ended_s) == 1


def test_a_service_that_raises_ends_all_of_them() -> None:
    """A bug must not leave half a node running, and must be heard of."""

    class Broken(Scripted):
        async def run_once(self) -> Work:
            raise AssertionError("a bug")

    with pytest.raises(ExceptionGroup) as caught:
        run_for(10.0, lambda clock: [Scripted(clock, []), Broken(clock, [])])
    assert caught.group_contains(AssertionError, match="a bug")


def test_what_a_unit_waits_for_may_fail_and_the_unit_hears_of_it() -> None:
    """Measuring stands between a unit and what it awaits; it must not be felt there."""
    heard: list[str] = []

    class Disappointed(Scripted):
        async def run_once(self) -> Work:
            loop = asyncio.get_running_loop()
            answer = loop.create_future()
            loop.call_soon(answer.set_exception, ValueError("no"))
            try:
                await answer
            except ValueError as error:
                heard.append(str(error))
            return Work.IDLE

    run_for(1.5, lambda clock: [Disappointed(clock, [])])
    assert heard == ["no"]
