"""Tasks and futures that know their owner and whose order in a set is repeatable.

asyncio keeps tasks in sets (``TaskGroup`` cancels its tasks in a set's order, ``asyncio.wait``
returns sets), and the stock hash is an address in memory. Here the hash is a serial number, so
those orders are the same in every run.
"""

import asyncio
from collections.abc import Coroutine
from contextvars import Context
from typing import Any

from tests.simulation.processes import Process


class SimFuture(asyncio.Future[Any]):
    """A future of one process."""

    def __init__(self, loop: asyncio.AbstractEventLoop, serial: int, owner: Process | None) -> None:
        self.serial, self.owner = serial, owner
        super().__init__(loop=loop)

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
