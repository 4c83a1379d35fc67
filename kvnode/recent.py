"""Telling without a look at the disk that a newly minted id is not there yet.

Every create asks for a key that is absent, on every replica. That is the dearest question that
LevelDB knows: it looks through each level, and counts the useless look into the first table against
that table, which after 128 of them is compacted. With three nodes and W=1 these compactions took
more than half of the CPU time of a create, and more the larger the database.

Rules
-----
1. An id of version 7 says when it was minted. One that was minted later than every stored record
   when this process started, and was not stored since, is not stored.
2. What was stored since is remembered in two generations; when the older one is dropped, "later
   than" moves up to the latest id that was in it.
3. Only "surely absent" is ever concluded. Whatever is not certain is looked up.
"""

from typing import Final

#: Ids in a generation: several seconds of creates at full speed, in some 5 MiB.
GENERATION_IDS: Final = 65_536
_VERSION: Final = 7
#: The first bytes of a version-7 id are the milliseconds at which it was minted, big-endian.
_MINTED_BYTES: Final = 6
#: The last id of a millisecond ends with this.
_LAST: Final = b"\xff" * 10


class RecentIds:
    """The ids of records that were stored since the start, as far as they are needed.

    Args:
        newest_ms: No stored record's id of version 7 was minted later than this.
    """

    def __init__(self, newest_ms: int, generation_ids: int = GENERATION_IDS) -> None:
        self._generation_ids = generation_ids
        # Ids are compared whole: their order is that of minting.
        self._newest = self._floor = newest_ms.to_bytes(_MINTED_BYTES, "big") + _LAST
        self._young: set[bytes] = set()
        self._old: set[bytes] = set()

    @property
    def newest_ms(self) -> int:
        """When the newest id of all stored records was minted."""
        return int.from_bytes(self._newest[:_MINTED_BYTES], "big")

    def surely_absent(self, document_id: bytes) -> bool:
        """Whether no record is stored under an id, without asking the engine."""
        return (
            document_id > self._floor
            and document_id[6] >> 4 == _VERSION
            and document_id not in self._young
            and document_id not in self._old
        )

    def add(self, document_id: bytes) -> None:
        """A record is being stored under an id for the first time."""
        if document_id <= self._floor or document_id[6] >> 4 != _VERSION:
            return
        self._newest = max(self._newest, document_id)
        self._young.add(document_id)
        if len(self._young) >= self._generation_ids:
            if self._old:
                # Ids don't arrive in their order: the floor may be beyond all of these already.
                self._floor = max(self._floor, max(self._old)[:_MINTED_BYTES] + _LAST)
            self._young, self._old = set(), self._young
