"""Which boots of each peer are remembered: how a disk that was wiped or restored is noticed.

Rules
-----
1. A node gives each of its boots a number and a random id, and keeps them all on its disk. A peer
   remembers the one that it met last, on its own disk, before it confirms it.
2. A new boot is confirmed once its node knows what the peer remembers: from its disk, or because it
   has fenced itself for not knowing it. The same boot may come again.
3. A disk that does not know a boot of its own node is an old copy, or an empty one. Numbers alone
   would not show that: one that starts several times before it reaches anybody catches up.
4. Peers tell each other what they remember: who was away at a boot knows of it nevertheless. What
   was heard is remembered beside what was met, and never in its place: it may be of a disk that is
   an old copy itself, and was believed by somebody who did not know better.
"""

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from cluster.ids import NodeId
from kvnode.ports import Engine
from kvnode.storage.keys import BOOT_PREFIX, boot_key, node_of_boot, own_boot_key
from kvnode.storage.ranges import all_with

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

    def meet(self, peer: NodeId, boot: Boot, known: Sequence[Boot]) -> list[Boot]:
        """Confirm a peer's boot, and remember it.

        Args:
            known: What the peer says that it knows (rule 2).

        Returns:
            Nothing if it is in order, else what is remembered and not known there.
        """
        remembered = self._remembered(peer)
        unknown = [one for one in remembered if one != boot and one not in known]
        if not unknown and remembered != [boot]:
            self._remember(peer, [boot])
        return unknown

    def hear(self, peer: NodeId, boot: Boot) -> None:
        """Another one has met a boot of a peer; see rule 4."""
        remembered = self._remembered(peer)
        if all(one.number < boot.number for one in remembered):
            self._remember(peer, [*remembered[:1], boot])

    def told(self) -> list[tuple[NodeId, Boot]]:
        """The newest boot that is remembered of each peer, for the others."""
        return [
            (node_of_boot(key), decode_boots(row)[-1])
            for key, row in all_with(self._engine, BOOT_PREFIX)
        ]

    def knows(self, boot: Boot) -> bool:
        """Whether this node's disk knows a boot of its own node."""
        return self._engine.latest(own_boot_key(*boot)) is not None

    def learn(self, boot: Boot) -> None:
        """Know one from now on; to be called in the stretch of code that sets the fences."""
        self._engine.put(own_boot_key(*boot), b"")

    def _remembered(self, peer: NodeId) -> list[Boot]:
        """What was met last, and what was heard since, of a peer; the newest is the last."""
        row = self._engine.latest(boot_key(peer))
        return decode_boots(row) if row is not None else []

    def _remember(self, peer: NodeId, boots: Sequence[Boot]) -> None:
        self._engine.put(boot_key(peer), b"".join(_ROW.pack(*boot) for boot in boots))


def decode_boots(row: bytes) -> list[Boot]:
    """What is remembered of a peer on a disk; the newest is the last."""
    return [Boot(*fields) for fields in _ROW.iter_unpack(row)]
