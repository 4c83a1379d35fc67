"""What happened in a run, as a digest to compare runs by and as lines to read.

Rules
-----
1. An event is one line, made only of what the seed and the code determine: no addresses, no
   counters that outlive a run, no real time, no payload (it may hold any of these).
2. Every event enters the digest; only the newest are kept to be read.
"""

import asyncio
import functools
import hashlib
from collections import deque
from typing import Any, Final

_RECENT_EVENTS: Final = 200


class Trace:
    """The events of one run."""

    def __init__(self) -> None:
        #: The newest events, oldest first: what to read when a run failed.
        self.recent: deque[str] = deque(maxlen=_RECENT_EVENTS)
        self._digest = hashlib.sha256()

    def record(self, event: str) -> None:
        """Add one event."""
        self._digest.update(event.encode() + b"\n")
        self.recent.append(event)

    def digest(self) -> str:
        """Hexadecimal digest of all events so far."""
        return self._digest.hexdigest()


def name_of(handle: asyncio.Handle) -> str:
    """What a callback is called; a task's step is called as its coroutine."""
    callback = handle._callback  # type: ignore[attr-defined]  # asyncio shows it only in repr
    while isinstance(callback, functools.partial):
        callback = callback.func
    task = getattr(callback, "__self__", None)
    if isinstance(task, asyncio.Task):
        return coroutine_name(task)
    return getattr(callback, "__qualname__", type(callback).__name__)


def coroutine_name(task: asyncio.Task[Any]) -> str:
    """Not the task's name: stock names count all tasks that the interpreter ever made."""
    coroutine = task.get_coro()
    return getattr(coroutine, "__qualname__", type(coroutine).__name__)
