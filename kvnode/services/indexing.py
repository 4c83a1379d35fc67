"""After a start: show every stored id to ``kvnode.presence``, a stretch at a time."""

from typing import Final

from kvnode.records import RecordStore
from kvnode.services.loop import Work

#: Records a unit of work reads: a few milliseconds.
_UNIT_RECORDS: Final = 500


class Indexing:
    """A service (``kvnode.services.loop``) that ends once it is through."""

    name = "indexing"
    interval_s = 0.25

    def __init__(self, records: RecordStore) -> None:
        self._records = records

    async def run_once(self) -> Work:
        """Read a stretch."""
        return Work.BUSY if self._records.index_some(_UNIT_RECORDS) else Work.OVER
