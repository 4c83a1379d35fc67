"""What a chaos run knows besides what its clients heard: what it destroyed, and how it ended.

Rules
-----
1. Before a strike destroys a node's disk, the disk is read, and the other owners are asked for all
   that it held. A document is lost when no other replica had all of it. (Hints on other nodes are
   not seen, so a few are taken for lost that are not: they are counted in the verdict.)
2. What is on the disks in the end is read from the disks themselves, once the nodes have stopped.
3. How far a purge is can't be seen from outside. A deleted document may be off the disks as soon as
   its retention is over; it surely is not read again once the cluster has healed.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf

from cluster.ids import DocumentId, NodeId
from docservice.documents import DocumentDeleted
from kvnode.record import Record, merge
from kvnode.results import Stored
from scripts.chaos.disks import DiskContents
from scripts.chaos.replicas import Replicas
from scripts.checker.evidence import Bounds, Violation
from scripts.checker.history import Kind, Operation


class Destroyed:
    """Which copies strikes have destroyed; see ``scripts.checker.evidence.Damage``."""

    def __init__(self) -> None:
        self.lost: dict[bytes, None] = {}
        self._times: dict[bytes, list[float]] = {}

    def destroyed_since(self, document_id: bytes, start_s: float) -> int:
        """How many copies of a document were destroyed since a time."""
        return sum(at_s >= start_s for at_s in self._times.get(document_id, ()))

    async def destroys(
        self, machine: str, disk: DiskContents, replicas: Replicas, at_s: float
    ) -> None:
        """All that a node's disk holds is about to go."""
        documents = list(disk.documents())
        for document_id in documents:
            self._times.setdefault(document_id, []).append(at_s)

        def others(document_id: DocumentId) -> list[NodeId]:
            return [owner for owner in replicas.owners(document_id) if owner != machine]

        found = await replicas.copies(documents, others)
        for document_id, copies in zip(documents, found, strict=True):
            held = _joined([disk.records.get(document_id), *disk.hints.get(document_id, ())])
            elsewhere = _joined([copy if isinstance(copy, Record) else None for copy in copies])
            if held is not None and (elsewhere is None or merge(elsewhere, held) is not elsewhere):
                self.lost[document_id] = None

    def sets_back(
        self,
        owned: Callable[[DocumentId], bool],
        since_s: float,
        at_s: float,
        history: Sequence[Operation],
    ) -> None:
        """A node's copies are gone, and what they were is not known.

        Args:
            owned: Whether the node keeps a copy of a document.
            since_s: Until then, everything it had was elsewhere as well.
        """
        for op in history:
            if op.document_id is None or op.invoked_s > at_s or not owned(op.document_id):
                continue
            times = self._times.setdefault(op.document_id, [])
            if at_s not in times:
                times.append(at_s)
            if op.acknowledged and op.invoked_s >= since_s and op.replicas < 2:
                self.lost[op.document_id] = None


def _joined(records: Iterable[Record | None]) -> Record | None:
    joined: Record | None = None
    for record in records:
        if record is not None:
            joined = record if joined is None else merge(joined, record)
    return joined


class Witness:
    """See ``scripts.checker.evidence.Evidence``.

    Args:
        healed_s: When all replicas were seen to agree; infinite if they were not.
        ended_s: When the nodes had stopped.
        disks: By node, as they were then.
        retention_s: How long a deletion is remembered at least.
    """

    def __init__(
        self,
        history: list[Operation],
        *,
        bounds: Bounds,
        atlas: Destroyed,
        expires_ms: Mapping[bytes, int],
        disks: Mapping[str, DiskContents],
        healed_s: float,
        ended_s: float,
        retention_s: float,
    ) -> None:
        self.bounds, self.atlas, self.expires_ms = bounds, atlas, expires_ms
        self.level_s = healed_s
        self.contents: dict[bytes, DocumentId] = {}
        self.deleted: dict[DocumentId, None] = {}
        self.violations: list[Violation] = []
        for disk in disks.values():
            for document_id, record in disk.records.items():
                self._on_disk(document_id, record)
        self.purged_s: dict[bytes, float] = {}
        self.gone_s: dict[bytes, float] = {}
        deleted = {op.document_id for op in history if op.kind is Kind.DELETE}
        for op in history:
            if op.document_id is None or op.document_id not in deleted:
                continue
            if op.kind is Kind.DELETE and op.invoked_s + retention_s <= ended_s:
                over_s = op.invoked_s + retention_s
                self.purged_s[op.document_id] = min(over_s, self.purged_s.get(op.document_id, inf))
            heard = isinstance(op.answer, Stored | DocumentDeleted)
            if heard and op.invoked_s < healed_s < inf and op.document_id not in atlas.lost:
                self.gone_s[op.document_id] = healed_s

    def holders_during(self, document_id: bytes, start_s: float, end_s: float) -> list[str]:
        """Not known of any document at any time."""
        del document_id, start_s, end_s
        return []

    def is_misled(self, machine: str, at_s: float) -> bool:
        """No region is ever said to be gone."""
        del machine, at_s
        return False

    def away_between(self, start_s: float, end_s: float) -> list[str]:
        """None; see above."""
        del start_s, end_s
        return []

    def _on_disk(self, document_id: DocumentId, record: Record) -> None:
        if record.tombstone is not None:
            self.deleted[document_id] = None
        if record.create is not None:
            known = self.contents.setdefault(record.create.content, document_id)
            if known != document_id:
                what = f"one content under two ids, the other is {known.hex()}"
                self.violations.append(Violation("I9", what, document_id))
