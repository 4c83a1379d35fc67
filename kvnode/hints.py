"""Keeping account of hints: how many, for whom, and what became of each.

Rules
-----
1. created = delivered + superseded + dropped + held, always: a hint never vanishes unaccounted.
2. A hint is kept only within the caps (bytes per target, bytes overall). One that is not kept is
   counted as dropped; its document is then healed by read repair and anti-entropy.
3. A hint older than the window is dropped: its target is away so long that a comparison of whole
   ranges is cheaper than the backlog.

The bytes are the engine's; this file only counts them.
"""

from typing import Final, Literal

import msgspec

from cluster.ids import NodeId
from cluster.settings import HintSettings

HELD_AT_BYTES: Final = 8

#: Why a hint is held no longer.
Fate = Literal["delivered", "expired", "corrupt"]


class TargetHints(msgspec.Struct):
    """What is held for one target."""

    count: int = 0
    size_bytes: int = 0


class HintBook:
    """Counts of one node's hints; rebuilt from the database at start by ``restore``."""

    def __init__(self, settings: HintSettings) -> None:
        self._settings = settings
        self._targets: dict[NodeId, TargetHints] = {}
        self.created = 0
        self.delivered = 0
        self.superseded = 0
        self.dropped: dict[str, int] = {"overflow": 0, "expired": 0, "corrupt": 0}
        self.held_bytes = 0

    @property
    def held(self) -> int:
        """Hints in the database now."""
        return sum(target.count for target in self._targets.values())

    def targets(self) -> list[tuple[NodeId, TargetHints]]:
        """Targets that something is held for, in the order in which they were first missed."""
        return [(node, hints) for node, hints in self._targets.items() if hints.count]

    def has_room(self, target: NodeId, size_bytes: int) -> bool:
        """Whether a hint of this size may be kept; see rule 2."""
        held = self._targets.get(target)
        target_bytes = size_bytes + (held.size_bytes if held is not None else 0)
        return (
            target_bytes <= self._settings.target_bytes_max
            and self.held_bytes + size_bytes <= self._settings.total_bytes_max
        )

    def restore(self, target: NodeId, size_bytes: int) -> None:
        """A hint found in the database at start."""
        self.created += 1
        self._add(target, 1, size_bytes)

    def keep(self, target: NodeId, size_bytes: int, replaced_bytes: int | None) -> None:
        """A hint was put; ``replaced_bytes`` is the size of the one it took the place of."""
        self.created += 1
        if replaced_bytes is None:
            self._add(target, 1, size_bytes)
        else:
            self.superseded += 1
            self._add(target, 0, size_bytes - replaced_bytes)

    def refuse(self) -> None:
        """A hint was not kept: over a cap."""
        self.created += 1
        self.dropped["overflow"] += 1

    def release(self, target: NodeId, size_bytes: int, fate: Fate) -> None:
        """The hint was deleted: the target has it on disk, or it was given up."""
        if fate == "delivered":
            self.delivered += 1
        else:
            self.dropped[fate] += 1
        self._add(target, -1, -size_bytes)

    def expired(self, held_at_ms: int, now_ms: int) -> bool:
        """Whether a hint's window has passed."""
        return now_ms - held_at_ms > self._settings.window_s * 1000

    def _add(self, target: NodeId, count: int, size_bytes: int) -> None:
        held = self._targets.setdefault(target, TargetHints())
        held.count += count
        held.size_bytes += size_bytes
        self.held_bytes += size_bytes
        assert held.count >= 0, "more hints gone than were held"


def encode_hint(held_at_ms: int, encoded_record: bytes) -> bytes:
    """The value of a hint's key."""
    return held_at_ms.to_bytes(HELD_AT_BYTES, "big") + encoded_record


def decode_hint(value: bytes) -> tuple[int, bytes]:
    """(held_at_ms, encoded record)."""
    return int.from_bytes(value[:HELD_AT_BYTES], "big"), value[HELD_AT_BYTES:]
