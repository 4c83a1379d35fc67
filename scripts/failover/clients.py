"""Clients of the edge: a steady number of requests a second, whatever becomes of each.

They send at fixed times and don't wait for one answer before the next request, so a stall is seen
by every request that falls into it, and not by one.
"""

import asyncio
import time
from collections.abc import Iterator
from itertools import count, cycle
from typing import Final

import aiohttp
import msgspec

_CONTENT: Final = {"content": "what clients of the edge write " * 8}
#: Documents that are there before the fault, to be read.
_DOCUMENTS: Final = 50
#: Longer than the edge's own patience.
_TIMEOUT_S: Final = 15.0

#: What is sent in turn: mostly what may be repeated, and now and then what may not.
MIX: Final = ("read", "keyed", "read", "keyed", "delete", "read", "keyed", "keyless")
REPEATABLE: Final = ("read", "keyed", "delete")

#: Method, path and headers; a create has a body as well.
Request = tuple[str, str, dict[str, str]]


class Sent(msgspec.Struct, frozen=True):
    """A request and what came back."""

    kind: str
    #: Since the first request.
    at_s: float
    took_s: float
    #: None: no answer, or not within the client's patience.
    status: int | None
    words: str

    @property
    def failed(self) -> bool:
        """Whether a client would have to do something about it."""
        return self.status not in {200, 201, 204}


class Seen(msgspec.Struct, frozen=True):
    """All requests of a run, in the order of sending."""

    requests: list[Sent]

    def failures(self, *kinds: str) -> list[Sent]:
        """Requests of these kinds that failed."""
        return [one for one in self.requests if one.failed and one.kind in kinds]

    def slowest_s(self, *kinds: str) -> float:
        """Of these kinds."""
        return max((one.took_s for one in self.requests if one.kind in kinds), default=0.0)

    def disturbed_s(self, slow_s: float, *kinds: str) -> float:
        """From the first of these that failed or was slow to the end of the last one."""
        bad = [
            one
            for one in self.requests
            if one.kind in kinds and (one.failed or one.took_s > slow_s)
        ]
        return max((one.at_s + one.took_s for one in bad), default=0.0) - min(
            (one.at_s for one in bad), default=0.0
        )


async def prepare(url: str) -> list[str]:
    """Create what is to be read and deleted."""
    async with _session(url) as session:
        creating = [_create(session) for _ in range(2 * _DOCUMENTS)]
        return list(await asyncio.gather(*creating))


async def watch(
    url: str, documents: list[str], *, per_second: int, meanwhile: asyncio.Future[None]
) -> Seen:
    """Send requests to ``url`` until ``meanwhile`` is done, and see all answers."""
    requests = _requests(documents[:_DOCUMENTS], documents[_DOCUMENTS:])
    under_way: list[asyncio.Task[Sent]] = []
    async with _session(url) as session:
        started_s = time.monotonic()
        for number in count():
            due_s = started_s + number / per_second
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            if meanwhile.done():
                break
            sending = _send(session, *next(requests), started_s)
            under_way.append(asyncio.ensure_future(sending))
        await meanwhile
        return Seen(list(await asyncio.gather(*under_way)))


def _session(url: str) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        url,
        timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S),
        connector=aiohttp.TCPConnector(limit=0),
    )


def _requests(documents: list[str], doomed: list[str]) -> Iterator[tuple[str, Request]]:
    """Without end."""
    reads, deletes, keys = cycle(documents), cycle(doomed), count()
    run = time.monotonic_ns()
    for kind in cycle(MIX):
        if kind == "read":
            yield kind, ("GET", next(reads), {})
        elif kind == "delete":
            yield kind, ("DELETE", next(deletes), {})
        else:
            key = {"Idempotency-Key": f"{run}-{next(keys)}"} if kind == "keyed" else {}
            yield kind, ("POST", "/documents", key)


async def _create(session: aiohttp.ClientSession) -> str:
    async with session.post("/documents?w=quorum", json=_CONTENT) as answer:
        answer.raise_for_status()
        return answer.headers["Location"]


async def _send(
    session: aiohttp.ClientSession, kind: str, request: Request, started_s: float
) -> Sent:
    method, path, headers = request
    body = _CONTENT if method == "POST" else None
    sent_s = time.monotonic()
    status = None
    try:
        async with session.request(method, path, headers=headers, json=body) as answer:
            words = await answer.text()
            status = answer.status
    except (aiohttp.ClientError, TimeoutError) as error:
        words = repr(error)
    return Sent(kind, sent_s - started_s, time.monotonic() - sent_s, status, words)
