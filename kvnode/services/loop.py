"""Running background work within its budget, and stopping it cleanly.

A service does one bounded unit of work per call, and says what it found: ``Work``. It may be
abandoned between calls, never inside one. A service that raises ends the node: a bug must not leave
half a node running.

What a unit costs is the time for which it held the event loop, not the time for which it waited
for a disk or a peer. Each pause tells how late the event loop is (``kvnode.services.budget``).
"""

import asyncio
from collections.abc import Callable, Coroutine, Generator, Sequence
from enum import Enum, auto
from functools import partial
from typing import Any, Final, Protocol

from kvnode.ports import Clock, Entropy
from kvnode.services.budget import Budget

_JITTER: Final = 0.1
#: Below the budget's burst, so that waiting costs nothing of the rate.
_THROTTLED_S: Final = 0.1


class Work(Enum):
    """What a unit of work found."""

    #: There is more: call again as soon as the budget allows.
    BUSY = auto()
    #: Nothing is left to do: call again at the interval.
    IDLE = auto()
    #: There is more, but its bytes are used up: call again when there may be some.
    THROTTLED = auto()
    #: Nothing is left, and nothing will ever be: do not call again.
    OVER = auto()


class Service(Protocol):
    """One kind of background work."""

    name: str
    interval_s: float

    async def run_once(self) -> Work:
        """Do one bounded unit of work."""


class Periodic:
    """A service made of one call."""

    def __init__(self, name: str, interval_s: float, call: Callable[[], None]) -> None:
        self.name = name
        self.interval_s = interval_s
        self._call = call

    async def run_once(self) -> Work:
        """See ``Service``."""
        self._call()
        return Work.IDLE


class Stop:
    """Ends services: when it is set, those that pause return at once.

    Every service of a node pauses all the time. So a pause is a future and a timer, not a task that
    a timeout cancels.
    """

    def __init__(self) -> None:
        self._is_set = False
        self._pauses: dict[asyncio.Future[None], None] = {}

    def is_set(self) -> bool:
        """Whether it was."""
        return self._is_set

    def set(self) -> None:
        """From now on. Setting it again does nothing."""
        self._is_set = True
        for pause in self._pauses:
            _end(pause)

    async def within(self, pause_s: float) -> bool:
        """Wait, also for 0 s, while others have their turn; whether it was set before the end."""
        if pause_s <= 0 or self._is_set:
            await asyncio.sleep(0)
            return self._is_set
        loop = asyncio.get_running_loop()
        pause: asyncio.Future[None] = loop.create_future()
        timer = loop.call_later(pause_s, _end, pause)
        self._pauses[pause] = None
        try:
            await pause
        finally:
            timer.cancel()
            del self._pauses[pause]
        return self._is_set


def _end(pause: "asyncio.Future[None]") -> None:
    if not pause.done():
        pause.set_result(None)


class _Unit:
    """Awaits a unit of work, and adds up for how long it held the event loop."""

    def __init__(self, work: Coroutine[Any, Any, Work], clock: Clock) -> None:
        self._work = work
        self._clock = clock
        self.held_s = 0.0

    def __await__(self) -> Generator[Any, Any, Work]:
        step = partial(self._work.send, None)
        while True:
            began_s = self._clock.monotonic_s()
            try:
                waits_for = step()
            except StopIteration as end:
                found: Work = end.value
                return found
            finally:
                self.held_s += self._clock.monotonic_s() - began_s
            try:
                step = partial(self._work.send, (yield waits_for))
            except BaseException as error:  # noqa: BLE001, whatever it is, it is for the work
                step = partial(self._work.throw, error)


async def run_every(
    service: Service, stop: Stop, budget: Budget, clock: Clock, entropy: Entropy
) -> None:
    """Run one service until ``stop``, with jitter so that nodes don't work in step."""
    work, rest_s = Work.IDLE, 0.0
    while work is not Work.OVER:
        pause_s = rest_s
        if work is Work.THROTTLED:
            pause_s = max(rest_s, _THROTTLED_S)
        elif work is Work.IDLE:
            interval_s = service.interval_s
            pause_s = entropy.uniform(interval_s * (1 - _JITTER), interval_s * (1 + _JITTER))
        due_s = clock.monotonic_s() + pause_s
        if await stop.within(pause_s):
            return
        budget.observe(clock.monotonic_s() - due_s)
        unit = _Unit(service.run_once(), clock)
        work = await unit
        more = work is Work.BUSY or work is Work.THROTTLED
        rest_s = budget.rest_s(service.name, unit.held_s, more=more)


async def run_until_stopped(
    services: Sequence[Service],
    stop: Stop,
    budget: Budget,
    *,
    clock: Clock,
    entropy: Entropy,
) -> None:
    """Run every service until ``stop`` or its end, and let each finish its unit of work.

    Returns once all have returned, so the caller may close what they used.
    """
    async with asyncio.TaskGroup() as tasks:
        for service in services:
            running = run_every(service, stop, budget, clock, entropy)
            tasks.create_task(running, name=service.name)
