"""Events of several nodes in the order in which they happened, as far as their clocks agree.

Rules
-----
1. Each node's events come in its order, but nodes are not equally fast. An event is held back for
   a moment, and goes out when none that happened before it can be expected any more.
2. Nothing waits longer than that: a node that is late is out of order rather than in the way.

Also the parsing of server-sent events (WHATWG HTML, section 9.2), as far as nodes send them.
"""

import heapq
from typing import NamedTuple


class Happening(NamedTuple):
    """An event of a node. Ordered by time, then by node and by arrival."""

    #: By that node's clock.
    at_s: float
    node: str
    arrival: int
    line: str


class Timeline:
    """See the module's rules.

    Args:
        hold_s: How long an event is held back.
    """

    def __init__(self, hold_s: float) -> None:
        self._hold_s = hold_s
        self._held: list[tuple[Happening, float]] = []
        self._arrivals = 0

    def add(self, now_s: float, at_s: float, node: str, line: str) -> None:
        """An event has arrived."""
        self._arrivals += 1
        happening = Happening(at_s, node, self._arrivals, line)
        heapq.heappush(self._held, (happening, now_s + self._hold_s))

    def due(self, now_s: float) -> list[Happening]:
        """What may go out now, in order: all that was held long enough, and all before that."""
        last = max((one for one, due_s in self._held if due_s <= now_s), default=None)
        due = []
        while last is not None and self._held and self._held[0][0] <= last:
            due.append(heapq.heappop(self._held)[0])
        return due

    def rest(self) -> list[Happening]:
        """All that is held, in order."""
        return [heapq.heappop(self._held)[0] for _ in range(len(self._held))]


class Message(NamedTuple):
    """One server-sent event, or a comment, whose kind is ``:``."""

    kind: str
    text: str


class MessageParser:
    """The lines of one stream into messages. ``last_id`` is that of the last event that had one."""

    def __init__(self, last_id: str) -> None:
        self.last_id = last_id
        self._id = last_id
        self._kind = ""
        self._data: list[str] = []

    def feed(self, line: str) -> Message | None:
        """Take one line, without its end; what it completes."""
        field, colon, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            return self._complete()
        if colon and not field:
            return Message(":", value)
        match field:
            case "id":
                self._id = value
            case "event":
                self._kind = value
            case "data":
                self._data.append(value)
        return None

    def _complete(self) -> Message | None:
        self.last_id = self._id
        kind, data = self._kind or "message", self._data
        self._kind, self._data = "", []
        return Message(kind, "\n".join(data)) if data else None
