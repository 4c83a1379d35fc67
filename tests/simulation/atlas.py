"""Which copies faults have destroyed: so checks know exactly what is still promised, and no more.

Rules
-----
1. A copy is destroyed when its disk is wiped, put back to an old copy or damaged, and as good as
   destroyed when its machine is away for so long that the others purge without it.
2. A destroyed copy counts no more among the replicas of the writes before it.
3. Only a document of which no other disk had all that was destroyed is *lost*; nothing is promised
   of it but that it does not come back once it was purged.
4. A machine that is away can't know what the others purge. It is told, and fenced, when it returns.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from cluster.ids import DocumentId, NodeId
from kvnode.codec import decode
from kvnode.errors import CorruptRecord
from kvnode.hints import decode_hint
from kvnode.record import Record, merge
from kvnode.storage.keys import document_id_of, hint_key, record_key
from tests.simulation.disk import SimDisk

#: Prefixes of records, hints and votes.
_OF_DOCUMENTS: Final = (b"r", b"h", b"v")


class Atlas:
    """Of one cluster.

    Args:
        disks: Of every node, by name.
        true_s: Virtual time.
    """

    def __init__(self, disks: Mapping[str, SimDisk], true_s: Callable[[], float]) -> None:
        self._disks = disks
        self._true_s = true_s
        #: When and where copies of a document were destroyed.
        self._destroyed: dict[bytes, list[tuple[float, str]]] = {}
        self.lost: dict[bytes, None] = {}
        #: Machines without which others have purged, and whether they have been told since.
        self._away: dict[str, bool] = {}
        #: Machines that went away with others, and which.
        self._together: dict[str, Sequence[str]] = {}

    def destroys(self, machine: str) -> None:
        """All that a disk holds is about to go."""
        gone = self._together.get(machine, (machine,))
        others = [name for name in self._disks if name not in gone]
        keys = [key for key in self._disks[machine].values if key[:1] in _OF_DOCUMENTS]
        for document_id in dict.fromkeys(document_id_of(key) for key in keys):
            self._note(machine, document_id)
            held = self._joined(document_id, [machine])
            if held is not None and not covers(self._joined(document_id, others), held):
                self.lost[document_id] = None

    def damages(self, machine: str, document_id: bytes) -> bool:
        """One record may be about to be damaged; not if it is the last that can be read."""
        others = [name for name in self._disks if name != machine]
        held = self._joined(DocumentId(document_id), [machine])
        if held is None or not covers(self._joined(DocumentId(document_id), others), held):
            return False
        self._note(machine, document_id)
        return True

    def destroyed_since(self, document_id: bytes, start_s: float) -> int:
        """How many copies of a document were destroyed since a time."""
        return sum(at_s >= start_s for at_s, _ in self._destroyed.get(document_id, ()))

    def was_struck(self, machine: str, document_id: bytes) -> bool:
        """Whether a machine's copy of a document was destroyed."""
        return any(name == machine for _, name in self._destroyed.get(document_id, ()))

    def go_away(self, machines: Sequence[str]) -> None:
        """The others begin to purge without a region."""
        self._together |= dict.fromkeys(machines, machines)
        for machine in machines:
            self.goes_away(machine)

    def goes_away(self, machine: str) -> None:
        """The others begin to purge without a machine."""
        if self._away.get(machine, True):
            self._away[machine] = False
            self.destroys(machine)

    def is_told(self, machine: str) -> None:
        """A machine is fenced: it knows that it was away."""
        if not self._away.get(machine, True):
            self._away[machine] = True
            self.destroys(machine)  # what it took meanwhile

    def was_ever_away(self, machine: str) -> bool:
        """Whether the others have purged without a machine."""
        return machine in self._away

    def _note(self, machine: str, document_id: bytes) -> None:
        self._destroyed.setdefault(document_id, []).append((self._true_s(), machine))

    def _joined(
        self, document_id: DocumentId, names: list[str], apart_from: tuple[str, bytes] | None = None
    ) -> Record | None:
        """The join of all records and hints of a document on some disks."""
        joined: Record | None = None
        for name in names:
            values = self._disks[name].values
            copies = [values.get(record_key(document_id))]
            for target in self._disks:
                key = hint_key(NodeId(target), document_id)
                if key in values and (name, key) != apart_from:
                    copies.append(decode_hint(values[key])[1])
            for encoded in copies:
                record = readable(document_id, encoded)
                if record is not None:
                    joined = record if joined is None else merge(joined, record)
        return joined


def readable(document_id: bytes, encoded: bytes | None) -> Record | None:
    """The record, or None when there is none or it is damaged."""
    try:
        return decode(document_id, encoded) if encoded else None
    except CorruptRecord:
        return None


def covers(held: Record | None, wanted: Record) -> bool:
    """Whether ``wanted`` would add nothing to ``held``."""
    return held is not None and merge(held, wanted) is held
