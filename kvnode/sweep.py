"""Deadlines without a timer each: one timer looks at all that wait.

A timer per request costs more than the request's own bookkeeping, and almost every deadline is
never reached. The timer is due with the first deadline it knows of, and looks at most once in
``tick_s``: so entries expire up to ``tick_s`` late, and what was answered in time costs a look at
what else waits only when its deadline would have come.
"""

import asyncio
from math import inf
from typing import Protocol

from kvnode.ports import Clock


class Expiring(Protocol):
    """Something with a deadline, a reading of ``Clock.monotonic_s``."""

    deadline_s: float

    def expire(self) -> None:
        """The deadline has passed; called once, after the entry was dropped."""


class DeadlineSweep:
    """Entries in order of arrival, each under a number."""

    __slots__ = ("_clock", "_due_s", "_entries", "_loop", "_next", "_tick_s", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock, tick_s: float) -> None:
        self._loop = loop
        self._clock = clock
        self._tick_s = tick_s
        self._entries: dict[int, Expiring] = {}
        self._next = 0
        self._timer: asyncio.TimerHandle | None = None
        #: When the timer is due.
        self._due_s = inf

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, entry: Expiring) -> int:
        """Watch ``entry``; the number takes it out again."""
        self._next += 1
        self._entries[self._next] = entry
        if entry.deadline_s < self._due_s:
            self._look_at(entry.deadline_s)
        return self._next

    def pop(self, number: int) -> Expiring | None:
        """Stop watching. None when it has expired or was taken before."""
        return self._entries.pop(number, None)

    def drain(self) -> list[Expiring]:
        """Stop watching everything; what was watched, in order of arrival."""
        entries, self._entries = self._entries, {}
        self._look_no_more()
        return list(entries.values())

    def _look_at(self, deadline_s: float) -> None:
        now_s = self._clock.monotonic_s()
        due_s = max(deadline_s, now_s + self._tick_s)
        if due_s < self._due_s:
            self._look_no_more()
            self._timer = self._loop.call_later(due_s - now_s, self._sweep)
            self._due_s = due_s

    def _look_no_more(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._due_s = None, inf

    def _sweep(self) -> None:
        self._look_no_more()
        now_s = self._clock.monotonic_s()
        overdue = [number for number, entry in self._entries.items() if entry.deadline_s <= now_s]
        for number in overdue:
            entry = self._entries.pop(number, None)
            if entry is not None:
                entry.expire()
        self._look_at(min((entry.deadline_s for entry in self._entries.values()), default=inf))
