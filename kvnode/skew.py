"""How far peers' clocks are from this node's: bounds, from exchanges that happen anyway.

Rules
-----
1. A peer's clock was read after the request left and before its answer came. So it is ahead of
   this one by something between (theirs - received) and (theirs - sent): bounds, not a guess.
   A slow exchange gives wide ones, and never a false alarm.
2. Bounds from several exchanges are intersected: the quickest ones count. Bounds that contradict
   the earlier ones mean that a clock was set, or has drifted away: the earlier ones are forgotten.

Source: Marzullo and Owicki, "Maintaining the Time in a Distributed System", PODC 1983.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from cluster.ids import NodeId

#: Clocks are read in whole milliseconds, rounded down.
_READING_MS: Final = 1


class Skew(NamedTuple):
    """A peer's clock is ahead of this node's by something between these; behind, if negative."""

    low_ms: int
    high_ms: int

    @property
    def ahead_s(self) -> float:
        """The middle of what is possible."""
        return (self.low_ms + self.high_ms) / 2000

    @property
    def error_s(self) -> float:
        """How far the truth may be from ``ahead_s``."""
        return (self.high_ms - self.low_ms) / 2000

    @property
    def least_s(self) -> float:
        """How far apart the two clocks are at least."""
        return max(self.low_ms, -self.high_ms, 0) / 1000


class ClockSkews:
    """What one node knows of its peers' clocks."""

    def __init__(self) -> None:
        self._skews: dict[NodeId, Skew] = {}

    def observe(self, peer: NodeId, sent_ms: int, received_ms: int, theirs_ms: int) -> None:
        """Take in one exchange: this node's clock around it, and the peer's within."""
        if received_ms < sent_ms:
            return  # this node's own clock was set meanwhile
        seen = Skew(theirs_ms - received_ms - _READING_MS, theirs_ms - sent_ms + _READING_MS)
        held = self._skews.get(peer, seen)
        low_ms, high_ms = max(seen.low_ms, held.low_ms), min(seen.high_ms, held.high_ms)
        self._skews[peer] = Skew(low_ms, high_ms) if low_ms <= high_ms else seen

    def of(self, peer: NodeId) -> Skew | None:
        """What is known of a peer's clock."""
        return self._skews.get(peer)

    def all(self) -> Iterator[tuple[NodeId, Skew]]:
        """By peer, in the order in which they were first heard."""
        yield from self._skews.items()

    def beyond(self, limit_s: float) -> list[tuple[NodeId, Skew]]:
        """Peers whose clock is certainly further from this node's than this."""
        return [(peer, skew) for peer, skew in self._skews.items() if skew.least_s > limit_s]
