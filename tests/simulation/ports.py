"""Clock and entropy as a simulated node gets them.

Rules
-----
1. Every node has clocks of its own: they start apart, run at slightly different rates, and the
   wall clock can be moved. Code that compares two nodes' clocks, or one node's clock with the
   event loop's, meets the difference here.
2. The monotonic clock never goes back, whatever happens to the wall clock.
3. Every process has its own stream of randomness: a draw in one does not move another's. The
   stream goes by name and epoch, so a restarted process does not repeat the ids it once made.
"""

import math
from collections.abc import Callable
from random import Random
from typing import Final

from tests.simulation.processes import Process

#: 2026-01-01T00:00:00Z: the true wall time at which every simulation starts.
START_MS: Final = 1_767_225_600_000


class SimClock:
    """A ``kvnode.ports.Clock`` on virtual time; belongs to a machine and survives restarts.

    Args:
        true_s: Virtual seconds since the start; ``SimLoop.time``.
        rate: Clock seconds per true second, above 0; quartz stays within 1 +- 0.0005.
        wall_ahead_s: How far the wall clock starts ahead of the truth (behind, if negative).
        monotonic_start_s: The monotonic clock's first reading.
    """

    def __init__(
        self,
        true_s: Callable[[], float],
        *,
        rate: float = 1.0,
        wall_ahead_s: float = 0.0,
        monotonic_start_s: float = 0.0,
    ) -> None:
        assert rate > 0
        self._true_s = true_s
        self._rate = rate
        self._wall_ahead_s = wall_ahead_s
        self._monotonic_start_s = monotonic_start_s
        #: What the wall clock showed when it was last moved.
        self._moved_at_ms = START_MS

    def wall_ms(self) -> int:
        """Unix time as this machine believes it."""
        return START_MS + math.floor((self._true_s() * self._rate + self._wall_ahead_s) * 1000)

    def monotonic_s(self) -> float:
        """Seconds since an arbitrary moment, the same for one machine only."""
        return self._monotonic_start_s + self._true_s() * self._rate

    @property
    def ahead_s(self) -> float:
        """How far the wall clock is ahead of the truth, its rate apart."""
        return self._wall_ahead_s

    def latest_ms(self) -> int:
        """What the wall clock shows, or the later time from which it has just been moved back."""
        return max(self.wall_ms(), self._moved_at_ms)

    def jump(self, seconds: float) -> None:
        """Move the wall clock forward, or back if negative."""
        self._moved_at_ms = self.wall_ms()
        self._wall_ahead_s += seconds


class SimEntropy:
    """A ``kvnode.ports.Entropy`` that a seed determines."""

    def __init__(self, seed: int, process: Process) -> None:
        self._random = Random(f"{seed}/process/{process}")

    def random_bytes(self, count: int) -> bytes:
        """The next bytes of the process's stream."""
        return self._random.randbytes(count)

    def uniform(self, low: float, high: float) -> float:
        """A number in [low, high)."""
        return low + (high - low) * self._random.random()
