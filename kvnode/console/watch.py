"""Looking at all nodes each second, as long as somebody looks at the console.

Rules
-----
1. Every node is asked at the same time, once a second at most, with a deadline below that; the own
   node like the others. Nobody is asked while no page is open, and for LINGER_S after the last one.
2. What is kept is bounded: the last HISTORY_S of rates, the last EVENTS_KEPT events.
3. Readers hold no queue: each tick wakes all of them, and they take what is newest.
"""

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

import aiohttp
import msgspec

from cluster.ids import NodeId
from cluster.layout import Rings
from cluster.rates import Rates, Traffic
from cluster.settings import ClusterSettings
from kvnode.console.glance import Glance
from kvnode.console.overview import Overview, Seen, overview
from kvnode.ports import Clock

INTERVAL_S: Final = 1.0
TIMEOUT_S: Final = 0.8
LINGER_S: Final = 15.0
HISTORY_S: Final = 180
EVENTS_KEPT: Final = 2_000


class Point(NamedTuple):
    """One moment of the plots."""

    at_s: float
    #: Of all nodes; None: no node has been asked twice.
    rates: Rates | None
    #: The largest lag of any pair of regions.
    lag_s: float | None


class Event(NamedTuple):
    """A line of a node's log."""

    timestamp: str
    node: str
    level: str
    name: str
    fields: dict[str, Any]


class _Asked(msgspec.Struct):
    """What is remembered of a node from one second to the next."""

    seen: Seen
    last_event: str = ""
    answered_s: float = 0.0
    traffic: Traffic | None = None
    #: What it did since it was asked before; over how long.
    grown: Traffic | None = None
    elapsed_s: float = INTERVAL_S


class Watch:
    """See the module's rules."""

    def __init__(self, settings: ClusterSettings, rings: Rings, clock: Clock) -> None:
        self._settings = settings
        self._rings = rings
        self._clock = clock
        self._asked: dict[NodeId, _Asked] = {}
        self._review()
        self._events: deque[Event] = deque(maxlen=EVENTS_KEPT)
        self._readers = 0
        self._unwatched_s = 0.0
        self._task: asyncio.Task[None] | None = None
        self._ticked = asyncio.Event()
        #: The process is about to end.
        self.stopped = False
        self.points: deque[Point] = deque(maxlen=HISTORY_S)
        self.overview: Overview | None = None

    @property
    def events(self) -> list[Event]:
        """By time."""
        return sorted(self._events, key=lambda event: event.timestamp)

    @property
    def now_s(self) -> float:
        """On the clock of ``points``."""
        return self._clock.monotonic_s()

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[None]:
        """As long as it lasts all nodes are asked."""
        self._readers += 1
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run(), name="console")
        try:
            yield
        finally:
            self._readers -= 1
            self._unwatched_s = self._clock.monotonic_s()

    async def tick(self) -> None:
        """Wait until all nodes were asked, or this process is about to end."""
        await self._ticked.wait()

    @property
    def is_fresh(self) -> bool:
        """Whether ``overview`` is of now."""
        return bool(self.points) and self.now_s - self.points[-1].at_s < 2 * INTERVAL_S

    async def stop(self) -> None:
        """The process is about to end."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self.stopped = True
        self._tick()

    def _tick(self) -> None:
        ticked, self._ticked = self._ticked, asyncio.Event()
        ticked.set()

    def _review(self) -> None:
        """Members come and go. Where one is reached, the cluster file knows best."""
        known = {node.node_id: node for node in self._settings.node}
        members = [one for layout in self._rings.layouts.values() for one in layout.members]
        self._asked = {
            one.node_id: self._asked.get(one.node_id)
            or _Asked(
                Seen(known.get(one.node_id, one), trouble="was not asked yet"),
                answered_s=self._clock.monotonic_s(),
            )
            for one in members
        }

    async def _run(self) -> None:
        for asked in self._asked.values():  # what was while nobody looked is not known
            asked.answered_s, asked.traffic = self._clock.monotonic_s(), None
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout) as client:
            while self._readers or self._clock.monotonic_s() < self._unwatched_s + LINGER_S:
                begun_s = self._clock.monotonic_s()
                self._review()
                await asyncio.gather(*(self._ask(client, one) for one in self._asked.values()))
                self._take()
                self._tick()
                elapsed_s = self._clock.monotonic_s() - begun_s
                await asyncio.sleep(max(0.0, INTERVAL_S - elapsed_s))

    async def _ask(self, client: aiohttp.ClientSession, asked: _Asked) -> None:
        node, seen = asked.seen.node, asked.seen
        url = f"http://{node.host}:{node.ops_port}/ui/glance"
        seen.refused = False
        try:
            async with client.get(url, params={"after": asked.last_event}) as answer:
                glance = msgspec.json.decode(await answer.read(), type=Glance)
        except aiohttp.ClientConnectorError:
            seen.refused = True
            self._lose(asked, "nothing listens there")
        except TimeoutError:
            self._lose(asked, f"no answer within {TIMEOUT_S:g} s")
        except (aiohttp.ClientError, msgspec.MsgspecError) as error:
            self._lose(asked, f"no answer: {error}")
        else:
            self._hear(asked, glance)

    def _lose(self, asked: _Asked, trouble: str) -> None:
        seen = asked.seen
        seen.glance, seen.rates, asked.grown, asked.traffic = None, None, None, None
        seen.trouble = trouble
        seen.silent_s = self._clock.monotonic_s() - asked.answered_s

    def _hear(self, asked: _Asked, glance: Glance) -> None:
        now_s = self._clock.monotonic_s()
        asked.elapsed_s = max(now_s - asked.answered_s, 0.001)
        before, asked.traffic = asked.traffic, glance.traffic
        asked.grown = glance.traffic.since(before) if before is not None else None
        asked.answered_s = now_s
        seen = asked.seen
        seen.glance, seen.trouble, seen.silent_s = glance, "", 0.0
        seen.rates = asked.grown.over(asked.elapsed_s) if asked.grown is not None else None
        for told in glance.events:
            asked.last_event = told.id
            fields = json.loads(told.line)
            timestamp, level = fields.pop("timestamp", ""), fields.pop("level", "")
            name = fields.pop("event", "")
            node = fields.pop("node", seen.node.id)
            self._events.append(Event(str(timestamp), str(node), str(level), str(name), fields))

    def _take(self) -> None:
        """All were asked."""
        seen = {name: one.seen for name, one in self._asked.items()}
        self.overview = overview(self._settings, self._rings, seen)
        together, elapsed_s = Traffic(), []
        for one in self._asked.values():
            if one.grown is not None:
                together = together.plus(one.grown)
                elapsed_s.append(one.elapsed_s)
        rates = together.over(sum(elapsed_s) / len(elapsed_s)) if elapsed_s else None
        lags = [pair.lag_s for pair in self.overview.pairs if pair.lag_s is not None]
        self.points.append(Point(self.now_s, rates, max(lags, default=None)))
