"""Random requests of several clients at once.

Rules
-----
1. Clients are of no help to the cluster: any machine, any level, repeated keys with the same and
   with other bodies, reads and deletes of ids whose create nobody answered.
2. A key is used in the strong mode only or in the weak mode only: they promise different things.
3. Every content belongs to one create without a key, or to one body of one key.
"""

import asyncio
import contextlib
from collections.abc import Mapping
from random import Random
from typing import Final, Protocol, TypedDict

from cluster.ids import DocumentId
from docservice.documents import Created, Found
from kvnode.errors import StoreError
from kvnode.results import Stored
from scripts.checker.history import NoAnswer, Operation

#: How long a key is in use. Shorter than deletions are remembered: after that it is free again.
_KEY_LASTS_S: Final = 4.0
_BODIES: Final = 2
_KNOWN_MAX: Final = 40
#: Relative frequencies. "ending" creates have a time to live, "revisit" reads any id ever heard of.
MIX: Final = {
    "create": 6,
    "strong": 2,
    "race": 2,
    "weak": 2,
    "read": 9,
    "delete": 2,
    "stranger": 1,
}
SHORT_LIVES: Final = {**MIX, "create": 4, "ending": 3, "delete": 5, "revisit": 4}
_LIVES_S: Final = [2, 4, 8, 16, 1000]


class Asked(Protocol):
    """A cluster and the history of what it was asked. Its calls raise StoreError or NoAnswer."""

    @property
    def machines(self) -> Mapping[str, object]:
        """What can be asked, by name."""

    @property
    def history(self) -> list[Operation]:
        """All that was asked."""

    def now_s(self) -> float:
        """The time of the history."""

    def id_of_key(self, key: str) -> DocumentId:
        """The id that an idempotency key gives."""

    async def create(
        self,
        via: str,
        content: str,
        *,
        key: str | None = None,
        ttl_s: int | None = None,
        write: int = 1,
        sloppy: bool = True,
        timeout_s: float = 2.0,
    ) -> Created:
        """Create a document through a machine."""

    async def read(
        self,
        via: str,
        document_id: DocumentId,
        *,
        read: int = 1,
        sloppy: bool = True,
        timeout_s: float = 2.0,
    ) -> Found:
        """Read a document through a machine."""

    async def delete(
        self,
        via: str,
        document_id: DocumentId,
        *,
        write: int = 1,
        sloppy: bool = True,
        timeout_s: float = 2.0,
    ) -> Stored:
        """Delete a document through a machine."""


class How(TypedDict):
    """What a request asks for besides its level."""

    sloppy: bool
    timeout_s: float


class Workload:
    """Clients that go on until they are told to stop.

    Args:
        mix: What is asked for, and how often.
    """

    #: At work at once.
    clients = 4
    #: Of one mode, in use at once.
    keys = 2
    #: Between two requests of a client.
    think_s = (0.0, 0.25)
    timeouts_s: tuple[float, ...] = (0.3, 1.0, 2.0)

    def __init__(self, cluster: Asked, chance: Random, mix: Mapping[str, int] = MIX) -> None:
        self._mix = mix
        self._cluster = cluster
        self._chance = chance
        self._contents = 0
        self._stopped = False

    async def run(self) -> None:
        """Return when ``stop`` was called and every client has heard its last answer."""
        await asyncio.gather(*(self._client() for _ in range(self.clients)))

    def stop(self) -> None:
        """Let every client finish what it waits for."""
        self._stopped = True

    async def _client(self) -> None:
        kinds, weights = list(self._mix), list(self._mix.values())
        while not self._stopped:
            (kind,) = self._chance.choices(kinds, weights)
            match kind:
                case "race":
                    await asyncio.gather(self._request("strong"), self._request("strong"))
                case _:
                    await self._request(kind)
            await asyncio.sleep(self._chance.uniform(*self.think_s))

    async def _request(self, kind: str) -> None:
        with contextlib.suppress(StoreError, NoAnswer):  # the history has them
            await self._call(kind)

    async def _call(self, kind: str) -> None:
        cluster, chance = self._cluster, self._chance
        via = self._via()
        level, sloppy = chance.randint(1, 3), chance.random() < 0.6
        how: How = {"sloppy": sloppy, "timeout_s": chance.choice(self.timeouts_s)}
        match kind:
            case "create" | "ending":
                self._contents += 1
                content = self._content(self._contents)
                ttl_s = chance.choice(_LIVES_S) if kind == "ending" else None
                await cluster.create(via, content, ttl_s=ttl_s, write=level, **how)
            case "strong" | "weak":
                era = int(cluster.now_s() / _KEY_LASTS_S)
                key = f"{kind} {era}.{chance.randrange(self.keys)}"
                body = f"{key}, body {chance.randrange(_BODIES)}"
                write = max(level, 2) if kind == "strong" else 1
                await self._create_keyed(via, body, key, write, how)
            case "delete":
                await cluster.delete(via, self._known(), write=level, **how)
            case "read":
                await cluster.read(via, self._known(), read=level, **how)
            case "revisit":
                known = self._known(len(cluster.history))
                await cluster.read(via, known, read=level, **how)
            case "stranger":
                await cluster.read(via, DocumentId(chance.randbytes(16)), read=level, **how)

    async def _create_keyed(self, via: str, body: str, key: str, write: int, how: "How") -> None:
        await self._cluster.create(via, body, key=key, write=write, **how)

    def _via(self) -> str:
        return self._chance.choice(list(self._cluster.machines))

    def _content(self, number: int) -> str:
        return f"document {number}"

    def _known(self, among: int = _KNOWN_MAX) -> DocumentId:
        """An id that a client has heard of in one of its last requests."""
        ids = [op.document_id for op in self._cluster.history[-among:]]
        known = [document_id for document_id in ids if document_id is not None]
        return self._chance.choice(known or [self._cluster.id_of_key("never used")])
