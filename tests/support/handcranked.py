"""An event loop's timers and its clock, moved by hand: for what has callbacks and no coroutines."""

import asyncio
from collections.abc import Callable
from typing import Any, cast


class Timer:
    """A callback that is due at a time."""

    def __init__(
        self, due_s: float, callback: Callable[..., object], args: tuple[Any, ...]
    ) -> None:
        self.due_s = due_s
        self.cancelled = False
        self._callback = callback
        self._args = args

    def cancel(self) -> None:
        """See ``asyncio.TimerHandle``."""
        self.cancelled = True

    def run(self) -> None:
        """Call, unless it was cancelled."""
        if not self.cancelled:
            self._callback(*self._args)


class HandCrankedLoop:
    """What code without coroutines uses of a loop; also a ``kvnode.ports.Clock``."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.timers: list[Timer] = []

    @property
    def as_loop(self) -> asyncio.AbstractEventLoop:
        """Itself, for a parameter that asks for a whole loop."""
        return cast("asyncio.AbstractEventLoop", self)

    def time(self) -> float:
        """See ``asyncio.AbstractEventLoop``."""
        return self.now_s

    def wall_ms(self) -> int:
        """See ``kvnode.ports.Clock``."""
        return int(self.now_s * 1000)

    def monotonic_s(self) -> float:
        """See ``kvnode.ports.Clock``."""
        return self.now_s

    def call_soon(self, callback: Callable[..., object], *args: Any) -> Timer:
        """See ``asyncio.AbstractEventLoop``."""
        return self.call_later(0.0, callback, *args)

    def call_later(self, delay_s: float, callback: Callable[..., object], *args: Any) -> Timer:
        """See ``asyncio.AbstractEventLoop``."""
        timer = Timer(self.now_s + delay_s, callback, args)
        self.timers.append(timer)
        return timer

    def run_one(self) -> bool:
        """Run the first callback, moving the clock to it; False when there is none."""
        if not self.timers:
            return False
        first = min(self.timers, key=lambda timer: timer.due_s)  # of equals, the oldest
        self.timers.remove(first)
        self.now_s = max(self.now_s, first.due_s)
        first.run()
        return True

    def run_until(self, stop_s: float) -> None:
        """Run all that is due by then."""
        while any(timer.due_s <= stop_s for timer in self.timers):
            self.run_one()
        self.now_s = stop_s

    def run_all(self) -> None:
        """Run until nothing is left to run."""
        while self.run_one():
            pass
