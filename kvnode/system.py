"""The real clock and the real entropy."""

import gc
import os
import random
import time
from typing import Final

_POOL_BYTES: Final = 4096
#: Objects made before the youngest are looked through for cycles. The default of 700 looks through
#: the requests in flight again and again: a quarter of the CPU time of bulk creates was measured.
_GC_YOUNGEST: Final = 50_000


class SystemClock:
    """``kvnode.ports.Clock`` from the operating system."""

    def wall_ms(self) -> int:
        """See ``kvnode.ports.Clock``."""
        return time.time_ns() // 1_000_000

    #: See ``kvnode.ports.Clock``; without a call of our own around it, for it is on every path.
    monotonic_s = staticmethod(time.monotonic)


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


def tune_garbage_collector() -> None:
    """Once, after start-up: what lives now lives for ever, and requests make no cycles."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_YOUNGEST, 20, 20)
