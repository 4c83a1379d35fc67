"""The real clock and the real entropy."""

import os
import random
import time
from typing import Final

_POOL_BYTES: Final = 4096


class SystemClock:
    """``kvnode.ports.Clock`` from the operating system."""

    def wall_ms(self) -> int:
        """See ``kvnode.ports.Clock``."""
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        """See ``kvnode.ports.Clock``."""
        return time.monotonic()


class SystemEntropy:
    """``kvnode.ports.Entropy`` from the kernel.

    Drawn a page at a time: a system call per id would cost more than the id.
    """

    def __init__(self) -> None:
        self._pool = b""
        self._used = 0
        self._random = random.SystemRandom()

    def random_bytes(self, count: int) -> bytes:
        """See ``kvnode.ports.Entropy``."""
        end = self._used + count
        if end > len(self._pool):
            self._pool, self._used, end = os.urandom(max(_POOL_BYTES, count)), 0, count
        drawn = self._pool[self._used : end]
        self._used = end
        return drawn

    def uniform(self, low: float, high: float) -> float:
        """See ``kvnode.ports.Entropy``."""
        return self._random.uniform(low, high)
