"""Giving the space of removed records back to the file system.

LevelDB keeps what was deleted until it happens to rewrite the tables that hold it, which in a
partition that is written no more is never.

Rules
-----
1. A partition is compacted once what was removed from it is at least a tenth of what is left. So a
   record is rewritten ten times at most for each one removed, and what waits is never more than
   that tenth.
2. One partition at a time, and not while it is still being swept.
3. What was removed before a restart is not remembered; it goes with what is removed after it.
"""

from collections.abc import Callable
from typing import Final

from kvnode.log import Log
from kvnode.ports import Clock
from kvnode.replica import Replica
from kvnode.services.budget import Budget
from kvnode.services.loop import Work
from kvnode.services.sweep import Sweep

_LEFT_PER_REMOVED: Final = 10


class Reclaim:
    """A service (``kvnode.services.loop``).

    Args:
        owned: How many partitions' records are here.
    """

    name = "reclaim"

    def __init__(
        self,
        replica: Replica,
        sweep: Sweep,
        owned: Callable[[], int],
        *,
        interval_s: float,
        budget: Budget,
        clock: Clock,
        log: Log,
    ) -> None:
        self.interval_s = interval_s
        self._replica = replica
        self._sweep = sweep
        self._owned = owned
        self._budget = budget
        self._clock = clock
        self._log = log
        self.compacted_count = 0

    async def run_once(self) -> Work:
        """Compact one partition."""
        left = self._replica.records.count / max(1, self._owned())
        due = [
            partition
            for partition, removed in self._sweep.removed.items()
            if removed * _LEFT_PER_REMOVED >= left and not self._sweep.is_due(partition)
        ]
        if not due:
            return Work.IDLE
        if not self._budget.allowed_bytes(self.name, self._clock.monotonic_s()):
            return Work.THROTTLED
        removed = self._sweep.removed.pop(due[0])
        size_bytes = await self._replica.records.compact(due[0])
        self._budget.spend(self.name, size_bytes)
        self.compacted_count += 1
        self._log.debug("partition.compacted", partition=due[0], removed=removed)
        return Work.BUSY
