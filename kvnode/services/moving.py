"""A node's own part in a change of owners: what it takes over, and what it gives away.

Rules (the phases are ``cluster.ringchange``'s)
-----
1. FILL: what a node is to own is fenced the moment it hears so, and rebuilt like any fenced
   partition (``kvnode.services.rebuild``).
2. LEVEL: once all have settled it compares each of these with *every* owner there was before: what
   was acknowledged while it was fenced may be on any of them.
3. RETIRE: once all have settled, and nobody writes there any more, a node compares what it no
   longer owns with every new owner, and only then takes it off its disk.
4. Copies that may be of purged documents go with it, for its owners to ask about. One that leaves
   has also handed on its hints, and what waits for other regions. It coordinates no writes then, so
   nothing is added.
5. What it did not believe when it was taken from it, and what an old copy of its disk has of
   partitions that were taken since, it offers to an owner of now, record by record and unvouched:
   what may have been purged is put into quarantine there, like any late copy.
6. All of it can be begun again at any time: the layout is on the disk, and what is done is found
   to be done.
"""

from collections.abc import Callable, Sequence
from typing import Final

from cluster.ids import DocumentId, NodeId, PartitionId, partition_of
from cluster.layout import Rings
from cluster.preference import Target
from cluster.ringchange import Layout, Phase
from kvnode.codec import verify
from kvnode.errors import CorruptRecord, LateCopy
from kvnode.log import Log
from kvnode.merging import Awaited, Merges
from kvnode.ports import Clock
from kvnode.quarantine import State, Suspect
from kvnode.replica import Replica
from kvnode.rpc.connection import Lost
from kvnode.services.loop import Work

#: Records that are removed at once.
_UNIT: Final = 500
#: Records that are offered at once.
_OFFERED: Final = 128
_HAND_ON_WITHIN_S: Final = 5.0


