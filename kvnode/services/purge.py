"""Agreeing that deleted records may leave the disks: the proof behind a purge floor.

The first owner of a partition that is believed up, in the first region that has one, proposes a
floor once records are due; every node of every region has a say.

Rules
-----
1. A floor is due when the bucket's end has passed, a clock's error included.
2. Each owner promises only if it holds exactly what the proposer holds in the buckets below the
   floor, durably, and is not fenced. Each node, owner or not, refuses while it holds a hint for the
   partition, or writes for other regions that are not newer than the deletions in question. A node
   that does not answer refuses: it may hold one, or lack a tombstone.
3. Only when all have promised, the floor is told, and what is below it goes
   (``kvnode.services.sweep``).
4. A node that was silent for longer than tombstones are kept is *absent*: it is not asked, for
   tombstones can't wait for ever. It never promised the floor, so it is fenced when it comes back
   (``kvnode.services.checkin``), and rebuilt. Who is absent in another region its own nodes say,
   all that answer: from here it can't be told from a cut. So a region that is cut off holds up
   every purge until it is back, or an operator says that it is gone.
5. A region that an operator has said to be gone has no say, once every node of the others that is
   asked had said before that it knows: else it may yet take from there what the rest have purged.
   Its nodes never promised the floor, and are fenced when they hear the word (``kvnode.partings``).
6. Without a majority of the partition's owners in each region nothing is purged: a node that is cut
   off takes all others for absent, and its floor would fence those that go on without it.
7. While owners change (``cluster.ringchange``), or are not known to be the same everywhere, nothing
   is purged: old and new owners compare what they have, and their floors must be equal.
8. Every refusal is kept with its reason and since when, until the floor is reached.

Equal digests prove more than that rounds of anti-entropy were complete: that the very tombstones
to be purged are on every owner's disk. That they become equal is the work of anti-entropy.
"""

from collections.abc import Callable, Container, Sequence

import msgspec

from cluster.ids import NodeId, PartitionId
from cluster.layout import Rings
from kvnode.agreement import Agreement, Proposal
from kvnode.log import Log
from kvnode.ports import Clock
from kvnode.replica import Replica
from kvnode.rpc.connection import Lost, Outcome
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
        is_absent: Rule 4, of nodes of this region.
        agrees: Rule 5.
    """

    name = "purge"

    def __init__(
        self,
        replica: Replica,
        rings: Rings,
        node: NodeId,
        *,
        interval_s: float,
        asker: Asker,
        is_up: Callable[[NodeId], bool],
        is_absent: Callable[[NodeId], bool],
        agrees: Callable[[NodeId], bool],
        clock: Clock,
        log: Log,
    ) -> None:
        self.interval_s = interval_s
        self._replica = replica
        self._standing = replica.standing
        self._agreement = Agreement(replica, rings)
        self._rings = rings
        self._owned: tuple[PartitionId, ...] = ()
        self._node = node
        self._region = rings.region_of[node]
        self._asker = asker
        self._is_up = is_up
        self._is_absent = is_absent
        self._agrees = agrees
        self._clock = clock
        self._log = log
        self._next = 0
        #: Floors that were reached in this pass over the partitions.
        self._agreed = 0
        #: By partition, while something is due there.
        self.vetoes: dict[int, Veto] = {}

    async def run_once(self) -> Work:
        """Try to advance one partition's floor; all have had their turn once it is idle."""
        if not self._next:
            self._owned = self._rings.partitions_of(self._node)
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
        first = next(filter(self._is_up, self._rings.owners(partition)), None)
        return first == self._node

    async def _try(self, proposal: Proposal) -> None:
        await self._replica.durable()
        layouts = self._agreement.layouts()
        veto = "layout" if layouts is None else self._agreement.own_veto(proposal)
        if veto is not None:
            self._veto(proposal, self._node, veto)
            return
        absent = self.absent()
        others = [one for one in self._with_a_say() if one not in absent]
        spoken = self._standing.changes
        aware = dict.fromkeys(filter(self._agrees, others))
        if not self._has_majority(self._region, proposal.partition, absent):
            self._veto(proposal, self._node, "minority")
            return
        fields = [*proposal.to_wire(), layouts]
        answers = await self._asker.ask_all(others, Op.PROMISE, fields)
        refused = self._refusal(proposal.partition, answers, aware)
        if refused is not None:
            self._veto(proposal, *refused)
            return
        if returned := [node for node in absent if not self._is_absent(node)]:
            self._veto(proposal, returned[0], "returned")
            return
        if self._standing.changes != spoken or self._agreement.layouts() != layouts:
            reason = "unaware" if self._standing.changes != spoken else "layout"
            self._veto(proposal, self._node, reason)
            return
        self.vetoes.pop(proposal.partition, None)
        self._agreement.conclude(proposal)
        await self._replica.durable()
        fields = [proposal.partition, proposal.bucket, proposal.newest_deleted_ms]
        # Whoever misses it learns of it by comparing.
        await self._asker.ask_all(others, Op.FLOOR, fields)
        self._agreed += 1

    def _with_a_say(self) -> list[NodeId]:
        """All other nodes; see rule 5."""
        region_of, is_gone = self._rings.region_of, self._standing.is_gone
        nodes = self._rings.nodes
        return [one for one in nodes if one != self._node and not is_gone(region_of[one])]

    def _refusal(
        self,
        partition: int,
        answers: Sequence[tuple[NodeId, Outcome]],
        aware: Container[NodeId],
    ) -> tuple[NodeId, str] | None:
        """Who does not promise, or may not, and why; see rules 2 and 4 to 6."""
        silent: dict[NodeId, str] = {}
        absent_in: dict[str, list[list[str]]] = {}
        for node, answer in answers:
            if isinstance(answer, Lost):
                silent[node] = answer.code
            elif answer[0] is not None:
                return node, str(answer[0])
            elif node not in aware:
                return node, "unaware"
            else:
                absent_in.setdefault(self._rings.region_of[node], []).append(answer[1])
        for node, code in silent.items():
            region = self._rings.region_of[node]
            said = absent_in.get(region, []) if region != self._region else []
            if not said or not all(node in absent for absent in said):
                return node, code
        for region in self._standing.others:
            if not self._has_majority(region, partition, silent):
                return self._rings.owners_in(region, partition)[0], "minority"
        return None

    def absent(self) -> list[NodeId]:
        """Nodes of this region that were given up; see rule 4."""
        region = self._rings.nodes_of(self._region)
        return [node for node in region if node != self._node and self._is_absent(node)]

    def _has_majority(self, region: str, partition: int, missing: Container[NodeId]) -> bool:
        """See rule 6."""
        owners = self._rings.owners_in(region, partition)
        return 2 * sum(owner not in missing for owner in owners) > len(owners)

    def _veto(self, proposal: Proposal, node: NodeId, reason: str) -> None:
        before = self.vetoes.get(proposal.partition)
        since_ms = before.since_ms if before is not None else self._clock.wall_ms()
        self.vetoes[proposal.partition] = Veto(node, reason, since_ms)
