"""Keys that were given two bodies, and which of the two is gone: one may be somebody's work.

Rules
-----
1. Where replicas meet with two creates under one id, the lattice decides (``kvnode.record``). The
   replica that met with the loser keeps a row of it, in the batch of what it stores, without
   content and without the key.
2. The same two bodies are met with again and again, by hints, repairs and comparisons. They are one
   conflict for this replica, as long as the row is kept.
3. The newest ROWS_MAX rows are kept.
"""

import struct
from typing import Final

import msgspec

from cluster.ids import DocumentId, format_document_id
from kvnode.ports import Clock, Engine
from kvnode.record import Create
from kvnode.storage.keys import CONFLICT_PREFIX, conflict_key, conflict_number_of
from kvnode.storage.ranges import readable_with

ROWS_MAX: Final = 1000
_PREFIX_BYTES: Final = 8
_ROW: Final = struct.Struct(">16sQQ8sQ8s")


class Conflict(msgspec.Struct, frozen=True):
    """One row. The fingerprints' first bytes tell bodies apart, and nothing of what is in them."""

    document_id: DocumentId
    met_at_ms: int
    kept_created_at_ms: int
    kept_fingerprint: bytes
    lost_created_at_ms: int
    lost_fingerprint: bytes

    @property
    def bodies(self) -> tuple[bytes, bytes, bytes]:
        """Rule 2."""
        return self.document_id, self.kept_fingerprint, self.lost_fingerprint


def conflict_words(conflict: Conflict) -> dict[str, str | int]:
    """A row for people: the log's and the operations listener's."""
    return {
        "document": format_document_id(conflict.document_id),
        "met_at_ms": conflict.met_at_ms,
        "kept_created_at_ms": conflict.kept_created_at_ms,
        "kept_fingerprint": conflict.kept_fingerprint.hex(),
        "lost_created_at_ms": conflict.lost_created_at_ms,
        "lost_fingerprint": conflict.lost_fingerprint.hex(),
    }


class Conflicts:
    """Those that one replica has met with."""

    def __init__(self, engine: Engine, clock: Clock, rows_max: int = ROWS_MAX) -> None:
        self._engine = engine
        self._clock = clock
        self._rows_max = rows_max
        #: By number, oldest first.
        self._rows: dict[int, Conflict] = {}
        self._known: dict[tuple[bytes, bytes, bytes], None] = {}
        self._next = 0
        #: Since the start.
        self.count = 0

    def restore(self) -> None:
        """Take up what is in the database; once, at start. What can't be read is left out."""
        for key, value in readable_with(self._engine, CONFLICT_PREFIX):
            number = conflict_number_of(key)
            self._take(number, Conflict(*_ROW.unpack(value)))
            self._next = number + 1

    def meet(self, document_id: bytes, kept: Create, lost: Create) -> Conflict | None:
        """Note that ``lost`` gave way to ``kept``; None: that is known."""
        conflict = Conflict(
            DocumentId(document_id),
            self._clock.wall_ms(),
            kept.created_at_ms,
            kept.fingerprint[:_PREFIX_BYTES],
            lost.created_at_ms,
            lost.fingerprint[:_PREFIX_BYTES],
        )
        if conflict.bodies in self._known:
            return None
        self._take(self._next, conflict)
        self._engine.put(conflict_key(self._next), _ROW.pack(*msgspec.structs.astuple(conflict)))
        self._next += 1
        self.count += 1
        while len(self._rows) > self._rows_max:
            oldest = next(iter(self._rows))
            del self._known[self._rows.pop(oldest).bodies]
            self._engine.delete(conflict_key(oldest))
        return conflict

    def newest(self, limit: int) -> list[Conflict]:
        """The newest first."""
        return list(self._rows.values())[: -limit - 1 : -1]

    def __len__(self) -> int:
        return len(self._rows)

    def _take(self, number: int, conflict: Conflict) -> None:
        self._rows[number] = conflict
        self._known[conflict.bodies] = None
