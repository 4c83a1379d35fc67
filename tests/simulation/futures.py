"""Callbacks, tasks and futures that know their owner and whose order in a set is repeatable.

asyncio keeps tasks in sets (``TaskGroup`` cancels its tasks in a set's order, ``asyncio.wait``
returns sets), and the stock hash is an address in memory. Here the hash is a serial number, so
those orders are the same in every run.

A history takes tens of thousands of steps, each of which makes some of these: what the base
classes do for debugging only is left out, and a name is looked up once.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from typing import Any

from tests.simulation.processes import Process, owner_in


class SimHandle(asyncio.TimerHandle):
    """A callback of one process, due at a virtual time."""

    __slots__ = ("owner",)

    def __init__(
        self,
        when: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: asyncio.AbstractEventLoop,
        context: Context | None,
    ) -> None:
        # All that the base classes have, without the place in the source.
        self._context = copy_context() if context is None else context
        self._loop = loop
        self._callback: Callable[..., object] | None = callback
        self._args = args
        self._cancelled = False
        self._repr = self._source_traceback = None
        self._when = when
        self._scheduled = False
        self.owner = owner_in(self._context)

    def cancel(self) -> None:
        """Do not call back."""
        self._cancelled = True
        self._callback, self._args = None, ()


class SimFuture(asyncio.Future[Any]):
    """A future of one process."""

    serial: int
    owner: Process | None

    def __hash__(self) -> int:
        return self.serial


class SimTask(asyncio.Task[Any]):
    """A task of one process."""

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, Any],
        loop: asyncio.AbstractEventLoop,
        name: str | None,
        context: Context | None,
        serial: int,
        owner: Process | None,
    ) -> None:
        self.serial, self.owner = serial, owner  # before the base class puts it into a set
        #: What its steps are called in the trace. Not the task's name: stock names count all
        #: tasks that the interpreter ever made.
        self.label = getattr(coroutine, "__qualname__", type(coroutine).__name__)
        super().__init__(coroutine, loop=loop, name=name, context=context)

    def __hash__(self) -> int:
        return self.serial

    def discard(self) -> None:
        """Close the coroutine of a task that will never run again.

        Left to the interpreter, it would be closed at a moment of the garbage collector's choice,
        inside whatever runs then. What its ``finally`` blocks do or raise concerns nobody: their
        world has ended.
        """
        self._log_destroy_pending = False
        coroutine = self.get_coro()
        assert isinstance(coroutine, Coroutine)
        for _ in range(_CLOSE_ATTEMPTS):  # each ``await`` in a ``finally`` refuses one attempt
            try:
                coroutine.close()
            except (Exception, asyncio.CancelledError):  # noqa: BLE001 (see above)
                continue
            return


_CLOSE_ATTEMPTS = 8
