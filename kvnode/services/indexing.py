"""After a start: show every stored id to ``kvnode.presence``, a stretch at a time."""

import asyncio
from typing import Final

from kvnode.replica import Replica

#: Records a unit of work reads: a few milliseconds.
_UNIT_RECORDS: Final = 500


class Indexing:
    """A service (``kvnode.services.loop``); it has nothing to do once it is through."""

    name = "indexing"
    interval_s = 0.25

    def __init__(self, replica: Replica) -> None:
        self._replica = replica

    async def run_once(self) -> None:
        """Read for as long as others are let through between two stretches."""
        more = True
        while more:
            more = self._replica.index_some(_UNIT_RECORDS)
            await asyncio.sleep(0)
