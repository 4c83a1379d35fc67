"""What a simulated machine keeps when its processes die, and how much room there is for it."""

import errno
from collections.abc import Callable, Mapping
from typing import Final

from cluster.ids import DocumentId, NodeId
from kvnode.storage.commit import Changes
from kvnode.storage.keys import RECORD_PREFIX, hint_key
from kvnode.storage.memory import MemoryDisk

_FREE_BYTES: Final = 1 << 30

#: Called before each commit reaches the disk, with what it changes.
OnCommit = Callable[["SimDisk", Changes], None]


class SimDisk(MemoryDisk):
    """Durable bytes of one node; every commit is shown to whoever watches the cluster."""

    def __init__(self, name: str, on_commit: OnCommit) -> None:
        super().__init__()
        self.name = name
        #: Whether the next commits fail; and whether what fails is there all the same.
        self.failing: bool | None = None
        self._on_commit = on_commit

    def apply(self, changes: Changes) -> None:
        """Make one batch durable, all of it. Raises OSError."""
        if self.failing is not False:
            self._on_commit(self, changes)
            super().apply(changes)
        if self.failing is not None:
            raise OSError(errno.EIO, "the disk fails")

    def holds_hint(self, target: NodeId, document_id: DocumentId) -> bool:
        """Whether a hint for ``target`` is durable here."""
        return hint_key(target, document_id) in self.values

    def record_count(self) -> int:
        """How many records are durable here."""
        return sum(key.startswith(RECORD_PREFIX) for key in self.values)

    def lose(self, key: bytes) -> None:
        """Forget a value, as a disk that failed and was replaced has."""
        super().apply({key: None})

    def replace(self, values: Mapping[bytes, bytes]) -> None:
        """Hold something else, as after a restore from a backup."""
        self.values = dict(values)
        self.sorted_keys = sorted(values)
        self.damaged.clear()

    def flip(self, key: bytes, position: int) -> None:
        """Invert one byte of a value, unseen by the engine."""
        damaged = bytearray(self.values[key])
        damaged[position] ^= 0xFF
        self.values[key] = bytes(damaged)


class SimSpace:
    """``kvnode.node.Disk``: free space as a test sets it."""

    def __init__(self) -> None:
        self.free_bytes = _FREE_BYTES
        self.low = False

    def check(self) -> None:
        """Nothing to measure."""
