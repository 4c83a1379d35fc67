"""``GET /admin/events``: a process's events as they happen, as server-sent events.

Rules
-----
1. A reader gets what is remembered, or what it has missed if it shows the id that it saw last
   (``Last-Event-ID``), then the comment ``live``, then each event as it happens.
2. Nothing is queued for it here beyond what its socket takes. One that falls behind what is
   remembered, or takes nothing for STALLED_S, is cut off and counted; it may come back.
3. Silence is broken by a comment every HEARTBEAT_S, so both sides notice when the other is gone.

Source: WHATWG HTML, section 9.2, "Server-sent events".
"""

import asyncio
from typing import Final

from aiohttp import web

from kvnode.eventring import EventRing

HEARTBEAT_S: Final = 5.0
STALLED_S: Final = 10.0
READERS_MAX: Final = 32
_BATCH: Final = 100


class EventStreams:
    """The readers of one listener."""

    def __init__(self, ring: EventRing) -> None:
        self._ring = ring
        #: What wakes each reader, in order of arrival.
        self._readers: list[asyncio.Event] = []
        self._stopped = False

    def stop(self) -> None:
        """End all streams: the process is about to."""
        self._stopped = True
        for happened in self._readers:
            happened.set()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Answer one reader until it or this process goes away."""
        if len(self._readers) >= READERS_MAX:
            raise web.HTTPServiceUnavailable(text=f"{READERS_MAX} readers are served already\n")
        headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
        response = web.StreamResponse(headers=headers)
        happened = asyncio.Event()
        self._readers.append(happened)
        self._ring.listen(happened.set)
        try:
            await response.prepare(request)
            kept_up = await self._follow(response, request.headers.get("Last-Event-ID"), happened)
        except ConnectionResetError:
            return response  # it has gone
        finally:
            self._ring.unlisten(happened.set)
            self._readers.remove(happened)
        if not kept_up:
            self._ring.dropped_readers += 1
            if request.transport is not None:
                request.transport.abort()
        return response

    async def _follow(
        self, response: web.StreamResponse, last_id: str | None, happened: asyncio.Event
    ) -> bool:
        """Until this process stops; False when the reader did not keep up."""
        ring = self._ring
        position, missed = ring.resume(last_id)
        told = [f"event: missed\ndata: {missed}\n\n"] if missed else []
        is_live = False
        while not self._stopped:
            if ring.is_behind(position):
                return False
            happened.clear()
            events = ring.after(position, _BATCH)
            told += [told_as(ring.id_of(event), event.line) for event in events]
            if not events and not is_live:
                told.append(": live\n\n")
                is_live = True
            if told and not await _write(response, "".join(told)):
                return False
            told = []
            if events:
                position = events[-1].number
            elif not await _happens(happened):
                told.append(": still here\n\n")
        return True


def told_as(event_id: str, line: str) -> str:
    """An event in the format of the stream."""
    return f"id: {event_id}\ndata: {line}\n\n"


async def _write(response: web.StreamResponse, text: str) -> bool:
    """False: the reader takes nothing."""
    try:
        async with asyncio.timeout(STALLED_S):
            await response.write(text.encode())
    except TimeoutError:
        return False
    return True


async def _happens(event: asyncio.Event) -> bool:
    """False: not for a while."""
    try:
        async with asyncio.timeout(HEARTBEAT_S):
            await event.wait()
    except TimeoutError:
        return False
    return True
