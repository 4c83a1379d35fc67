"""Clients with session tokens, and the judgement of what they are told.

Rules
-----
I13  Monotonic reads: once a session was shown a document, it is not told that there is none, nor
     shown an older one; once it was told that a document is deleted, it is not shown it.
I14  Read your writes: the same after its own creates and deletes. An error that may be retried is
     no answer, so it breaks neither.

What was purged, has expired, or was last on a disk that a fault destroyed may be absent.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from math import inf
from random import Random
from typing import Final

from cluster.ids import DocumentId
from docservice.documents import Created, DocumentDeleted, DocumentNotFound, Found
from kvnode.errors import KeyDeleted, StoreError
from kvnode.record import Create, Record, Sighting
from kvnode.results import Stored
from tests.simulation.checks import created_after, expired_s
from tests.simulation.clients import SimSession, id_of_key
from tests.simulation.cluster import SimCluster
from tests.simulation.history import NoAnswer, Operation
from tests.simulation.invariants import DiskWatch, Violation

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
    """Clients that carry tokens from machine to machine, and ask each for one replica's word.

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


def judge_sessions(history: list[Operation], watch: DiskWatch) -> Iterator[Violation]:
    """Everything that a session was told and must not be."""
    for op in history:
        for before in op.heard_before:
            if before.document_id == op.document_id is not None:
                broken = _older(before, op, watch)
                if broken:
                    rule = "I13" if isinstance(before.answer, Found | StoreError) else "I14"
                    yield Violation(rule, f"{broken}: {op}, after {before}", op.document_id)


def _older(before: Operation, op: Operation, watch: DiskWatch) -> str | None:
    """What is wrong with an answer after an earlier one, None when nothing is."""
    assert op.document_id is not None
    assert op.answered_s is not None or op.answer is None
    purged_s = watch.purged_s.get(op.document_id, inf)
    over_s = min(purged_s, expired_s(op, watch)[0])
    shown = _shown(before)
    if shown is not None:
        if isinstance(op.answer, DocumentNotFound):
            excused = op.document_id in watch.atlas.lost or (op.answered_s or 0) >= over_s
            return None if excused else "absent"
        if isinstance(op.answer, Found):
            create = op.answer.create
            sighting = Sighting(shown.created_at_ms, shown.checksum[: Sighting.HEAD_BYTES])
            newer = sighting.is_in(Record(create)) or created_after(create, purged_s)
            return None if newer else "an older document"
    gone = isinstance(before.answer, DocumentDeleted | KeyDeleted | Stored)
    if gone and isinstance(op.answer, Found):
        return None if created_after(op.answer.create, purged_s) else "it was deleted"
    return None


def _shown(operation: Operation) -> Create | None:
    answer = operation.answer
    return answer.create if isinstance(answer, Created | Found) else None
