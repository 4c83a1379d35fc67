"""Deciding when enough replicas have answered.

A tally is a small state machine: feed it replies, read ``verdict``. It knows no sockets, clocks or
tasks, so the coordinator, the simulation and the property tests drive the very same code.

Rules
-----
1. A verdict, once REACHED or LOST, never changes.
2. A node counts once, however often it answers and in whichever roles (replica, hint holder).
3. A fallback's hint counts toward W unless the request is strict; durability then rests on it.
4. A found record counts from any node. "Absent" counts only from an owner that vouches for it, and
   the whole answer is "absent" only when a majority of the N owners, and at least R, say so.
5. A tombstone settles a read at once: nothing that other replicas hold can undo it.

Source: DeCandia et al., "Dynamo", SOSP 2007, sections 4.5 and 4.6.
"""

from enum import Enum, auto

from cluster.ids import NodeId


class Verdict(Enum):
    """What is known so far."""

    PENDING = auto()
    REACHED = auto()
    LOST = auto()


class WriteTally:
    """Counts durable acknowledgements toward W.

    ``open_count`` is how many asked nodes have not answered; the caller may still ask more.
    """

    __slots__ = ("acked", "acked_by", "hints", "open_count", "required", "unknown")

    def __init__(self, required: int) -> None:
        self.required = required
        self.acked = 0
        self.hints = 0
        #: Nodes that may have stored the write without saying so.
        self.unknown = 0
        self.open_count = 0
        self.acked_by: list[NodeId] = []

    def asked(self) -> None:
        """One more node was sent the write."""
        self.open_count += 1

    def acknowledge(self, node: NodeId, *, hint: bool) -> None:
        """``node`` has it on disk."""
        self.open_count -= 1
        if node not in self.acked_by:
            self.acked_by.append(node)
            self.acked += 1
            self.hints += hint

    def fail(self, *, maybe_stored: bool) -> None:
        """A node refused, or was lost (``maybe_stored``) before it answered."""
        self.open_count -= 1
        self.unknown += maybe_stored

    @property
    def verdict(self) -> Verdict:
        """REACHED, LOST, or PENDING while open replies can decide."""
        if self.acked >= self.required:
            return Verdict.REACHED
        if self.acked + self.open_count < self.required:
            return Verdict.LOST
        return Verdict.PENDING


class ReadTally:
    """Counts answers toward R.

    ``open_count`` is how many nodes can still answer: asked ones and those not asked yet.
    """

    __slots__ = ("absent", "absent_required", "found", "open_count", "required", "settled")

    def __init__(self, required: int, copies: int, askable: int) -> None:
        self.required = required
        self.absent_required = max(required, copies // 2 + 1)
        self.open_count = askable
        self.found = 0
        self.absent = 0
        self.settled = False

    def find(self, *, tombstone: bool) -> None:
        """A replica (or a hint holder) has a record."""
        # A tombstone that arrives after LOST settles nothing any more: rule 1.
        self.settled = self.settled or (tombstone and self.verdict is not Verdict.LOST)
        self.open_count -= 1
        self.found += 1

    def miss(self) -> None:
        """An owner vouches that it has nothing."""
        self.open_count -= 1
        self.absent += 1

    def fail(self) -> None:
        """A node was lost, or can't vouch: "unknown"."""
        self.open_count -= 1

    @property
    def verdict(self) -> Verdict:
        """REACHED: the join of what was found (or "absent", if nothing) is the answer."""
        answered = self.found + self.absent
        if self.found:
            reached = self.settled or answered >= self.required
        else:
            reached = self.absent >= self.absent_required
        if reached:
            return Verdict.REACHED
        if not self.open_count or answered + self.open_count < self.required:
            return Verdict.LOST
        return Verdict.PENDING
