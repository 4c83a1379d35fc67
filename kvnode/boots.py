"""Which boot of each peer was met last: how a disk that was wiped, swapped or restored is noticed.

Rules
-----
1. A node gives each of its boots a number and a random id, and keeps them all on its disk. A peer
   remembers the one that it met last, on its own disk, before it confirms it.
2. A new boot is confirmed once its node knows the one that the peer remembers: from its disk, or
   because it has fenced itself for not knowing it. The same boot may come again.
3. A disk that does not know a boot of its own node is an old copy, or an empty one. Numbers alone
   would not show that: one that starts several times before it reaches anybody catches up.

Nobody remembers what never spoke to it, so a node asks each of its co-owners, at each connection.
"""

import struct
from typing import Final, NamedTuple

from cluster.ids import NodeId
from kvnode.ports import Engine
from kvnode.storage.keys import boot_key, own_boot_key

BOOT_ID_BYTES: Final = 8
_ROW: Final = struct.Struct(f">Q{BOOT_ID_BYTES}s")


class Boot(NamedTuple):
    """One start of one node."""

    number: int
    boot_id: bytes


def boot_from_wire(field: object) -> Boot:
    """A boot as it travels, [number, boot_id]. Raises TypeError or ValueError if it is none."""
    if not isinstance(field, list):
        raise TypeError("not a boot's number and id")
    number, boot_id = field
    if not (isinstance(number, int) and isinstance(boot_id, bytes)):
        raise TypeError("not a boot's number and id")
    if not (0 <= number < 1 << 64 and len(boot_id) == BOOT_ID_BYTES):
        raise ValueError("a boot's number or id is out of range")
    return Boot(number, boot_id)


class Boots:
    """What one node remembers of its peers' boots, and knows of its own."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def meet(self, peer: NodeId, boot: Boot, known: Boot | None) -> Boot | None:
        """Confirm a peer's boot, and remember it.

        Args:
            known: What the peer says that it knows (rule 2).

        Returns:
            None if it is in order, else the boot that is remembered.
        """
        stored = self._engine.latest(boot_key(peer))
        if stored is not None:
            remembered = Boot(*_ROW.unpack(stored))
            if remembered == boot:
                return None
            if remembered != known:
                return remembered
        self._engine.put(boot_key(peer), _ROW.pack(*boot))
        return None

    def knows(self, boot: Boot) -> bool:
        """Whether this node's disk knows a boot of its own node."""
        return self._engine.latest(own_boot_key(*boot)) is not None

    def learn(self, boot: Boot) -> None:
        """Know one from now on; to be called in the stretch of code that sets the fences."""
        self._engine.put(own_boot_key(*boot), b"")
