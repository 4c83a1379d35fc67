"""How sure one may be that a silent peer is gone: the phi-accrual failure detector.

The detector learns the intervals between a peer's heartbeats, takes them as normally distributed,
and answers with phi: a silence of this length would be followed by a heartbeat after all once in
10 ** phi times. At phi 1 a suspicion is wrong once in ten times, at phi 8 once in 10 ** 8.

Rules
-----
1. Deviations below half an expected interval, or below 0.1 s, count as that: a peer that was
   punctual for a minute may still lose a message, and no process on a busy machine is
   scheduled more exactly. With it phi passes 8 after a silence of mean + 5.6 deviations: 3.8 s
   when the interval is 1 s, 0.6 s when it is 0.05 s.
2. An interval counts as at most 4 expected ones. An outage is no interval: unclipped, a silence
   of a minute would hide the next one of half a minute.
3. The window is bounded, so a peer that became slow is judged as slow after 100 heartbeats.

Source: Hayashibara, Défago, Yared, Katayama, "The phi Accrual Failure Detector", SRDS 2004.
"""

from collections import deque
from math import erfc, inf, log10, sqrt
from typing import Final

WINDOW_INTERVALS: Final = 100
DEVIATION_MIN_INTERVALS: Final = 0.5
DEVIATION_MIN_S: Final = 0.1
INTERVAL_MAX_INTERVALS: Final = 4.0


class Detector:
    """What is known of one peer's punctuality. All times are readings of a monotonic clock."""

    def __init__(self, expected_interval_s: float, now_s: float) -> None:
        """Start as if a heartbeat came now, after one expected interval."""
        assert expected_interval_s > 0
        self._heard_s = now_s
        self._interval_max_s = INTERVAL_MAX_INTERVALS * expected_interval_s
        self._deviation_min_s = max(DEVIATION_MIN_S, DEVIATION_MIN_INTERVALS * expected_interval_s)
        self._intervals_s = deque([expected_interval_s], maxlen=WINDOW_INTERVALS)
        self._mean_s = expected_interval_s
        self._deviation_s = self._deviation_min_s

    def heard(self, now_s: float) -> None:
        """A new heartbeat arrived. Old news that arrives again is none."""
        self._intervals_s.append(min(self.silent_s(now_s), self._interval_max_s))
        self._heard_s = now_s
        count = len(self._intervals_s)
        self._mean_s = sum(self._intervals_s) / count
        variance = sum((interval - self._mean_s) ** 2 for interval in self._intervals_s) / count
        self._deviation_s = max(sqrt(variance), self._deviation_min_s)

    def excuse(self, paused_s: float, now_s: float) -> None:
        """Take ``paused_s`` off the silence: the listener was away, not the peer."""
        self._heard_s = min(self._heard_s + paused_s, now_s)

    def silent_s(self, now_s: float) -> float:
        """Seconds since the last heartbeat."""
        return now_s - self._heard_s

    def phi(self, now_s: float) -> float:
        """-log10 of the probability that a heartbeat comes after a silence this long; >= 0."""
        deviations = (self.silent_s(now_s) - self._mean_s) / self._deviation_s
        later = erfc(deviations / sqrt(2)) / 2
        return -log10(later) if later > 0 else inf
