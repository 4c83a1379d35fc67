"""Asking co-owners whether this disk is the one the node left, and whether they purged without it.

Rules
-----
1. What is held of a partition is believed while it has a lease (``kvnode.leases``): answers of its
   other owners, of this boot. Without one the partition is *joining*: it says "unknown" to reads.
2. A peer first tells which boots it remembers. If this disk does not know one, it is an old copy or
   an empty one: all of the node's partitions are fenced, durably, and the boot count is raised
   above it; what it had for other regions is lost with it, and owed (``kvnode.outbox``). Then, or
   if it knows them all, the node says so, and the peer confirms this boot.
3. A peer also tells how far it has purged. A floor that was never promised here fences its
   partition: this node was given up for too long an absence, or its disk is an old copy. A peer's
   mere promise says nothing: somebody else may have refused, and this node would be fenced for it.
4. Joining ends when all owners that are connected, or may yet be, have answered: one may know what
   another missed. A peer tells what it remembers of others as well, so it is enough that somebody
   who knows of a later boot has since met somebody who is up.
5. It is repeated with every connection, and in time before the leases end.

With one other owner up, and that one knowing nothing, an old copy of a disk is believed until
somebody comes back who knows better. To wait for all would mean that no node could be restarted
while another is down.
"""

from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from typing import Final

from cluster.ids import NodeId, PartitionId
from cluster.layout import Rings
from kvnode.boots import Boot, boot_from_wire
from kvnode.leases import lease_end_s
from kvnode.log import Log
from kvnode.ports import Clock
from kvnode.replica import Replica
from kvnode.rpc.connection import Lost, Outcome
from kvnode.rpc.operations import Op
from kvnode.rpc.transport import Transport
from kvnode.services.loop import Work

REQUEST_TIMEOUT_S: Final = 2.0
#: Leases are renewed when this much of them is over, and at least once in ``RENEW_S``.
RENEW_SHARE: Final = 0.1
RENEW_S: Final = 60.0


