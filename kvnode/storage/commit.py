"""Group commit: many writes, one batch, one fsync.

Rules
-----
1. One commit is in flight at a time; everything that arrives meanwhile forms the next batch. Under
   load batches grow by themselves, and an idle engine commits at the end of the tick. An executor
   call per tick was measured at 80-100 us of CPU a create, this at 60.
2. ``pending`` shows what has been put and is not durable yet, so read-merge-write builds on it,
   while reads go to the database and never see what a crash could take away.
3. A barrier fires when everything put before it is durable, never earlier, in order.
4. A failed commit is the end: ``failed`` is called, no barrier fires, nothing more is written.
   After a failed fsync the kernel may have dropped the pages; a retry would "succeed".
   (Rebello et al., "Can Applications Recover from fsync Failures?", ATC 2020.)

How a batch becomes durable is the engine's (``begin``): a writer thread, or a timer in simulation.
"""

import asyncio
from collections.abc import Callable
from typing import Final

#: None deletes the key.
Changes = dict[bytes, bytes | None]

#: Gathered bytes beyond which the engine reports itself full.
GATHERED_BYTES_MAX: Final = 16 * 1024 * 1024


class GroupCommit:
    """Gathers changes and hands them on, one batch at a time.

    ``begin(changes)`` must arrange for ``finished`` to be called in the event loop, later.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        begin: Callable[[Changes], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._loop = loop
        self._begin = begin
        self._failed = failed
        self._gathered: Changes = {}
        self._gathered_bytes = 0
        self._gathered_barriers: list[Callable[[], None]] = []
        self._committing: Changes = {}
        self._committing_barriers: list[Callable[[], None]] = []
        self._in_flight = False
        self._scheduled = False
        self._broken = False

    @property
    def full(self) -> bool:
        """Whether the disk is so far behind that new writes should be refused."""
        return self._gathered_bytes > GATHERED_BYTES_MAX

    def put(self, key: bytes, value: bytes | None) -> None:
        """Join the batch being gathered; the last change of a key wins."""
        self._gathered[key] = value
        self._gathered_bytes += len(key) + (len(value) if value is not None else 0)
        if not self._scheduled and not self._in_flight:
            self._scheduled = True
            self._loop.call_soon(self._start)

    def pending(self, key: bytes) -> tuple[bool, bytes | None]:
        """(True, newest value) when a change of the key is not durable yet, else (False, None)."""
        if key in self._gathered:
            return True, self._gathered[key]
        if key in self._committing:
            return True, self._committing[key]
        return False, None

    def barrier(self, done: Callable[[], None]) -> None:
        """Call ``done`` in a later tick, once all that was put so far is durable."""
        if self._gathered:
            self._gathered_barriers.append(done)
        elif self._in_flight:
            self._committing_barriers.append(done)
        elif not self._broken:
            self._loop.call_soon(done)

    def finished(self, error: BaseException | None) -> None:
        """The batch in flight is durable, or failed. Called in the event loop."""
        if self._broken:
            return
        if error is not None:
            self._broken = True
            self._failed(error)
            return
        barriers = self._committing_barriers
        self._committing, self._committing_barriers = {}, []
        self._in_flight = False
        # The next batch starts before this one's barriers run: the disk works while they answer.
        self._start()
        for done in barriers:
            done()

    def _start(self) -> None:
        self._scheduled = False
        if self._in_flight or self._broken or not self._gathered:
            return
        self._in_flight = True
        self._committing, self._gathered = self._gathered, {}
        self._committing_barriers, self._gathered_barriers = self._gathered_barriers, []
        self._gathered_bytes = 0
        self._begin(self._committing)