class Moving:
    """A service (``kvnode.services.loop``).

    Args:
        all_settled: Whether no request of an earlier phase is under way anywhere.
    """

    name = "moving"
    interval_s = 0.25

    def __init__(
        self,
        replica: Replica,
        rings: Rings,
        node: NodeId,
        *,
        merges: Merges,
        all_settled: Callable[[], bool],
        clock: Clock,
        log: Log,
    ) -> None:
        self._replica = replica
        self._rings = rings
        self._node = node
        self._region = rings.region_of[node]
        self._merges = merges
        self._all_settled = all_settled
        self._clock = clock
        self._log = log
        #: Of this phase: partitions, and the peers that each is still to be compared with.
        self._left: dict[PartitionId, dict[NodeId, None]] = {}
        #: Partitions of which nothing is here any more.
        self._dropped: dict[PartitionId, None] = {}
        #: See rule 5; None before they were looked for.
        self._leftovers: list[PartitionId] | None = None
        #: Whether there may be undecided copies in quarantine that are others' to decide.
        self._suspects_left = True
        #: Offers are made to one owner after the other.
        self._turn = 0
        self.review()

    @property
    def epoch(self) -> int:
        """Of the layout that the work is for."""
        return self._layout.epoch

    @property
    def _layout(self) -> Layout:
        return self._rings.layouts[self._region]

    @property
    def peers(self) -> list[NodeId]:
        """Whom this node must compare with though it may share nothing with them."""
        return list(dict.fromkeys(peer for peers in self._left.values() for peer in peers))

    def review(self) -> None:
        """There is another layout: its work begins, and what was done for the last one is over."""
        layout = self._layout
        self._left, self._dropped = {}, {}
        if layout.phase is Phase.LEVEL:
            for partition in layout.gained_by(self._node):
                self._left[partition] = dict.fromkeys(layout.old[partition])
        elif layout.phase is Phase.RETIRE:
            for partition in layout.lost_by(self._node):
                self._left[partition] = dict.fromkeys(layout.new[partition])
        self._leftovers, self._suspects_left = None, True

    @property
    def taken_over(self) -> tuple[PartitionId, ...]:
        """What this step brings to this node."""
        return self._layout.gained_by(self._node)

    def progress(self) -> tuple[int, int]:
        """Of this node's partitions that this step moves, those that its phase is done with."""
        layout, fenced = self._layout, self._replica.fenced
        gained = self.taken_over
        if layout.phase is Phase.FILL:
            return sum(not fenced[one] for one in gained), len(gained)
        if layout.phase is Phase.LEVEL:
            return sum(self._is_level(one) for one in gained), len(gained)
        return len(self._dropped), len(self._left)

    def is_done(self) -> bool:
        """Whether this node has done its part of the phase."""
        done, total = self.progress()
        if done < total:
            return False
        layout = self._layout
        return layout.phase is not Phase.RETIRE or not self.held_back()

    def held_back(self) -> list[str]:
        """What this node has yet to hand on beside its records, in words; see rule 4."""
        outbox = self._replica.outbox
        waiting = {"late copies": len(self._suspects_of_others())}
        if self._node in self._layout.leaving:
            waiting |= {
                "hints": self._replica.hints.held,
                "writes for other regions": sum(map(outbox.waiting, outbox.regions)),
                "comparisons for other regions": sum(
                    len(outbox.owed(region)) for region in outbox.regions
                ),
            }
        return [f"{count} {what}" for what, count in waiting.items() if count]

    def _suspects_of_others(self) -> list[Suspect]:
        """Undecided copies in quarantine that are no longer this node's to decide; some of them."""
        quarantine, partitions = self._replica.quarantine, self._rings.partitions
        found: list[Suspect] = []
        after = b""
        while quarantine.counts[State.ASKED] and len(found) < _UNIT:
            suspects = quarantine.suspects(after, _UNIT)
            if not suspects:
                break
            after = suspects[-1].document_id
            found += [
                one
                for one in suspects
                if one.state is State.ASKED
                and not self._replica.owns(partition_of(one.document_id, partitions))
            ]
        return found

    def _is_level(self, partition: PartitionId) -> bool:
        return not self._left[partition] and not self._replica.fenced[partition]

    # For anti-entropy ---------------------------------------------------------------------------

    def wanted(self, peer: NodeId, limit: int) -> list[int]:
        """Partitions to compare with a peer now."""
        if not self._left or not self._all_settled():
            return []
        fenced = self._replica.fenced
        found = [one for one, peers in self._left.items() if peer in peers and not fenced[one]]
        return list(found[:limit])

    def ended(self, peer: NodeId, epoch: int, complete: list[int]) -> None:
        """A comparison that began at an epoch has ended."""
        if epoch != self.epoch or not self._all_settled():
            return
        for partition in complete:
            if not self._replica.fenced[partition]:
                self._left.get(PartitionId(partition), {}).pop(peer, None)

    # Giving away --------------------------------------------------------------------------------

    async def run_once(self) -> Work:
        """Give some of what is others' away, or take it off the disk; see rules 3 to 5."""
        if self._leftovers is None:
            self._leftovers = self._find_leftovers()
        if self._leftovers:
            work = await self._offer_some(self._leftovers[-1])
            if work is Work.OVER:
                self._leftovers = None
            return Work.IDLE if work is Work.IDLE else Work.BUSY
        if self._suspects_left:
            suspects = self._suspects_of_others()
            self._suspects_left = bool(suspects)
            await self._hand_on(suspects)
        if self._layout.phase is not Phase.RETIRE or not self._all_settled():
            return Work.IDLE
        for partition, peers in self._left.items():
            fenced = self._replica.fenced[partition]
            if (fenced or not peers) and partition not in self._dropped:
                return await self._retire_some(partition, fenced=fenced)
        return Work.IDLE

    def _find_leftovers(self) -> list[PartitionId]:
        replica = self._replica
        return [
            partition
            for partition in map(PartitionId, range(self._layout.partitions))
            if replica.fenced[partition]
            and not replica.owns(partition)
            and partition not in self._left
            and replica.records.some_of(partition, 1)
        ]

    async def _retire_some(self, partition: PartitionId, *, fenced: bool) -> Work:
        epoch = self.epoch
        work = await (self._offer_some(partition) if fenced else self._drop_some(partition))
        if work is Work.OVER and epoch == self.epoch:
            await self._replica.records.compact(partition)
            self._dropped[partition] = None
            self._log.info("partition.handed_over", partition=partition)
            return Work.BUSY
        return work

    async def _drop_some(self, partition: PartitionId) -> Work:
        """Take some of a partition off the disk. OVER: there was nothing."""
        found = self._replica.records.some_of(partition, _UNIT)
        self._replica.records.forget(document_id for document_id, _ in found)
        await self._replica.durable()
        return Work.BUSY if found else Work.OVER

    async def _offer_some(self, partition: PartitionId) -> Work:
        """Offer some of a partition to an owner, and drop what it takes; see rule 5.

        OVER: there was nothing. IDLE: the owner took nothing; another one is asked next.
        """
        records = self._replica.records
        found = records.some_of(partition, _OFFERED)
        sound = [one for one in found if _is_sound(*one)]
        accepted = await self._offer(sound)
        damaged = [
            document_id for document_id, encoded in found if (document_id, encoded) not in sound
        ]
        records.forget([*accepted, *damaged])
        await self._replica.durable()
        if not found:
            return Work.OVER
        return Work.BUSY if accepted or damaged else Work.IDLE

    async def _hand_on(self, suspects: Sequence[Suspect]) -> None:
        """See rule 4."""
        accepted = await self._offer([(one.document_id, one.encoded) for one in suspects])
        for suspect in suspects:
            if suspect.document_id in accepted:
                self._replica.quarantine.release(suspect)
        await self._replica.durable()

    async def _offer(self, found: Sequence[tuple[DocumentId, bytes]]) -> list[DocumentId]:
        """Send records to an owner of each; those that it has on its disk then, merged or aside."""
        self._turn += 1
        ring = self._rings.by_region[self._region]
        deadline_s = self._clock.monotonic_s() + _HAND_ON_WITHIN_S
        sent: list[tuple[DocumentId, Awaited]] = []
        for document_id, encoded in found:
            owners = ring.voters(partition_of(document_id, ring.partitions))
            target, sender = Target(owners[self._turn % len(owners)]), Awaited()
            sent.append((document_id, sender))
            self._merges.send(target, document_id, encoded, deadline_s, sender, patient=True)
        outcomes = [(document_id, await sender.outcome) for document_id, sender in sent]
        return [
            document_id
            for document_id, held in outcomes
            if not isinstance(held, Lost) or held.code == LateCopy.code
        ]


def _is_sound(document_id: bytes, encoded: bytes) -> bool:
    try:
        verify(document_id, encoded)
    except CorruptRecord:
        return False
    return True
