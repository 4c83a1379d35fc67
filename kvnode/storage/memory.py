"""The engine without a disk: the same group commit, over a sorted map, in virtual time.

``MemoryDisk`` is what survives a crash; ``MemoryEngine`` is one process's handle on it. A commit
reaches the disk when its latency has passed, so a process that dies before that loses the batch
whole, as LevelDB's log does.
"""

import asyncio
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from itertools import islice

from kvnode.errors import DamagedBlock
from kvnode.ports import Salvage
from kvnode.storage.commit import Changes, GroupCommit


class MemoryDisk:
    """Durable bytes of one simulated node."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self.sorted_keys: list[bytes] = []
        #: What can't be read, as in a damaged block of a table, until it is written again.
        self.damaged: set[bytes] = set()

    def apply(self, changes: Changes) -> None:
        """Make one batch durable, all of it."""
        for key, value in changes.items():
            self.damaged.discard(key)
            if value is None:
                if self.values.pop(key, None) is not None:
                    del self.sorted_keys[bisect_left(self.sorted_keys, key)]
            else:
                if key not in self.values:
                    insort(self.sorted_keys, key)
                self.values[key] = value


class MemoryEngine:
    """``kvnode.ports.Engine`` over a MemoryDisk."""

    def __init__(
        self,
        disk: MemoryDisk,
        loop: asyncio.AbstractEventLoop,
        *,
        commit_latency_s: Callable[[], float] = lambda: 0.0001,
        failed: Callable[[BaseException], None],
    ) -> None:
        self._disk = disk
        self._loop = loop
        self._commit_latency_s = commit_latency_s
        self._commit = GroupCommit(loop, self._begin, failed)
        self._closed = False

    def get(self, key: bytes) -> bytes | None:
        """See ``kvnode.ports.Engine``."""
        self._check(key)
        return self._disk.values.get(key)

    def latest(self, key: bytes) -> bytes | None:
        """See ``kvnode.ports.Engine``."""
        pending, value = self._commit.pending(key)
        return value if pending else self.get(key)

    def put(self, key: bytes, value: bytes) -> None:
        """See ``kvnode.ports.Engine``."""
        self._commit.put(key, value)

    def delete(self, key: bytes) -> None:
        """See ``kvnode.ports.Engine``."""
        self._commit.put(key, None)

    def before_commit(self, call: Callable[[], None]) -> None:
        """See ``kvnode.ports.Engine``."""
        self._commit.before = call

    def full(self) -> bool:
        """See ``kvnode.ports.Engine``."""
        return self._commit.full

    def settled(self) -> bool:
        """See ``kvnode.ports.Engine``."""
        return self._commit.settled

    def barrier(self, done: Callable[[], None], *, patient: bool = False) -> None:
        """See ``kvnode.ports.Engine``."""
        self._commit.barrier(done, patient=patient)

    def scan(self, start: bytes, stop: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """See ``kvnode.ports.Engine``."""
        keys = list(islice(self._keys(start, stop), limit))
        for key in keys:
            self._check(key)
        return [(key, self._disk.values[key]) for key in keys]

    def salvage(self, start: bytes, stop: bytes, limit: int) -> Salvage:
        """See ``kvnode.ports.Engine``."""
        pairs: list[tuple[bytes, bytes]] = []
        gaps: list[tuple[bytes, bytes]] = []
        for key in self._keys(start, stop):
            if len(pairs) == limit:
                break
            if key in self._disk.damaged:
                gaps.append((key, key + b"\x00"))
            else:
                pairs.append((key, self._disk.values[key]))
        return Salvage(pairs, gaps)

    def _check(self, key: bytes) -> None:
        if key in self._disk.damaged:
            msg = f"the value of {key.hex()} is damaged"
            raise DamagedBlock(msg)

    def _keys(self, start: bytes, stop: bytes) -> Iterator[bytes]:
        keys = self._disk.sorted_keys
        first = bisect_left(keys, start)
        return islice(keys, first, bisect_left(keys, stop, first))

    async def compact(self, start: bytes, stop: bytes) -> int:
        """See ``kvnode.ports.Engine``. What was deleted here takes no space."""
        values = self._disk.values
        return sum(len(key) + len(values[key]) for key in self._keys(start, stop))

    async def close(self) -> None:
        """See ``kvnode.ports.Engine``."""
        if self._closed:
            return
        self._closed = True
        durable = self._loop.create_future()
        self._commit.barrier(lambda: durable.set_result(None))
        await durable

    def _begin(self, changes: Changes) -> None:
        self._loop.call_later(self._commit_latency_s(), self._durable, changes)

    def _durable(self, changes: Changes) -> None:
        try:
            self._disk.apply(changes)
        except OSError as error:
            self._commit.finished(error)
        else:
            self._commit.finished(None)
