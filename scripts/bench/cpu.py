"""CPU time of server processes, as the kernel accounts it.

utime and stime in /proc/PID/stat include every thread, also those that have ended. They count in
ticks of 10 ms, so a measurement must last: over 8 s of two busy cores the error is 0.2 %.
What the kernel does in threads of its own for them (writing back pages, the journal) is not theirs.
"""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cluster.interrupts import Interrupts

_WINDOW_S: Final = 0.5
#: Busier than that is not idle: three idle nodes gossip and look at deadlines for 1 % of a core.
_IDLE_CORES: Final = 0.05
_SETTLE_S_MAX: Final = 60.0


class ServerGone(Exception):
    """A process that is measured has ended. The message is one whole sentence."""


def parse_ticks(stat: str) -> int:
    """Both times out of a line of /proc/PID/stat."""
    # The second field is the program's name in parentheses, and may contain any character.
    fields = stat.rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


class CpuMeter:
    """The CPU time of several processes together."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids = pids
        self._tick_s = 1 / os.sysconf("SC_CLK_TCK")

    def read_s(self) -> float:
        """Seconds since they started. Raises ServerGone."""
        return sum(self._ticks(pid) for pid in self._pids) * self._tick_s

    def settle(self, interrupts: Interrupts) -> None:
        """Wait until they idle: late replicas have answered, compactions have ended.

        A process that never idles is not waited for longer than a minute; what it does then is
        background work, and part of what it costs.
        """
        deadline_s = time.monotonic() + _SETTLE_S_MAX
        before_s = self.read_s()
        while time.monotonic() < deadline_s:
            time.sleep(_WINDOW_S)
            interrupts.check()
            after_s = self.read_s()
            if after_s - before_s <= _IDLE_CORES * _WINDOW_S:
                return
            before_s = after_s

    def _ticks(self, pid: int) -> int:
        try:
            return parse_ticks(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8"))
        except OSError as error:
            raise ServerGone(f"server process {pid} has ended in the middle of it.") from error
