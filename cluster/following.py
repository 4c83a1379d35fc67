"""Following the events of nodes: a thread for each, that connects again and misses nothing.

Rules
-----
1. A node that goes away is tried again, with the id of its last event: what happened meanwhile is
   told then. What its memory has lost is told as a number.
2. Whoever follows hears of each of these: an event, caught up, lost. One queue, bounded: a reader
   that does not keep up slows the threads down, and the nodes let them go (and count it).
"""

import http.client
import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from cluster.settings import NodeSettings
from cluster.timeline import Message, MessageParser

#: Nodes break their silence every 5 s.
_SILENCE_S: Final = 15.0
_AGAIN_AFTER_S: Final = 1.0
_QUEUE_MAX: Final = 10_000


class Kind(Enum):
    """What is told of a node."""

    #: ``text`` is the event, a JSON object.
    EVENT = "event"
    #: All that it remembers has been told.
    CAUGHT_UP = "caught up"
    #: ``text`` is how many events it had forgotten before they could be told.
    MISSED = "missed"
    #: ``text`` says why.
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Told:
    """Something about a node."""

    node: str
    kind: Kind
    text: str = ""


class Follower:
    """Follows nodes from the moment it is made. Its threads end with the process."""

    def __init__(self, nodes: Sequence[NodeSettings]) -> None:
        self._told: queue.Queue[Told] = queue.Queue(_QUEUE_MAX)
        for node in nodes:
            thread = threading.Thread(target=self._follow, args=(node,), daemon=True)
            thread.start()

    def next(self, timeout_s: float) -> Told | None:
        """What is told next; None if nothing is in time."""
        try:
            return self._told.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def _follow(self, node: NodeSettings) -> None:
        last_id = ""
        while True:
            parser = MessageParser(last_id)
            connection = http.client.HTTPConnection(node.host, node.ops_port, timeout=_SILENCE_S)
            try:
                shown = {"Last-Event-ID": last_id} if last_id else {}
                connection.request("GET", "/admin/events", headers=shown)
                reason = self._read(node.id, connection.getresponse(), parser)
            except (OSError, http.client.HTTPException) as error:
                reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            finally:
                connection.close()
            last_id = parser.last_id
            self._told.put(Told(node.id, Kind.LOST, reason))
            time.sleep(_AGAIN_AFTER_S)

    def _read(self, node: str, answer: http.client.HTTPResponse, parser: MessageParser) -> str:
        """Until the stream ends; why it did."""
        if answer.status != http.HTTPStatus.OK:
            return f"it answers {answer.status}"
        while line := answer.readline():
            message = parser.feed(line.decode(errors="replace").rstrip("\r\n"))
            if message is None:
                continue
            if message.kind == "message":
                self._told.put(Told(node, Kind.EVENT, message.text))
            elif message.kind == "missed":
                self._told.put(Told(node, Kind.MISSED, message.text))
            elif message == Message(":", "live"):
                self._told.put(Told(node, Kind.CAUGHT_UP))
        return "it ended the stream"
