"""Ending a command between two of its steps, never within one."""

import signal
from types import FrameType, TracebackType
from typing import Final

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(Exception):
    """Someone asked the command to end: Ctrl-C, a closed terminal, SIGTERM."""


class Interrupts:
    """While entered, signals that ask the command to end only leave a note for ``check``.

    So a process is never started without the pid file that lets it be found, and a second Ctrl-C
    does not cut short the stopping of what was started.
    """

    def __init__(self) -> None:
        self._noted = False
        self._handlers: dict[signal.Signals, signal._HANDLER] = {}

    def __enter__(self) -> "Interrupts":
        for number in _SIGNALS:
            self._handlers[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raise Interrupted if a signal has come."""
        if self._noted:
            raise Interrupted

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self._noted = True
