"""How the leaves of the hash trees are kept on disk: a row a batch, not a row a leaf.

Every record changes a leaf, and hardly any two of a batch the same one. A row for each would be as
many rows as records: a tenth of the CPU of a create. So a batch puts the leaves that it changed in
one row, and now and then all leaves are written out.

Rules
-----
1. Batches are numbered. Number n goes to slot n modulo SLOTS, with its number in front: a slot is
   written over, never deleted.
2. All leaves are written out, in chunks, in the batch that would write over a slot that is still
   needed, or once the changes are as many as the leaves. Each chunk tells the number of that batch.
3. To restore: the chunks, then the changes of later batches in their order.
"""

import struct
from collections.abc import Iterable
from typing import Final

from kvnode.hashtree import DIGEST_BYTES, LEAVES, HashForest
from kvnode.ports import Engine
from kvnode.storage.keys import change_key, leaves_key

SLOTS: Final = 4096
_CHUNK_LEAVES: Final = 4096
_NUMBER: Final = struct.Struct(">Q")
_CHANGE: Final = struct.Struct(">HQ")


class LeafLog:
    """Of one node's trees."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        #: Of the last batch that changed leaves.
        self._number = 0
        #: Of the batch in which all leaves were written out.
        self._written_out = 0
        self._changes_since = 0

    def restore(
        self, forest: HashForest, chunks: Iterable[bytes], changes: Iterable[bytes]
    ) -> None:
        """Put what is stored into a forest without leaves.

        Args:
            chunks: The values under LEAVES_PREFIX, in the order of their keys.
            changes: The values under CHANGES_PREFIX.
        """
        first = 0
        for chunk in chunks:
            self._written_out = self._number = _NUMBER.unpack_from(chunk)[0]
            count = (len(chunk) - _NUMBER.size) // DIGEST_BYTES
            for digest in struct.unpack_from(f">{count}Q", chunk, _NUMBER.size):
                if digest:
                    forest.restore_leaf(first, digest)
                first += 1
        later = sorted(
            (number, change)
            for change in changes
            if (number := _NUMBER.unpack_from(change)[0]) > self._written_out
        )
        for number, change in later:
            for tail, digest in _CHANGE.iter_unpack(change[_NUMBER.size :]):
                forest.restore_leaf(tail, digest)
                self._changes_since += 1
            self._number = number

    def put(self, forest: HashForest, changed: list[tuple[int, int]]) -> None:
        """Store the leaves that a batch changed, in that batch."""
        self._number += 1
        self._changes_since += len(changed)
        if self._number - self._written_out >= SLOTS or self._changes_since >= LEAVES:
            self._write_out(forest)
            return
        packed = b"".join([_CHANGE.pack(tail, digest) for tail, digest in changed])
        self._engine.put(change_key(self._number % SLOTS), _NUMBER.pack(self._number) + packed)

    def _write_out(self, forest: HashForest) -> None:
        self._written_out, self._changes_since = self._number, 0
        number = _NUMBER.pack(self._number)
        for chunk, first in enumerate(range(0, LEAVES, _CHUNK_LEAVES)):
            packed = forest.pack_leaves(first, _CHUNK_LEAVES)
            self._engine.put(leaves_key(chunk), number + packed)
