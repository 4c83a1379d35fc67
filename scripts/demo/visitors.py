"""Clients in both regions, at work while things break.

Each creates in its own region and looks at once in the other one: without its session's token, to
see what asynchronous replication shows by itself, and with it. Now and then it deletes, and looks
again. All go through the package's own client, so what it repeats by itself is no failure.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import AsyncExitStack
from itertools import cycle
from typing import Final, TypeVar

import msgspec

from docservice.client import AsyncClient, Session, SteleError
from docservice.client.errors import Deleted, NotFound

_PER_REGION: Final = 2
_PAUSE_S: Final = 0.15
_DEADLINE_S: Final = 5.0
#: Of the rounds, each how manyth ends with a deletion.
_DELETES: Final = 5
T = TypeVar("T")


class Tally(msgspec.Struct):
    """What clients saw in some time."""

    requests: int = 0
    #: By the error's name; "not found" and "deleted" are answers.
    failed: Counter[str] = msgspec.field(default_factory=Counter)
    retried: int = 0
    slowest_s: float = 0.0
    #: Reads in the other region that showed less than this client had been told before.
    stale_without_token: int = 0
    stale_with_token: int = 0

    def add(self, other: "Tally") -> None:
        """Both together."""
        self.requests += other.requests
        self.failed += other.failed
        self.retried += other.retried
        self.slowest_s = max(self.slowest_s, other.slowest_s)
        self.stale_without_token += other.stale_without_token
        self.stale_with_token += other.stale_with_token


class Visitors:
    """Some clients in each region. ``async with`` opens and closes their connections.

    Args:
        urls: By region, where its clients connect.
        contents: What they write.
    """

    def __init__(self, urls: Mapping[str, Sequence[str]], contents: Sequence[str]) -> None:
        self.clients = {
            region: AsyncClient(urls, region=region, deadline_s=_DEADLINE_S) for region in urls
        }
        self._contents = cycle(contents)
        self._connected = AsyncExitStack()
        self._tally = Tally()
        self._retries_taken = 0
        #: Every document whose create or deletion was acknowledged, or may have been carried out.
        self.documents: dict[str, None] = {}

    async def __aenter__(self) -> "Visitors":
        for client in self.clients.values():
            await self._connected.enter_async_context(client)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._connected.aclose()

    def take(self) -> Tally:
        """What they saw since this was asked last."""
        taken, self._tally = self._tally, Tally()
        retries = sum(client.retry_count for client in self.clients.values())
        taken.retried, self._retries_taken = retries - self._retries_taken, retries
        return taken

    async def work(self) -> None:
        """Until it is cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for home, client in self.clients.items():
                (away,) = (its for region, its in self.clients.items() if region != home)
                for _ in range(_PER_REGION):
                    tasks.create_task(self._work(client, away))

    async def _work(self, home: AsyncClient, away: AsyncClient) -> None:
        doomed = ""
        with home.session() as session:
            for number in cycle(range(_DELETES)):
                created = await self._ask(home.create(next(self._contents)))
                if not isinstance(created, SteleError):
                    self.documents[created.id] = None
                    await self._look(away, session, created.id, NotFound)
                    doomed = doomed or created.id
                if doomed and number == _DELETES - 1:
                    deleted = await self._ask(home.delete(doomed))
                    if not isinstance(deleted, SteleError):
                        await self._look(away, session, doomed, None)
                    doomed = ""
                await asyncio.sleep(_PAUSE_S)

    async def _look(
        self, away: AsyncClient, session: Session, document_id: str, stale: type[SteleError] | None
    ) -> None:
        """Read in the other region; ``stale`` is what must not be seen, None: a document."""

        def is_stale(found: object) -> bool:
            return not isinstance(found, SteleError) if stale is None else isinstance(found, stale)

        blind = await self._ask(away.get(document_id))
        with away.session(session.token):
            knowing = await self._ask(away.get(document_id))
        self._tally.stale_without_token += is_stale(blind)
        self._tally.stale_with_token += is_stale(knowing)

    async def _ask(self, request: Awaitable[T]) -> T | SteleError:
        began_s = time.perf_counter()
        try:
            return await request
        except (NotFound, Deleted) as answer:
            return answer
        except SteleError as error:
            self._tally.failed[type(error).__name__] += 1
            return error
        finally:
            self._tally.requests += 1
            self._tally.slowest_s = max(self._tally.slowest_s, time.perf_counter() - began_s)
