"""What happened in a run, as a digest to compare runs by and as lines to read.

Rules
-----
1. An event is one line, made only of what the seed and the code determine: no addresses, no
   counters that outlive a run, no real time, no payload (it may hold any of these).
2. Every event enters the digest; only the newest are kept to be read.
"""

import functools
import hashlib
from collections.abc import Callable
from typing import Final

from tests.simulation.futures import SimTask

_RECENT_EVENTS: Final = 200
#: Hashing many at once costs a fraction of hashing each.
_HASHED_AT_ONCE: Final = 2000


class Trace:
    """The events of one run."""

    def __init__(self) -> None:
        self._events: list[str] = []
        self._recent: list[str] = []
        self._digest = hashlib.sha256()

    def record(self, event: str) -> None:
        """Add one event."""
        self._events.append(event)
        if len(self._events) == _HASHED_AT_ONCE:
            self._hash()

    @property
    def recent(self) -> list[str]:
        """The newest events, oldest first: what to read when a run failed."""
        return (self._recent + self._events)[-_RECENT_EVENTS:]

    def digest(self) -> str:
        """Hexadecimal digest of all events so far."""
        self._hash()
        return self._digest.hexdigest()

    def _hash(self) -> None:
        self._recent = self.recent
        self._events.append("")
        self._digest.update("\n".join(self._events).encode())
        self._events = []


def name_of(callback: Callable[..., object]) -> str:
    """What a callback is called; a task's step is called as its coroutine."""
    task = getattr(callback, "__self__", None)
    if isinstance(task, SimTask):
        return task.label
    while isinstance(callback, functools.partial):
        callback = callback.func
    return getattr(callback, "__qualname__", type(callback).__name__)
