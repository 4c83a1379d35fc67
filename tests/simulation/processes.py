"""Operating-system processes that share one interpreter.

Each process of the simulation lives on a machine of its own, of the same name. What belongs to
a process is known from a context variable: asyncio copies the context into every callback and
task, so the owner travels with the work.

Rules
-----
1. Nothing of a dead process ever runs again: no callback, no ``except``, no ``finally``. What it
   left is kept until the run ends, because the interpreter would finalise dropped coroutines,
   and that runs their ``finally``.
2. A paused process (SIGSTOP) runs nothing; its timers fire late, when it is resumed.
3. A restart is a new Process with the next epoch. A dead one is never revived.
4. A killed process leaves a machine that still answers: with resets, and "connection refused".
   A machine without power answers nothing.
5. Work without an owner belongs to the world itself: the wire, and the faults.
"""

import asyncio
from contextvars import Context, ContextVar
from enum import Enum, auto
from typing import Final


class ProcessState(Enum):
    """What has befallen a process."""

    RUNNING = auto()
    PAUSED = auto()
    KILLED = auto()
    POWERED_OFF = auto()


class Process:
    """One incarnation of a simulated process; ``epoch`` counts them from 1."""

    def __init__(self, name: str, epoch: int) -> None:
        self.name = name
        self.epoch = epoch
        #: In traces.
        self.shown = f"{name}.{epoch}"
        self.state = ProcessState.RUNNING
        #: Callbacks and tasks that are given this context belong to the process.
        self.context = Context()
        self.context.run(_CURRENT.set, self)
        self._withheld: list[asyncio.Handle] = []

    def __str__(self) -> str:
        return self.shown

    @property
    def dead(self) -> bool:
        """Killed or without power."""
        # Asked several times a step: no hash of an Enum member, which is Python code.
        return self.state is ProcessState.KILLED or self.state is ProcessState.POWERED_OFF

    @property
    def running(self) -> bool:
        """Neither dead nor paused."""
        return self.state is ProcessState.RUNNING

    def withholds(self, handle: asyncio.Handle) -> bool:
        """Whether a callback that is due must not run; it is then kept here."""
        if self.running:
            return False
        self._withheld.append(handle)
        return True

    def pause(self) -> None:
        """SIGSTOP."""
        assert not self.dead, f"{self} is dead"
        self.state = ProcessState.PAUSED

    def resume(self) -> list[asyncio.Handle]:
        """SIGCONT. Returns what fell due meanwhile, in that order."""
        assert self.state is ProcessState.PAUSED, f"{self} is not paused"
        self.state = ProcessState.RUNNING
        withheld, self._withheld = self._withheld, []
        return withheld

    def end(self, state: ProcessState) -> None:
        """Die: KILLED or POWERED_OFF. The machine of a killed process may lose power later."""
        assert self.state is not ProcessState.POWERED_OFF, f"{self} has no power"
        self.state = state
        assert self.dead


_CURRENT: Final[ContextVar[Process]] = ContextVar("process")


def current_process() -> Process | None:
    """Whose code is running; None for the world itself."""
    return _CURRENT.get(None)


def owner_in(context: Context) -> Process | None:
    """Whose code runs in this context."""
    return context.get(_CURRENT)