class CheckIn:
    """A service (``kvnode.services.loop``): leases are renewed, and who did not answer asked again.

    Args:
        boot: This one.
        raise_boot_count: Stores a higher count, in the batch that is being gathered.
        lease_s: See ``kvnode.leases``.
        grace_s: How long after this node's start peers may yet connect.
    """

    name = "check-in"
    interval_s = 0.5

    def __init__(
        self,
        replica: Replica,
        rings: Rings,
        node: NodeId,
        *,
        boot: Boot,
        raise_boot_count: Callable[[int], None],
        lease_s: float,
        grace_s: float,
        transport: Transport,
        clock: Clock,
        log: Log,
    ) -> None:
        self._replica = replica
        self._node = node
        self._boot = boot
        self._raise_boot_count = raise_boot_count
        self._transport = transport
        self._clock = clock
        self._log = log
        self._lease_s = lease_s
        self._renew_s = min(RENEW_SHARE * lease_s, RENEW_S)
        self._graced_until_s = clock.monotonic_s() + grace_s
        #: Peers whose answer to this connection's check-in is missing.
        self._unanswered: dict[NodeId, None] = {}
        #: When the latest check-in was sent that a peer has answered and found in order.
        self._answered_s: dict[NodeId, float] = {}
        self._rings = rings
        self._others: dict[PartitionId, list[NodeId]] = {}
        self._witnesses: dict[PartitionId, list[NodeId]] = {}
        self.review()

    def review(self) -> None:
        """Owners have changed: a partition that is new here needs a lease."""
        rings, node, before = self._rings, self._node, self._others
        region = rings.region_of[node]
        self._others = {
            partition: [one for one in rings.owners_in(region, partition) if one != node]
            for partition in rings.partitions_of(node)
        }
        self._witnesses = {
            partition: [one for one in rings.owners(partition) if one != node]
            for partition in self._others
        }
        for partition, others in self._others.items():
            if partition not in before:
                self._replica.leased_until_s[partition] = -inf if others else inf
                if self._answered_s:
                    self._grant(partition)

    @property
    def unanswered(self) -> list[NodeId]:
        """Connected peers that have not confirmed this boot yet."""
        return [peer for peer in self._unanswered if self._transport.connected(peer)]

    @property
    def joining(self) -> list[PartitionId]:
        """Own partitions without a lease."""
        now_s, leased_until_s = self._clock.monotonic_s(), self._replica.leased_until_s
        return [partition for partition in self._others if leased_until_s[partition] <= now_s]

    def peer_connected(self, peer: NodeId) -> None:
        """Check in with a peer."""
        self._unanswered[peer] = None
        self._send(peer)

    def is_confirmed(self, peer: NodeId) -> bool:
        """Whether a connected peer has confirmed this boot."""
        return self._transport.connected(peer) and peer not in self._unanswered

    async def run_once(self) -> Work:
        """Ask those again who did not answer, and those whose answer is growing old."""
        due_s = self._clock.monotonic_s() - self._renew_s
        unanswered = self.unanswered
        answered = [peer for peer, sent_s in self._answered_s.items() if sent_s <= due_s]
        for peer in dict.fromkeys([*unanswered, *answered]):
            if self._transport.connected(peer):
                self._send(peer)
        for partition in self.joining:
            self._grant(partition)
        return Work.IDLE

    def _send(self, peer: NodeId, known: Sequence[Boot] = ()) -> None:
        now_s = self._clock.monotonic_s()
        fields = [self._boot, known]
        answered = partial(self._on_answer, peer, now_s)
        self._transport.request(peer, Op.CHECKIN, now_s + REQUEST_TIMEOUT_S, fields, 64, answered)

    def _on_answer(self, peer: NodeId, sent_s: float, outcome: Outcome) -> None:
        if isinstance(outcome, Lost):
            return
        try:
            told, floors, of_others = outcome
            remembered = list(map(boot_from_wire, told))
            self._meet_floors(peer, floors)
            for node, boot in of_others:
                if node != self._node:
                    self._replica.boots.hear(NodeId(node), boot_from_wire(boot))
        except (TypeError, ValueError, IndexError) as error:
            self._log.warning("checkin.refused", peer=peer, reason=f"its answer is none: {error}")
            return
        if remembered:
            unknown = [boot for boot in remembered if not self._replica.boots.knows(boot)]
            if unknown:
                self._disown(peer, unknown)
            self._send(peer, remembered)
            return
        self._unanswered.pop(peer, None)
        self._answered_s[peer] = sent_s
        for partition in self._others:
            if peer in self._witnesses[partition]:
                self._grant(partition)

    def _grant(self, partition: PartitionId) -> None:
        """Renew a lease; see rule 4 for the first one."""
        now_s, others = self._clock.monotonic_s(), self._others[partition]
        joining = self._replica.leased_until_s[partition] <= now_s
        if joining and any(self._may_answer(peer, now_s) for peer in self._witnesses[partition]):
            return
        self._replica.leased_until_s[partition] = lease_end_s(
            map(self._answered_s.get, others), self._lease_s
        )

    def _may_answer(self, peer: NodeId, now_s: float) -> bool:
        if self._transport.connected(peer):
            return peer in self._unanswered
        return peer not in self._answered_s and now_s < self._graced_until_s

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

    def _disown(self, peer: NodeId, unknown: Sequence[Boot]) -> None:
        """This disk is not the one that the node left; see rule 2."""
        number = max(boot.number for boot in unknown)
        reason = "a peer remembers a boot that is not known here"
        self._log.warning("node.fenced", peer=peer, reason=reason, boots=number)
        for boot in unknown:
            self._replica.boots.learn(boot)
        self._boot = Boot(max(self._boot.number, number) + 1, self._boot.boot_id)
        self._raise_boot_count(self._boot.number)
        for partition in self._others:
            self._replica.set_fenced(partition, True)
        self._replica.outbox.owe_all()
