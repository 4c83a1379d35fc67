"""The clients of a chaos run: those of the simulation, with habits of real ones.

Rules
-----
1. A client stays with one node. It moves when that one disappoints it, and now and then anyway.
2. A keyed create whose outcome is unknown is asked again, with the same key and body, through
   whatever node the client is at by then. Without a key it is never asked again.
"""

import contextlib
from random import Random
from typing import Final

from cluster.ids import DocumentId
from kvnode.errors import StoreError, Unavailable, WriteTimeout
from scripts.checker.history import NoAnswer
from scripts.checker.workload import SHORT_LIVES, Asked, How, Workload

#: Chance to move after a request that went well.
_MOVES: Final = 0.01
_TRIES: Final = 3
#: Lengths of contents; the last is the longest that there is.
_LENGTHS: Final = (0, 100, 300, 1_000, 2_000)
#: Operations among whose documents a client chooses.
_RECENT: Final = 400
#: Many of them may be creates that nobody answered.
_LOOKS: Final = 10


class Habits(Workload):
    """One client.

    Args:
        name: No other client's: its contents start with it.
        rate: Requests a second that it makes when they are answered at once.
    """

    clients = 1
    keys = 8
    timeouts_s = (1.0, 2.0)

    def __init__(self, cluster: Asked, chance: Random, name: str, rate: float) -> None:
        super().__init__(cluster, chance, SHORT_LIVES)
        self.think_s = (0.0, 2.0 / rate)
        self._name = name
        self._home = chance.choice(list(cluster.machines))

    def _via(self) -> str:
        if self._chance.random() < _MOVES:
            self._move()
        return self._home

    def _move(self) -> None:
        others = [name for name in self._cluster.machines if name != self._home]
        self._home = self._chance.choice(others)

    async def _request(self, kind: str) -> None:
        try:
            await self._call(kind)
        except (NoAnswer, Unavailable):
            self._move()
        except StoreError:
            pass  # the history has it

    async def _create_keyed(self, via: str, body: str, key: str, write: int, how: How) -> None:
        for _ in range(_TRIES - 1):
            with contextlib.suppress(NoAnswer, WriteTimeout):
                await self._cluster.create(via, body, key=key, write=write, **how)
                return
            self._move()
            via = self._home
        await self._cluster.create(via, body, key=key, write=write, **how)

    def _content(self, number: int) -> str:
        text = f"{self._name}, document {number} "
        return text.ljust(self._chance.choice(_LENGTHS), "·.-="[number % 4])[:1_000]

    def _known(self, among: int = _RECENT) -> DocumentId:
        """Without a look at each of a long history's operations."""
        history = self._cluster.history
        for _ in range(_LOOKS if history else 0):
            back = self._chance.randint(1, min(max(among, _RECENT), len(history)))
            document_id = history[-back].document_id
            if document_id is not None:
                return document_id
        return self._cluster.id_of_key("never used")
