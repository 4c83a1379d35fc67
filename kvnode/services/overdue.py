"""Hints whose window has passed: before they are dropped, some owner has their document.

A write that no owner was up for is acknowledged on hints alone. As long as none is, they are all
that is left of the document, and stay, however old they are. So it is with hints for a node that is
no owner any more: they are another owner's now.
"""

from collections.abc import Callable, Sequence

from cluster.ids import DocumentId, NodeId, partition_of
from cluster.layout import Rings
from cluster.preference import Target
from kvnode.codec import decode
from kvnode.errors import CorruptRecord, LateCopy
from kvnode.hints import decode_hint
from kvnode.log import Log
from kvnode.merging import Awaited, Merges
from kvnode.record import merge
from kvnode.replica import Replica
from kvnode.rpc.connection import Lost

#: (id, the hint's value).
Hint = tuple[DocumentId, bytes]


class Overdue:
    """For ``kvnode.services.handoff``, rule 4.

    Args:
        is_up: Whether requests to a node have a chance now.
    """

    def __init__(
        self,
        replica: Replica,
        rings: Rings,
        node: NodeId,
        merges: Merges,
        *,
        is_up: Callable[[NodeId], bool],
        log: Log,
    ) -> None:
        self._replica = replica
        self._hints = replica.hint_store
        self._rings = rings
        self._region = rings.region_of[node]
        self._node = node
        self._merges = merges
        self._is_up = is_up
        self._log = log

    def is_moved(self, target: NodeId, document_id: DocumentId) -> bool:
        """Whether a hint's target is no owner of its document."""
        partition = partition_of(document_id, self._rings.partitions)
        return target not in self._rings.owners_in(self._region, partition)

    def is_member(self, target: NodeId) -> bool:
        """Whether a hint's target owns anything, or may do so."""
        return target in self._rings.layouts[self._region].ids

    def is_here(self, hint: Hint) -> bool:
        """Whether this node is an owner that has on disk what the hint has."""
        document_id, value = hint
        if not self._replica.serves(partition_of(document_id, self._rings.partitions)):
            return False
        _, record = decode_hint(value)
        try:
            held = self._replica.get(document_id)
            return held is not None and (
                held[1] == record or merge(held[0], decode(document_id, record)) is held[0]
            )
        except CorruptRecord:
            return False

    async def entrust(self, target: NodeId, hints: Sequence[Hint], deadline_s: float) -> bool:
        """Send each to an owner that is up; drop those that this has on disk then.

        Returns:
            Whether none is left.
        """
        sent: list[tuple[Hint, Awaited]] = []
        for hint in hints:
            document_id, value = hint
            owner = self._owner_of(document_id)
            if owner is None:
                continue
            sender = Awaited()
            sent.append((hint, sender))
            _, record = decode_hint(value)
            self._merges.send(Target(owner), document_id, record, deadline_s, sender, patient=True)
        dropped = delivered = 0
        for (document_id, value), sender in sent:
            held = await sender.outcome
            if isinstance(held, Lost) and held.code != LateCopy.code:
                continue
            if self.is_moved(target, document_id):
                delivered += self._hints.release(target, document_id, value, "delivered")
            else:
                dropped += self._hints.release(target, document_id, value, "expired")
        await self._replica.durable()
        if delivered:
            self._log.info("hint.delivered", target=target, hints=delivered, moved=True)
        if dropped:
            self._log.warning("hint.dropped", reason="expired", target=target, hints=dropped)
        if kept := len(hints) - dropped - delivered:
            self._log.warning("hint.kept", reason="no owner has it", hints=kept)
        return not kept

    def _owner_of(self, document_id: DocumentId) -> NodeId | None:
        ring = self._rings.by_region[self._region]
        owners = ring.voters(partition_of(document_id, ring.partitions))
        up = [owner for owner in owners if owner != self._node and self._is_up(owner)]
        return up[0] if up else None
