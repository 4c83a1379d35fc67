"""Copies that are kept, but never merged or served, until their document's owners have been asked.

Rules
-----
1. A late copy (``kvnode.lifecycle``) is ASKED about. When an owner knows the document, the copy is
   merged after all; when every owner says that it has nothing, it is an ORPHAN.
2. An orphan stays, counted and listed, until an operator decides. It is evidence: of a disk that
   was restored from a backup, or of a bug.
"""

import struct
from enum import IntEnum
from typing import Final, Literal

import msgspec

from cluster.ids import DocumentId
from kvnode.ports import Clock, Engine
from kvnode.storage.keys import QUARANTINE_PREFIX, document_id_of, prefix_stop, quarantine_key

_HEAD: Final = struct.Struct(">QB")
_SCAN: Final = 1000


class State(IntEnum):
    """What is known of a copy. The numbers are on disk."""

    ASKED = 0
    ORPHAN = 1


class Suspect(msgspec.Struct, frozen=True):
    """A copy in quarantine."""

    document_id: DocumentId
    held_at_ms: int
    state: State
    encoded: bytes


class Quarantine:
    """One node's suspects."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock
        #: How many there are of each state.
        self.counts = dict.fromkeys(State, 0)

    def restore(self) -> None:
        """Count what is in the database; once, at start."""
        after = b""
        while suspects := self.suspects(after, _SCAN):
            for suspect in suspects:
                self.counts[suspect.state] += 1
            after = suspects[-1].document_id

    def hold(self, document_id: bytes, encoded: bytes) -> None:
        """Keep a copy, in the batch that is being gathered, unless one is held already."""
        if self._engine.latest(quarantine_key(document_id)) is None:
            self._put(document_id, self._clock.wall_ms(), State.ASKED, encoded)
            self.counts[State.ASKED] += 1

    def suspects(self, after: bytes, limit: int) -> list[Suspect]:
        """Durable ones, in key order, behind the id ``after``."""
        start = quarantine_key(after) + b"\x00" if after else QUARANTINE_PREFIX
        found, _ = self._engine.salvage(start, prefix_stop(QUARANTINE_PREFIX), limit)
        return [
            Suspect(
                document_id_of(key),
                _HEAD.unpack_from(value)[0],
                State(value[_HEAD.size - 1]),
                value[_HEAD.size :],
            )
            for key, value in found
        ]

    def state_of(self, document_id: bytes) -> Literal["asked", "orphan"] | None:
        """Of the durable copy of a document, if there is one that can be read."""
        key = quarantine_key(document_id)
        found, _ = self._engine.salvage(key, key + b"\x00", 1)
        if not found:
            return None
        return "orphan" if State(found[0][1][_HEAD.size - 1]) is State.ORPHAN else "asked"

    def condemn(self, suspect: Suspect) -> None:
        """No owner knows its document."""
        self._put(suspect.document_id, suspect.held_at_ms, State.ORPHAN, suspect.encoded)
        self.counts[suspect.state] -= 1
        self.counts[State.ORPHAN] += 1

    def release(self, suspect: Suspect) -> None:
        """An owner knows its document, or an operator has decided: it is held no longer."""
        self._engine.delete(quarantine_key(suspect.document_id))
        self.counts[suspect.state] -= 1

    def _put(self, document_id: bytes, held_at_ms: int, state: State, encoded: bytes) -> None:
        self._engine.put(quarantine_key(document_id), _HEAD.pack(held_at_ms, state) + encoded)
