"""Agreeing that deleted records may leave the disks: the proof behind a purge floor.

The first owner of a partition that is believed up proposes a floor once records are due; every node
of the region has a say.

Rules
-----
1. A floor is due when the bucket's end has passed, a clock's error included.
2. Each owner promises only if it holds exactly what the proposer holds in the buckets below the
   floor, durably, and is not fenced. Each node, owner or not, refuses while it holds a hint for the
   partition. A node that does not answer refuses: it may hold one, or lack a tombstone.
3. Only when all have promised, the floor is told, and what is below it goes
   (``kvnode.services.sweep``).
4. A node that was silent for longer than tombstones are kept is *absent*: it is not asked, for
   tombstones can't wait for ever. It never promised the floor, so it is fenced when it comes back
   (``kvnode.services.checkin``), and rebuilt.
5. Without a majority of the partition's owners nothing is purged: a node that is cut off takes all
   others for absent, and its floor would fence those that go on without it.
6. Every refusal is kept with its reason and since when, until the floor is reached.

Equal digests prove more than that rounds of anti-entropy were complete: that the very tombstones
to be purged are on every owner's disk. That they become equal is the work of anti-entropy.
"""

from collections.abc import Callable, Sequence

import msgspec

from cluster.ids import NodeId, PartitionId
from cluster.ring import Ring
from kvnode.agreement import Agreement, Proposal
from kvnode.log import Log
from kvnode.ports import Clock
from kvnode.replica import Replica
from kvnode.rpc.connection import Lost
from kvnode.rpc.operations import Op
from kvnode.services.asking import Asker
from kvnode.services.loop import Work


class Veto(msgspec.Struct):
    """Why a partition is not purged."""

    node: NodeId
    reason: str
    since_ms: int


class Purge:
    """A service (``kvnode.services.loop``).

    Args:
        nodes: All of the region.
        is_absent: Rule 4.
    """

    name = "purge"

    def __init__(
        self,
        replica: Replica,
        ring: Ring,
        node: NodeId,
        nodes: Sequence[NodeId],
        *,
        interval_s: float,
        asker: Asker,
        is_up: Callable[[NodeId], bool],
        is_absent: Callable[[NodeId], bool],
        clock: Clock,
        log: Log,
    ) -> None:
        self.interval_s = interval_s
        self._replica = replica
        self._agreement = Agreement(replica)
        self._ring = ring
        self._owned = ring.partitions_of(node)
        self._node = node
        self._nodes = nodes
        self._asker = asker
        self._is_up = is_up
        self._is_absent = is_absent
        self._clock = clock
        self._log = log
        self._next = 0
        #: Floors that were reached in this pass over the partitions.
        self._agreed = 0
        #: By partition, while something is due there.
        self.vetoes: dict[int, Veto] = {}

    async def run_once(self) -> Work:
        """Try to advance one partition's floor; all have had their turn once it is idle."""
        while self._next < len(self._owned):
            partition = self._owned[self._next]
            self._next += 1
            proposal = self._agreement.propose(partition) if self._leads(partition) else None
            if proposal is not None:
                await self._try(proposal)
                return Work.BUSY
            self.vetoes.pop(partition, None)
        self._next = 0
        if self._agreed:
            self._log.info("purge.agreed", partitions=self._agreed)
            self._agreed = 0
        return Work.IDLE

    def _leads(self, partition: PartitionId) -> bool:
        first = next(filter(self._is_up, self._ring.primaries(partition)), None)
        return first == self._node

    async def _try(self, proposal: Proposal) -> None:
        await self._replica.durable()
        veto = self._agreement.own_veto(proposal)
        if veto is not None:
            self._veto(proposal, self._node, veto)
            return
        others = [node for node in self._nodes if node != self._node and not self._is_absent(node)]
        if not self._has_majority(proposal.partition, others):
            self._veto(proposal, self._node, "minority")
            return
        for node, answer in await self._asker.ask_all(others, Op.PROMISE, proposal.to_wire()):
            veto = answer.code if isinstance(answer, Lost) else answer[0]
            if veto is not None:
                self._veto(proposal, node, str(veto))
                return
        absent = [node for node in self._nodes if node not in (self._node, *others)]
        if returned := [node for node in absent if not self._is_absent(node)]:
            self._veto(proposal, returned[0], "returned")
            return
        self.vetoes.pop(proposal.partition, None)
        self._agreement.conclude(proposal)
        await self._replica.durable()
        fields = [proposal.partition, proposal.bucket, proposal.newest_deleted_ms]
        # Whoever misses it learns of it by comparing.
        await self._asker.ask_all(others, Op.FLOOR, fields)
        self._agreed += 1

    def _has_majority(self, partition: int, others: Sequence[NodeId]) -> bool:
        """See rule 5."""
        owners = self._ring.primaries(PartitionId(partition))
        return 2 * sum(owner in others or owner == self._node for owner in owners) > len(owners)

    def _veto(self, proposal: Proposal, node: NodeId, reason: str) -> None:
        before = self.vetoes.get(proposal.partition)
        since_ms = before.since_ms if before is not None else self._clock.wall_ms()
        self.vetoes[proposal.partition] = Veto(node, reason, since_ms)
