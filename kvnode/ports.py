"""All that touches the world, as seen from inside a node.

Adapters implement these; a node gets one of each. Clock, entropy and engine are also implemented
for the simulation, where the network is the event loop's own (``create_server`` and
``create_connection``), so the RPC code runs there unmodified.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol


class Clock(Protocol):
    """Two clocks that must not be confused."""

    def wall_ms(self) -> int:
        """Unix time. May jump: only for what is stored, never for measuring."""

    def monotonic_s(self) -> float:
        """Never goes back: only for measuring and deadlines, never stored."""


class Entropy(Protocol):
    """All randomness."""

    def random_bytes(self, count: int) -> bytes:
        """Unpredictable bytes: ids, nonces."""

    def uniform(self, low: float, high: float) -> float:
        """A number in [low, high): jitter."""


class Salvage(NamedTuple):
    """What a range holds, as far as it can be read."""

    #: In key order; each value is the newest of its key.
    pairs: list[tuple[bytes, bytes]]
    #: (start, stop): somewhere in start <= key < stop, keys may be missing from ``pairs``.
    gaps: list[tuple[bytes, bytes]]


class Engine(Protocol):
    """An ordered map of byte strings with group-committed, durable writes.

    ``put`` and ``delete`` join the batch that is being gathered. A batch is written with one
    fsync, and everything put in one synchronous stretch of code lands in one batch, so related
    keys (a record and its hint) can't be separated by a crash.
    """

    def get(self, key: bytes) -> bytes | None:
        """The durable value. Never returns what a crash could still take away.

        Raises CorruptRecord when it can't be read.
        """

    def latest(self, key: bytes) -> bytes | None:
        """The newest value, durable or not: what read-merge-write must build on.

        Raises CorruptRecord when that is a durable one which can't be read.
        """

    def put(self, key: bytes, value: bytes) -> None:
        """Join the gathered batch."""

    def delete(self, key: bytes) -> None:
        """Join the gathered batch. Deleting what is absent is harmless."""

    def before_commit(self, call: Callable[[], None]) -> None:
        """Have ``call`` called just before each batch is closed, to put what it changed in sum.

        There is one such call; a key that every write changes is put once a batch this way.
        """

    def full(self) -> bool:
        """Whether the disk is so far behind that new client writes should be refused."""

    def settled(self) -> bool:
        """Whether everything put so far is durable."""

    def barrier(self, done: Callable[[], None], *, patient: bool = False) -> None:
        """Call ``done`` once, later, when everything put so far is durable.

        A ``patient`` caller lets the commit wait a few milliseconds longer for company.
        """

    def scan(self, start: bytes, stop: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """At most ``limit`` durable pairs with start <= key < stop, in key order.

        All or nothing. Raises CorruptRecord when any of them can't be read.
        """

    def salvage(self, start: bytes, stop: bytes, limit: int) -> Salvage:
        """As ``scan``, but past what can't be read; it says where that was.

        Fewer than ``limit`` pairs are the end of the range; otherwise go on behind the last one.
        """

    async def compact(self, start: bytes, stop: bytes) -> int:
        """Give back the space of what was deleted or replaced with start <= key < stop.

        Reads and writes go on meanwhile. Returns the size in bytes of what was gone through.
        """

    async def close(self) -> None:
        """Make what was put durable, then release the files."""


class Disk(Protocol):
    """What a node asks of its file system; see ``kvnode.storage.disk``."""

    free_bytes: int
    low: bool

    def check(self) -> None:
        """Measure free space; keep or release the ballast."""
