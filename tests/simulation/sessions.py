"""Clients with session tokens, which ask any machine for one replica's word."""

import asyncio
import contextlib
from random import Random
from typing import Final

from cluster.ids import DocumentId
from docservice.documents import DocumentDeleted, DocumentNotFound
from kvnode.errors import StoreError
from scripts.checker.history import NoAnswer, Operation
from tests.simulation.clients import SimSession, id_of_key
from tests.simulation.cluster import SimCluster

_CLIENTS: Final = 3
#: Requests of one session. Its token has room for more documents than that.
_SESSION_REQUESTS: Final = 25
_THINK_S: Final = (0.0, 0.2)
#: Of all ids that clients have heard of, so many of the latest are asked for.
_STRANGERS: Final = 10
_KEYS: Final = 3
_BODIES: Final = 2
_LIVES_S: Final = [2, 4, 8, 1000]
_MIX: Final = {
    "create": 4,
    "keyed": 2,
    "ending": 1,
    "again": 8,
    "known": 4,
    "other": 3,
    "delete": 2,
}


class Sessions:
    """Clients that carry tokens from machine to machine.

    Args:
        chance: A stream of their own: what others do is not drawn anew because of them.
    """

    def __init__(self, cluster: SimCluster, chance: Random) -> None:
        self._cluster = cluster
        self._chance = chance
        self._contents = 0
        self._stopped = False
        #: All that there were.
        self.all: list[SimSession] = []

    async def run(self) -> None:
        """Return when ``stop`` was called and every client has heard its last answer."""
        await asyncio.gather(*(self._client() for _ in range(_CLIENTS)))

    def stop(self) -> None:
        """Let every client finish what it waits for."""
        self._stopped = True

    async def reads_all(self) -> None:
        """Every session can read what it knows of, or is told that it is deleted."""
        for session in self.all:
            for document_id in dict.fromkeys(op.document_id for op in session.heard):
                if document_id is not None:
                    via = self._chance.choice(list(self._cluster.machines))
                    with contextlib.suppress(DocumentDeleted, DocumentNotFound):
                        await self._cluster.read(via, document_id, session=session)

    async def _client(self) -> None:
        session = SimSession()
        while not self._stopped:
            if len(session.heard) % _SESSION_REQUESTS == 0:
                session = SimSession(len(self.all) + 1)
                self.all.append(session)
            with contextlib.suppress(StoreError, NoAnswer):  # the history has them
                await self._call(session)
            await asyncio.sleep(self._chance.uniform(*_THINK_S))

    async def _call(self, session: SimSession) -> None:
        cluster, chance = self._cluster, self._chance
        (kind,) = chance.choices(list(_MIX), list(_MIX.values()))
        via = chance.choice(list(cluster.machines))
        timeout_s = chance.choice([0.3, 1.0])
        match kind:
            case "create" | "ending":
                self._contents += 1
                content = f"of a session, {self._contents}"
                ttl_s = chance.choice(_LIVES_S) if kind == "ending" else None
                await cluster.create(
                    via, content, ttl_s=ttl_s, timeout_s=timeout_s, session=session
                )
            case "keyed":
                key = f"of sessions {int(cluster.loop.time() / 4)}.{chance.randrange(_KEYS)}"
                body = f"{key}, body {chance.randrange(_BODIES)}"
                await cluster.create(via, body, key=key, timeout_s=timeout_s, session=session)
            case "delete":
                document_id = self._heard_of(session.heard)
                await cluster.delete(via, document_id, timeout_s=timeout_s, session=session)
            case _:
                among = {
                    "again": session.heard[-1:],
                    "known": session.heard,
                    "other": cluster.history[-_STRANGERS:],
                }
                document_id = self._heard_of(among[kind])
                await cluster.read(via, document_id, timeout_s=timeout_s, session=session)

    def _heard_of(self, operations: list[Operation]) -> DocumentId:
        known = [op.document_id for op in operations if op.document_id is not None]
        return self._chance.choice(known or [id_of_key("never used")])
