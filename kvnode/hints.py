"""Keeping account of hints: how many, for whom, what became of each, and what is owed for the lost.

Rules
-----
1. created = delivered + superseded + dropped + held, always: a hint never vanishes unaccounted.
2. A hint is kept only within the caps (bytes per target, bytes overall).
3. A hint older than the window is dropped: its target is away so long that a comparison of whole
   ranges is cheaper than the backlog. Only some owner must have its document by then.
4. For every hint that is dropped (overflow, expired, corrupt) its target's partition is *owed* a
   comparison by anti-entropy, if this node is an owner of it too. A stand-in has nothing to
   compare, and owners compare with each other anyway. A debt is repaid only by a comparison that
   began after the last loss.

The bytes are ``kvnode.hintstore``'s; this file only counts them.
"""

from collections.abc import Callable
from typing import Final, Literal

import msgspec

from cluster.ids import NodeId
from cluster.settings import HintSettings

HELD_AT_BYTES: Final = 8
#: Hints are looked through for their age again after this part of the window: they may stay longer
#: by as much.
_SWEEPS_PER_WINDOW: Final = 16

#: Why a hint was lost.
Loss = Literal["overflow", "expired", "corrupt"]
#: Why a hint is held no longer.
Fate = Literal["delivered"] | Loss


class TargetHints(msgspec.Struct):
    """What is held for one target."""

    count: int = 0
    size_bytes: int = 0
    #: None that is held was kept before this.
    oldest_ms: int | None = None


class Debt(msgspec.Struct, frozen=True):
    """A target's partition in which hints were lost: only a comparison tells what it missed."""

    target: NodeId
    partition: int
    #: The number of the last loss there, in this process: after another one it is another debt.
    last_loss: int


class HintBook:
    """Counts of one node's hints; rebuilt from the database at start by ``restore``.

    Args:
        owned: Which partitions this node is an owner of.
    """

    def __init__(
        self, settings: HintSettings, owned: Callable[[int], bool] = lambda _: True
    ) -> None:
        self._settings = settings
        self._owned = owned
        self._window_ms = int(settings.window_s * 1000)
        self._targets: dict[NodeId, TargetHints] = {}
        #: The number of the last loss, overall and by what it is owed for.
        self._last_loss = 0
        self._last_losses: dict[tuple[NodeId, int], int] = {}
        self.created = 0
        self.delivered = 0
        self.superseded = 0
        self.dropped: dict[Loss, int] = {"overflow": 0, "expired": 0, "corrupt": 0}
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

    # What becomes of a hint ---------------------------------------------------------------------

    def restore(self, target: NodeId, size_bytes: int, held_at_ms: int) -> None:
        """A hint found in the database at start."""
        self.created += 1
        self._add(target, 1, size_bytes)
        self.seen(target, held_at_ms)

    def keep(
        self, target: NodeId, size_bytes: int, held_at_ms: int, replaced_bytes: int | None
    ) -> None:
        """A hint was put; ``replaced_bytes`` is the size of the one it took the place of."""
        self.created += 1
        if replaced_bytes is None:
            self._add(target, 1, size_bytes)
        else:
            self.superseded += 1
            self._add(target, 0, size_bytes - replaced_bytes)
        self.seen(target, held_at_ms)

    def refuse(self, target: NodeId, partition: int, loss: Loss) -> bool:
        """A hint was not kept. Whether that is a new debt, whose row must be put."""
        self.created += 1
        return self._lose(target, partition, loss)

    def release(self, target: NodeId, partition: int, size_bytes: int, fate: Fate) -> bool:
        """A hint was deleted: the target has it on disk, or it is given up.

        Whether that is a new debt, whose row must be put.
        """
        self._add(target, -1, -size_bytes)
        if fate == "delivered":
            self.delivered += 1
            return False
        return self._lose(target, partition, fate)

    # Age ----------------------------------------------------------------------------------------

    def expired(self, held_at_ms: int, now_ms: int) -> bool:
        """Whether a hint's window has passed."""
        return now_ms - held_at_ms > self._window_ms

    def round_due(self, target: NodeId, now_ms: int) -> bool:
        """Whether a target's hints should be looked through for expired ones."""
        oldest_ms = self._targets[target].oldest_ms
        slack_ms = self._window_ms // _SWEEPS_PER_WINDOW
        return oldest_ms is not None and self.expired(oldest_ms, now_ms - slack_ms)

    def round_begins(self, target: NodeId, now_ms: int) -> None:
        """All of a target's hints are being looked through: ``seen`` is called for those kept."""
        self._targets[target].oldest_ms = now_ms

    def seen(self, target: NodeId, held_at_ms: int) -> None:
        """A hint of this age is held."""
        held = self._targets[target]
        oldest_ms = held.oldest_ms
        held.oldest_ms = held_at_ms if oldest_ms is None else min(oldest_ms, held_at_ms)

    def put_off(self, target: NodeId, now_ms: int) -> None:
        """A hint stays though its window has passed: it is looked at again, but not at once."""
        self.seen(target, now_ms - self._window_ms)

    # Debts --------------------------------------------------------------------------------------

    def owed(self) -> list[Debt]:
        """What anti-entropy must compare, in the order in which it was first owed."""
        return [Debt(*place, last_loss) for place, last_loss in self._last_losses.items()]

    def owe(self, target: NodeId, partition: int) -> bool:
        """A hint was lost, or its row found at start. Whether that is a new debt."""
        place = target, partition
        if not self._owned(partition):
            return False
        is_new = place not in self._last_losses
        self._last_loss += 1
        self._last_losses[place] = self._last_loss
        return is_new

    def repay(self, debt: Debt) -> bool:
        """The comparison that began when ``debt`` was owed has ended; whether nothing is owed."""
        place = debt.target, debt.partition
        if self._last_losses.get(place) != debt.last_loss:
            return False
        del self._last_losses[place]
        return True

    def _lose(self, target: NodeId, partition: int, loss: Loss) -> bool:
        self.dropped[loss] += 1
        return self.owe(target, partition)

    def _add(self, target: NodeId, count: int, size_bytes: int) -> None:
        held = self._targets.setdefault(target, TargetHints())
        held.count += count
        held.size_bytes += size_bytes
        self.held_bytes += size_bytes
        if held.count == 0:
            held.oldest_ms = None
        assert held.count >= 0, "more hints gone than were held"


def encode_hint(held_at_ms: int, encoded_record: bytes) -> bytes:
    """The value of a hint's key."""
    return held_at_ms.to_bytes(HELD_AT_BYTES, "big") + encoded_record


def decode_hint(value: bytes) -> tuple[int, bytes]:
    """(held_at_ms, encoded record)."""
    return int.from_bytes(value[:HELD_AT_BYTES], "big"), value[HELD_AT_BYTES:]
