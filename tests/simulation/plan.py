"""Which of a history's random faults happen: all, or the few that it takes to see a failure.

Rules
-----
1. A fault is named by its line and its number in it: ``n1.3`` is the fourth of the second nemesis,
   ``s.0`` the first strike.
2. A spared fault draws the same chances and takes the same time; only what it does is left out. So
   everything before it stays exactly as it was, and most of what comes after it.
"""

from collections.abc import Collection

import msgspec


class PlannedFault(msgspec.Struct, frozen=True):
    """A fault whose turn has come, at a true time."""

    name: str
    what: str
    at_s: float

    def __str__(self) -> str:
        return f"{self.at_s:8.4f} {self.name:<5} {self.what.strip('_').replace('_', ' ')}"


class Plan:
    """The faults of one history.

    Args:
        only: The names of those that happen; None: all do.
    """

    def __init__(self, only: Collection[str] | None = None) -> None:
        self._only = only
        #: Those that happened, in the order in which they began.
        self.faults: list[PlannedFault] = []

    def line(self, name: str) -> "Line":
        """The faults of one nemesis, or of the strikes."""
        return Line(self, name)

    def admits(self, fault: PlannedFault) -> bool:
        """Whether a fault whose turn has come happens."""
        if self._only is not None and fault.name not in self._only:
            return False
        self.faults.append(fault)
        return True


class Line:
    """Faults that happen one after the other."""

    def __init__(self, plan: Plan, name: str) -> None:
        self._plan = plan
        self._name = name
        self._count = 0

    def admits(self, what: str, at_s: float) -> bool:
        """Whether the next fault happens."""
        name = f"{self._name}.{self._count}"
        self._count += 1
        return self._plan.admits(PlannedFault(name, what, at_s))
