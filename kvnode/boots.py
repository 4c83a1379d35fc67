"""Which boot of each peer was seen last: how a disk that was wiped, swapped or restored is noticed.

Rules
-----
1. A node counts its boots on its disk, and gives each a random id. A peer remembers both, on its
   own disk, before it answers.
2. A boot is news when its count is above the one remembered; the same boot may come again. Anything
   else is a disk that does not know its own last boot: an old copy, or an empty one.
3. Peers tell each other what they remember: who was away at a boot knows of it nevertheless.
"""

import struct
from typing import Final

from cluster.ids import NodeId
from kvnode.ports import Engine
from kvnode.storage.keys import BOOT_PREFIX, boot_key, node_of_boot
from kvnode.storage.ranges import all_with

BOOT_ID_BYTES: Final = 8
_ROW: Final = struct.Struct(f">Q{BOOT_ID_BYTES}s")


class Boots:
    """What one node remembers of its peers."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def meet(self, peer: NodeId, count: int, boot_id: bytes) -> int | None:
        """Judge a peer's boot, and remember it if it is news.

        Returns:
            None if it is in order, else the count that is remembered.
        """
        stored = self._engine.latest(boot_key(peer))
        if stored is not None:
            known_count, known_id = _ROW.unpack(stored)
            if count < known_count or (count == known_count and boot_id != known_id):
                return int(known_count)
        row = _ROW.pack(count, boot_id)
        if row != stored:
            self._engine.put(boot_key(peer), row)
        return None

    def told(self) -> list[list[str | int | bytes]]:
        """[peer, count, boot id] of each that is remembered, for other peers."""
        return [
            [node_of_boot(key), *_ROW.unpack(row)]
            for key, row in all_with(self._engine, BOOT_PREFIX)
        ]
