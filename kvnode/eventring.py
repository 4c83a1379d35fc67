"""The latest events of one process, numbered, for whoever follows them: the log's lines in memory.

Rules
-----
1. Events are numbered from 1 without holes. The last EVENTS_KEPT are remembered; a restart forgets
   all, so an event's id names the boot too.
2. A reader is a position and nothing else: no queue of its own that could grow. One whose next
   event was forgotten meanwhile is behind: it is let go, and counted, and nothing waits for it.
3. A reader that comes back with the last id that it saw goes on behind it, and is told how many
   events it has missed.
"""

from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

EVENTS_KEPT: Final = 2_000


class Event(NamedTuple):
    """One event."""

    number: int
    #: A JSON object, as in the log.
    line: str


class Resumed(NamedTuple):
    """Where a reader goes on."""

    #: The number of the event before the first one that it gets.
    position: int
    #: Events between what it saw and that one, as far as this process knows.
    missed: int


class EventRing:
    """See the module's rules.

    Args:
        boot: Names this process among those of the same node, in letters and digits.
    """

    def __init__(self, boot: str, kept_max: int = EVENTS_KEPT) -> None:
        assert boot.isalnum()
        self._boot = boot
        self._events: deque[Event] = deque(maxlen=kept_max)
        self._newest = 0
        self._listeners: dict[Callable[[], None], None] = {}
        #: Readers that were let go because they did not keep up.
        self.dropped_readers = 0

    @property
    def newest(self) -> int:
        """The number of the latest event; 0 before the first one."""
        return self._newest

    @property
    def _forgotten(self) -> int:
        return self._newest - len(self._events)

    def append(self, line: str) -> None:
        """An event has happened; listeners are called."""
        self._newest += 1
        self._events.append(Event(self._newest, line))
        for listener in tuple(self._listeners):
            listener()

    def listen(self, listener: Callable[[], None]) -> None:
        """Have a function called after each event, until ``unlisten``. It must only take note."""
        self._listeners[listener] = None

    def unlisten(self, listener: Callable[[], None]) -> None:
        """The opposite of ``listen``."""
        del self._listeners[listener]

    def id_of(self, event: Event) -> str:
        """What a reader shows to go on behind this event."""
        return f"{self._boot}-{event.number}"

    def resume(self, last_id: str | None) -> Resumed:
        """Where a reader goes on that saw ``last_id``; None, or an id of another boot: nothing."""
        boot, _, digits = (last_id or "").partition("-")
        if not last_id or not (digits.isascii() and digits.isdigit()):
            return Resumed(self._forgotten, 0)
        if boot != self._boot:
            return Resumed(self._forgotten, self._forgotten)
        seen = min(int(digits), self._newest)
        position = max(seen, self._forgotten)
        return Resumed(position, position - seen)

    def is_behind(self, position: int) -> bool:
        """Whether the event after this position was forgotten."""
        return position < self._forgotten

    def after(self, position: int, limit: int) -> list[Event]:
        """The next events, oldest first; of a position that is not behind."""
        assert not self.is_behind(position)
        first = position - self._forgotten
        return [self._events[index] for index in range(first, len(self._events))[:limit]]
