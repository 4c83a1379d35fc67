"""Telling without a look at the disk that a new document's id is not there yet.

Every create asks for a key that is absent, on every replica. That is the dearest question that
LevelDB knows: it looks through each level, and counts the useless look into the first table against
that table, which after 128 of them is compacted. With three nodes and W=1 these compactions took
more than half of the CPU time of a create, and more the larger the database.

Rules
-----
1. Only "surely absent" is ever concluded. Whatever is not certain is looked up.
2. An id of version 7 says when it was minted. One that was minted later than every stored record
   when this process started, and was not stored since, is not stored.
3. What was stored since is remembered in two generations; when the older one is dropped, "later
   than" moves up to the latest id that was in it.
4. Any other id comes from an idempotency key and says nothing about time. Those that are stored are
   in a Bloom filter, which counts only once everything stored at the start has been put into it.

Source: Bloom, "Space/time trade-offs in hash coding with allowable errors", CACM 13(7), 1970;
Almeida et al., "Scalable Bloom Filters", 2007 (a row of filters, each larger than the one before).
"""

from typing import Final

#: Ids in a generation: several seconds of creates at full speed, in some 5 MiB.
GENERATION_IDS: Final = 65_536
#: Ids in the first filter of the row; each further one has room for twice as many.
FILTER_IDS: Final = 65_536
_VERSION: Final = 7
#: The first bytes of a version-7 id are the milliseconds at which it was minted, big-endian.
_MINTED_BYTES: Final = 6
#: The last id of a millisecond ends with this.
_LAST: Final = b"\xff" * 10
#: Two bytes an id: one look-up in 400 is for nothing.
_BITS_PER_ID: Final = 16
_PROBES: Final = 4


class Presence:
    """Which ids may be stored.

    Args:
        newest_ms: No stored record's id of version 7 was minted later than this.
    """

    def __init__(
        self,
        newest_ms: int,
        *,
        generation_ids: int = GENERATION_IDS,
        filter_ids: int = FILTER_IDS,
    ) -> None:
        self._generation_ids = generation_ids
        # Ids are compared whole: their order is that of minting.
        self._newest = self._floor = newest_ms.to_bytes(_MINTED_BYTES, "big") + _LAST
        self._young: set[bytes] = set()
        self._old: set[bytes] = set()
        self._filters = [_Filter(filter_ids)]
        #: Whether all that was stored at the start has been shown to ``add_stored``.
        self.complete = False

    @property
    def newest_ms(self) -> int:
        """When the newest id of all stored records was minted."""
        return int.from_bytes(self._newest[:_MINTED_BYTES], "big")

    def surely_absent(self, document_id: bytes) -> bool:
        """Whether no record is stored under an id, without asking the engine."""
        if document_id[6] >> 4 == _VERSION:
            return (
                document_id > self._floor
                and document_id not in self._young
                and document_id not in self._old
            )
        return self.complete and not any(
            filter_.may_hold(document_id) for filter_ in reversed(self._filters)
        )

    def add(self, document_id: bytes) -> None:
        """A record is being stored under an id for the first time."""
        if document_id[6] >> 4 != _VERSION:
            self.add_stored(document_id)
            return
        if document_id <= self._floor:
            return
        self._newest = max(self._newest, document_id)
        self._young.add(document_id)
        if len(self._young) >= self._generation_ids:
            if self._old:
                # Ids don't arrive in their order: the floor may be beyond all of these already.
                self._floor = max(self._floor, max(self._old)[:_MINTED_BYTES] + _LAST)
            self._young, self._old = set(), self._young

    def add_stored(self, document_id: bytes) -> None:
        """An id that was found in the database; of version 7 they need not be known."""
        if document_id[6] >> 4 == _VERSION:
            return
        newest = self._filters[-1]
        if newest.room == 0:
            newest = _Filter(2 * newest.capacity)
            self._filters.append(newest)
        newest.add(document_id)


class _Filter:
    """A Bloom filter. The ids are hashes themselves, so their bits serve as hash values."""

    __slots__ = ("_bits", "_mask", "capacity", "room")

    def __init__(self, capacity: int) -> None:
        assert capacity & (capacity - 1) == 0, "a power of two"
        self.capacity = self.room = capacity
        self._bits = bytearray(capacity * _BITS_PER_ID // 8)
        self._mask = capacity * _BITS_PER_ID - 1

    def add(self, document_id: bytes) -> None:
        bits, mask = self._bits, self._mask
        at = int.from_bytes(document_id[8:], "big")
        step = int.from_bytes(document_id[:6], "big") | 1
        for _ in range(_PROBES):
            at &= mask
            bits[at >> 3] |= 1 << (at & 7)
            at += step
        self.room -= 1

    def may_hold(self, document_id: bytes) -> bool:
        bits, mask = self._bits, self._mask
        at = int.from_bytes(document_id[8:], "big")
        step = int.from_bytes(document_id[:6], "big") | 1
        for _ in range(_PROBES):
            at &= mask
            if not bits[at >> 3] >> (at & 7) & 1:
                return False
            at += step
        return True
