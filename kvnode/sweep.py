"""Deadlines without a timer each: one timer looks at all that wait.

A timer per request costs more than the request's own bookkeeping, and almost every deadline is
never reached. Entries expire up to ``tick_s`` late. The timer runs only while something waits.
"""

import asyncio
from typing import Protocol

from kvnode.ports import Clock


class Expiring(Protocol):
    """Something with a deadline, a reading of ``Clock.monotonic_s``."""

    deadline_s: float

    def expire(self) -> None:
        """The deadline has passed; called once, after the entry was dropped."""


class DeadlineSweep:
    """Entries in order of arrival, each under a number."""

    __slots__ = ("_clock", "_entries", "_loop", "_next", "_tick_s", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock, tick_s: float) -> None:
        self._loop = loop
        self._clock = clock
        self._tick_s = tick_s
        self._entries: dict[int, Expiring] = {}
        self._next = 0
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, entry: Expiring) -> int:
        """Watch ``entry``; the number takes it out again."""
        self._next += 1
        self._entries[self._next] = entry
        if self._timer is None:
            self._timer = self._loop.call_later(self._tick_s, self._sweep)
        return self._next

    def pop(self, number: int) -> Expiring | None:
        """Stop watching. None when it has expired or was taken before."""
        return self._entries.pop(number, None)

    def drain(self) -> list[Expiring]:
        """Stop watching everything; what was watched, in order of arrival."""
        entries, self._entries = self._entries, {}
        return list(entries.values())

    def _sweep(self) -> None:
        now_s = self._clock.monotonic_s()
        overdue = [number for number, entry in self._entries.items() if entry.deadline_s <= now_s]
        for number in overdue:
            entry = self._entries.pop(number, None)
            if entry is not None:
                entry.expire()
        self._timer = self._loop.call_later(self._tick_s, self._sweep) if self._entries else None
