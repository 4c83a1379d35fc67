"""Before a node serves a partition, a co-owner has confirmed that its disk is the one it left.

Rules
-----
1. A partition is *joining* until one of its other owners has answered a check-in of this boot, and
   says "unknown" to reads until then. A partition without other owners is not.
2. A peer that remembers a later boot knows that this disk is an old copy or an empty one: all of
   the node's partitions are fenced, durably, and the boot count is raised above that one. What it
   had for other regions is lost with it, and owed (``kvnode.outbox``).
3. A peer also tells how far it has purged. A floor that was never promised here fences its
   partition: this node was given up for too long an absence, or its disk is an old copy. A peer's
   mere promise says nothing: somebody else may have refused, and this node would be fenced for it.
4. It is repeated with every connection, for a node that was cut off for long has not restarted.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from cluster.ids import NodeId
from cluster.ring import Ring
from kvnode.log import Log
from kvnode.ports import Clock
from kvnode.replica import Replica
from kvnode.rpc.connection import Lost, Outcome
from kvnode.rpc.operations import Op
from kvnode.rpc.transport import Transport
from kvnode.services.loop import Work

REQUEST_TIMEOUT_S: Final = 2.0


class CheckIn:
    """A service (``kvnode.services.loop``), for those who did not answer at once.

    Args:
        boot_count: Of this boot.
        raise_boot_count: Stores a higher count, in the batch that is being gathered.
    """

    name = "check-in"
    interval_s = 0.5

    def __init__(
        self,
        replica: Replica,
        ring: Ring,
        node: NodeId,
        *,
        boot_count: int,
        boot_id: bytes,
        raise_boot_count: Callable[[int], None],
        transport: Transport,
        clock: Clock,
        log: Log,
    ) -> None:
        self._replica = replica
        self._ring = ring
        self._node = node
        self._boot_count = boot_count
        self._boot_id = boot_id
        self._raise_boot_count = raise_boot_count
        self._transport = transport
        self._clock = clock
        self._log = log
        #: Peers whose answer to this connection's check-in is missing.
        self._unanswered: dict[NodeId, None] = {}
        for partition in ring.partitions_of(node):
            others = [one for one in ring.primaries(partition) if one != node]
            replica.joining[partition] = bool(others)

    @property
    def unanswered(self) -> list[NodeId]:
        """Connected peers that have not confirmed this boot yet."""
        return [peer for peer in self._unanswered if self._transport.connected(peer)]

    @property
    def joining_count(self) -> int:
        """Partitions that nobody has confirmed yet."""
        return sum(self._replica.joining)

    def peer_connected(self, peer: NodeId) -> None:
        """Check in with a peer."""
        self._unanswered[peer] = None
        self._send(peer)

    def is_confirmed(self, peer: NodeId) -> bool:
        """Whether a connected peer has confirmed this boot."""
        return self._transport.connected(peer) and peer not in self._unanswered

    async def run_once(self) -> Work:
        """Ask those again who did not answer."""
        for peer in self.unanswered:
            self._send(peer)
        return Work.IDLE

    def _send(self, peer: NodeId) -> None:
        deadline_s = self._clock.monotonic_s() + REQUEST_TIMEOUT_S
        fields = [self._boot_count, self._boot_id]
        self._transport.request(
            peer, Op.CHECKIN, deadline_s, fields, 64, partial(self._on_answer, peer)
        )

    def _on_answer(self, peer: NodeId, outcome: Outcome) -> None:
        if isinstance(outcome, Lost):
            return
        try:
            remembered, floors = outcome
            self._meet_floors(peer, floors)
        except (TypeError, ValueError, IndexError) as error:
            self._log.warning("checkin.refused", peer=peer, reason=f"its answer is none: {error}")
            return
        if isinstance(remembered, int):
            self._disown(peer, remembered)
            self._send(peer)
            return
        self._unanswered.pop(peer, None)
        for partition in self._ring.partitions_of(peer):
            self._replica.joining[partition] = False

    def _meet_floors(self, peer: NodeId, floors: Sequence[Sequence[int]]) -> None:
        """See rule 3."""
        fenced_before = sum(self._replica.fenced)
        for partition, bucket, newest_deleted_ms in floors:
            if self._replica.owns(partition):
                self._replica.meet_floor(partition, bucket, newest_deleted_ms)
        if fenced := sum(self._replica.fenced) - fenced_before:
            self._log.warning(
                "node.fenced",
                peer=peer,
                reason="a peer has purged without this node",
                partitions=fenced,
            )

    def _disown(self, peer: NodeId, remembered: int) -> None:
        """This disk is not the one of the last boot; see rule 2."""
        self._log.warning(
            "node.fenced", peer=peer, reason="a peer remembers a later boot", boots=remembered
        )
        self._boot_count = max(self._boot_count, remembered) + 1
        self._raise_boot_count(self._boot_count)
        for partition in self._ring.partitions_of(self._node):
            self._replica.set_fenced(partition, True)
        self._replica.outbox.owe_all()
