"""Hints whose window has passed: before they are dropped, some owner has their document.

A write that no owner was up for is acknowledged on hints alone. As long as none is, they are all
that is left of the document, and stay, however old they are.
"""

from collections.abc import Callable, Sequence

from cluster.ids import DocumentId, NodeId, partition_of
from cluster.preference import Target
from cluster.ring import Ring
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
        ring: Ring,
        node: NodeId,
        merges: Merges,
        *,
        is_up: Callable[[NodeId], bool],
        log: Log,
    ) -> None:
        self._replica = replica
        self._ring = ring
        self._node = node
        self._merges = merges
        self._is_up = is_up
        self._log = log

    def is_here(self, hint: Hint) -> bool:
        """Whether this node is an owner that has on disk what the hint has."""
        document_id, value = hint
        if not self._replica.serves(partition_of(document_id, self._ring.partitions)):
            return False
        _, record = decode_hint(value)
        try:
            held = self._replica.get(document_id)
            return held is not None and (
                held[1] == record or merge(held[0], decode(document_id, record)) is held[0]
            )
        except CorruptRecord:
            return False

    async def entrust(self, target: NodeId, hints: Sequence[Hint], deadline_s: float) -> None:
        """Send each to an owner that is up; drop those that this has on disk then."""
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
        dropped = 0
        for (document_id, value), sender in sent:
            held = await sender.outcome
            if not isinstance(held, Lost) or held.code == LateCopy.code:
                dropped += self._replica.hint_store.release(target, document_id, value, "expired")
        await self._replica.durable()
        if dropped:
            self._log.warning("hint.dropped", reason="expired", target=target, hints=dropped)
        if len(hints) > dropped:
            self._log.warning("hint.kept", reason="no owner has it", hints=len(hints) - dropped)

    def _owner_of(self, document_id: DocumentId) -> NodeId | None:
        owners = self._ring.primaries(partition_of(document_id, self._ring.partitions))
        up = [owner for owner in owners if owner != self._node and self._is_up(owner)]
        return up[0] if up else None
