"""One budget for all background work of a node: bytes by kind of work, and the event loop's time.

Rules
-----
1. Each kind has a rate in bytes, as a token bucket: in any stretch of time it gets no more than
   rate x time + a burst. What is sent may exceed what is left by less than one item, so that an
   item larger than the burst gets through as well; the debt is waited for.
2. All kinds together hold the event loop for a share of the time, in equal parts: after a unit of
   work its service rests in proportion to what that took, and to how many have work to do.
3. Both yield to clients. Every request waits in the event loop's queue, so its lateness in waking
   the services themselves is what clients feel: while it is above the target, all of this
   shrinks; while it is below, it grows again. No request is measured or counted for it.
4. It never shrinks below a floor: work that waits for a quiet hour is never done where none comes.

No clock is read here: readings of ``Clock.monotonic_s`` come in.

Source: Shalunov et al., "Low Extra Delay Background Transport (LEDBAT)", RFC 6817, 2012: the
controller of rule 3, for the queue of an event loop in the place of a link's.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

#: What a kind may spend at once after a rest, as seconds of its rate.
BURST_S: Final = 0.25
#: Of the event loop's time, while no client waits.
TIME_SHARE: Final = 0.25
#: Of rates and share, what is left to background work however late the event loop is.
FLOOR: Final = 0.1
#: A few requests' worth of waiting: a loaded, healthy node stays below it.
LATENESS_TARGET_S: Final = 0.005
#: How much one wake-up that was not late at all gives back.
_GAIN: Final = 0.1
#: How much one wake-up counts in what is told of the event loop's lag.
_LAG_GAIN: Final = 0.1
#: Longer was not the unit of work: the process stood still.
_UNIT_MAX_S: Final = 0.05


class _Bucket(msgspec.Struct):
    left_bytes: float
    filled_s: float


class Budget:
    """See the module's rules. One per node, shared by its services.

    Args:
        rates_bytes_per_s: By kind of work, which is a service's name.
    """

    def __init__(self, rates_bytes_per_s: Mapping[str, int]) -> None:
        self._rates_bytes_per_s = dict(rates_bytes_per_s)
        self._buckets: dict[str, _Bucket] = {}
        #: Kinds whose last unit said that there is more to do.
        self._active: dict[str, None] = {}
        #: From FLOOR to 1: which part of rates and share is granted now.
        self.pace = 1.0
        #: How late the event loop is lately: a mean in which the last ten wake-ups count most.
        self.lag_s = 0.0

    def allowed_bytes(self, kind: str, now_s: float) -> int:
        """How much a kind may send or read now; 0 when it must wait."""
        rate_bytes_per_s = self._rates_bytes_per_s[kind]
        burst_bytes = rate_bytes_per_s * BURST_S
        bucket = self._buckets.get(kind)
        if bucket is None:
            bucket = self._buckets[kind] = _Bucket(burst_bytes, now_s)
        filled_bytes = (now_s - bucket.filled_s) * rate_bytes_per_s * self.pace
        bucket.left_bytes = min(burst_bytes, bucket.left_bytes + filled_bytes)
        bucket.filled_s = now_s
        return max(0, int(bucket.left_bytes))

    def spend(self, kind: str, size_bytes: int) -> None:
        """What was sent or read of what was allowed: at most that and a part of one more item."""
        self._buckets[kind].left_bytes -= size_bytes

    def rest_s(self, kind: str, held_s: float, *, more: bool) -> float:
        """How long a service must rest after a unit of work; see rule 2.

        Args:
            held_s: How long the unit held the event loop, without what it waited.
            more: Whether there is more to do; without, the service waits for its interval anyway.
        """
        if not more:
            self._active.pop(kind, None)
            return 0.0
        self._active[kind] = None
        share = TIME_SHARE * self.pace / len(self._active)
        return min(held_s, _UNIT_MAX_S) * (1 / share - 1)

    def observe(self, late_s: float) -> None:
        """The event loop woke a service this much later than it was to."""
        self.lag_s += _LAG_GAIN * (late_s - self.lag_s)
        step = _GAIN * (LATENESS_TARGET_S - late_s) / LATENESS_TARGET_S
        # A single stall, however long, costs no more than half.
        self.pace = min(1.0, max(self.pace + step, self.pace / 2, FLOOR))
