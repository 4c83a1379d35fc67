"""Group commit: many writes, one batch, one fsync.

Rules
-----
1. One commit is in flight at a time; everything that arrives meanwhile forms the next batch, and
   an idle engine commits at the end of the tick.
2. Under load a commit starts a pause after the one before: a commit of one record costs ten times
   the CPU per record of one of sixteen. Load means that lately something arrived while a commit was
   in flight, or that one had several records. A lone caller, who waits for each commit before it
   writes again, never meets the pause.
3. The pause is longer while nobody urgent waits: a replica whose copy is not needed for W lets
   more of them share an fsync. Measured with three nodes and 32 connections at W=1, the fsyncs
   of the two other replicas were half of a create's cost.
4. ``pending`` shows what has been put and is not durable yet, so read-merge-write builds on it,
   while reads go to the database and never see what a crash could take away.
5. A barrier fires when everything put before it is durable, never earlier, in order.
6. A failed commit is the end: ``failed`` is called, no barrier fires, nothing more is written.
   After a failed fsync the kernel may have dropped the pages; a retry would "succeed".
   (Rebello et al., "Can Applications Recover from fsync Failures?", ATC 2020.)

How a batch becomes durable is the engine's (``begin``): a writer thread, or a timer in simulation.
"""

import asyncio
from collections.abc import Callable
from math import inf
from typing import Final

#: None deletes the key.
Changes = dict[bytes, bytes | None]

#: How long a commit waits for company. The event loop's timers have whole milliseconds.
PAUSE_S: Final = 0.002
PATIENT_PAUSE_S: Final = 0.008
#: Keys of a commit, from which on it was one of several callers (a create changes two).
_COMPANY_KEYS: Final = 4
#: How long that lets one expect more.
_RECENT_S: Final = 0.02
#: Gathered bytes that are worth a commit of their own.
_WORTH_BYTES: Final = 256 * 1024
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
        #: Called before a batch is closed, to put what it changes in sum.
        self.before: Callable[[], None] = lambda: None
        self._gathered: Changes = {}
        self._gathered_bytes = 0
        self._gathered_barriers: list[Callable[[], None]] = []
        self._committing: Changes = {}
        self._committing_barriers: list[Callable[[], None]] = []
        self._in_flight = False
        #: The start that is due, and whether someone urgent waits for it.
        self._start_due: asyncio.Handle | None = None
        self._urgent = False
        self._broken = False
        #: When a commit last ended that had company.
        self._had_company_s = -inf

    @property
    def full(self) -> bool:
        """Whether the disk is so far behind that new writes should be refused."""
        return self._gathered_bytes > GATHERED_BYTES_MAX

    @property
    def settled(self) -> bool:
        """Whether nothing is gathered and nothing in flight."""
        return not (self._gathered or self._in_flight)

    @property
    def broken(self) -> bool:
        """Whether a commit has failed: no barrier fires any more."""
        return self._broken

    @property
    def in_flight(self) -> Changes:
        """The batch that ``begin`` got and ``finished`` has not yet been called for."""
        return self._committing

    def put(self, key: bytes, value: bytes | None) -> None:
        """Join the batch being gathered; the last change of a key wins."""
        self._gathered[key] = value
        self._gathered_bytes += len(key) + (len(value) if value is not None else 0)
        if self._start_due is None and not self._in_flight:
            self._schedule()

    def pending(self, key: bytes) -> tuple[bool, bytes | None]:
        """(True, newest value) when a change of the key is not durable yet, else (False, None)."""
        if key in self._gathered:
            return True, self._gathered[key]
        if key in self._committing:
            return True, self._committing[key]
        return False, None

    def barrier(self, done: Callable[[], None], *, patient: bool = False) -> None:
        """Call ``done`` in a later tick, once all that was put so far is durable."""
        if self._gathered:
            self._gathered_barriers.append(done)
            if not patient and not self._urgent:
                self._urgent = True
                if not self._in_flight:
                    self._schedule()
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
        if self._gathered or len(self._committing) >= _COMPANY_KEYS:
            self._had_company_s = self._loop.time()
        barriers = self._committing_barriers
        self._committing, self._committing_barriers = {}, []
        self._in_flight = False
        if self._gathered:
            self._schedule()
        for done in barriers:
            done()

    def _schedule(self) -> None:
        """Set when the next commit starts, anew if someone urgent has come."""
        if self._start_due is not None:
            self._start_due.cancel()
        recently = self._loop.time() - self._had_company_s < _RECENT_S
        if recently and self._gathered_bytes < _WORTH_BYTES:
            pause_s = PAUSE_S if self._urgent else PATIENT_PAUSE_S
            self._start_due = self._loop.call_later(pause_s, self._start)
        else:
            self._start_due = self._loop.call_soon(self._start)

    def _start(self) -> None:
        self._start_due = None
        if self._in_flight or self._broken or not self._gathered:
            return
        self._in_flight = True
        self.before()
        self._committing, self._gathered = self._gathered, {}
        self._committing_barriers, self._gathered_barriers = self._gathered_barriers, []
        self._gathered_bytes = 0
        self._urgent = False
        self._begin(self._committing)
