"""Before a node serves a partition, a co-owner has confirmed that its disk is the one it left.

Rules
-----
1. A partition is *joining* until one of its other owners has answered a check-in of this boot, and
   says "unknown" to reads until then. A partition without other owners is not.
2. A peer first tells which boot it remembers. If this disk does not know it, it is an old copy or
   an empty one: all of the node's partitions are fenced, durably, and the boot count is raised
   above it. Then, or if it does know it, the node says so, and the peer confirms this boot.
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
from kvnode.boots import Boot, boot_from_wire
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
        boot: This one.
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
        boot: Boot,
        raise_boot_count: Callable[[int], None],
        transport: Transport,
        clock: Clock,
        log: Log,
    ) -> None:
        self._replica = replica
        self._ring = ring
        self._node = node
        self._boot = boot
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

    async def run_once(self) -> Work:
        """Ask those again who did not answer."""
        for peer in self.unanswered:
            self._send(peer)
        return Work.IDLE

    def _send(self, peer: NodeId, known: Boot | None = None) -> None:
        deadline_s = self._clock.monotonic_s() + REQUEST_TIMEOUT_S
        fields = [self._boot, known]
        self._transport.request(
            peer, Op.CHECKIN, deadline_s, fields, 64, partial(self._on_answer, peer)
        )

    def _on_answer(self, peer: NodeId, outcome: Outcome) -> None:
        if isinstance(outcome, Lost):
            return
        try:
            told, floors = outcome
            remembered = boot_from_wire(told) if told is not None else None
            self._meet_floors(peer, floors)
        except (TypeError, ValueError, IndexError) as error:
            self._log.warning("checkin.refused", peer=peer, reason=f"its answer is none: {error}")
            return
        if remembered is not None:
            if not self._replica.boots.knows(remembered):
                self._disown(peer, remembered)
            self._send(peer, remembered)
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

    def _disown(self, peer: NodeId, remembered: Boot) -> None:
        """This disk is not the one of the last boot; see rule 2."""
        self._log.warning(
            "node.fenced",
            peer=peer,
            reason="a peer remembers a boot that is not known here",
            boots=remembered.number,
        )
        self._replica.boots.learn(remembered)
        self._boot = Boot(max(self._boot.number, remembered.number) + 1, self._boot.boot_id)
        self._raise_boot_count(self._boot.number)
        for partition in self._ring.partitions_of(self._node):
            self._replica.set_fenced(partition, True)
