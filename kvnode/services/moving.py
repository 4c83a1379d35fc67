"""A node's own part in a change of owners: what it takes over, and what it gives away.

Rules (the phases are ``cluster.ringchange``'s)
-----
1. FILL: what a node is to own is fenced the moment it hears so, and rebuilt like any fenced
   partition (``kvnode.services.rebuild``).
2. LEVEL: once all have settled it compares each of these with *every* owner there was before: what
   was acknowledged while it was fenced may be on any of them.
3. RETIRE: once all have settled, and nobody writes there any more, a node compares what it no
   longer owns with every new owner, and only then takes it off its disk. What it did not believe
   when it was taken from it, it gives to nobody.
4. Copies that may be of purged documents go with it, for its owners to ask about. One that leaves
   has also handed on its hints, and what waits for other regions. It coordinates no writes then, so
   nothing is added.
5. A disk that is an old copy may have partitions that were taken from it since. They are fenced
   (``kvnode.adoption``), and dropped.
6. All of it can be begun again at any time: the layout is on the disk, and what is done is found
   to be done.
"""

from collections.abc import Callable, Sequence
from typing import Final

from cluster.ids import NodeId, PartitionId, partition_of
from cluster.layout import Rings
from cluster.preference import Target
from cluster.ringchange import Layout, Phase
from kvnode.errors import LateCopy
from kvnode.log import Log
from kvnode.merging import Awaited, Merges
from kvnode.ports import Clock
from kvnode.quarantine import State, Suspect
from kvnode.replica import Replica
from kvnode.rpc.connection import Lost
from kvnode.services.loop import Work

#: Records that are removed at once.
_UNIT: Final = 500
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
        self._leftovers = None

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
        """Take some of what others have by now off the disk; see rules 3 and 4."""
        if self._leftovers is None:
            self._leftovers = self._find_leftovers()
        if self._leftovers:
            if not await self._drop_some(self._leftovers[-1]):
                self._leftovers = None
            return Work.BUSY
        if self._layout.phase is not Phase.RETIRE or not self._all_settled():
            return Work.IDLE
        for partition, peers in self._left.items():
            given = not peers or self._replica.fenced[partition]
            if given and partition not in self._dropped:
                await self._retire_some(partition)
                return Work.BUSY
        await self._hand_on(self._suspects_of_others())
        return Work.IDLE

    def _find_leftovers(self) -> list[PartitionId]:
        replica, records = self._replica, self._replica.records
        return [
            partition
            for partition in map(PartitionId, range(self._layout.partitions))
            if replica.fenced[partition]
            and not replica.owns(partition)
            and partition not in self._left
            and records.in_span(records.forest.span_of(partition), b"", 1)
        ]

    async def _drop_some(self, partition: PartitionId) -> bool:
        """Whether there was anything."""
        found = self._replica.records.forget_some(partition, _UNIT)
        await self._replica.durable()
        return bool(found)

    async def _retire_some(self, partition: PartitionId) -> None:
        epoch = self.epoch
        if not await self._drop_some(partition) and epoch == self.epoch:
            await self._replica.records.compact(partition)
            self._dropped[partition] = None
            self._log.info("partition.handed_over", partition=partition)

    async def _hand_on(self, suspects: Sequence[Suspect]) -> None:
        """See rule 4."""
        deadline_s = self._clock.monotonic_s() + _HAND_ON_WITHIN_S
        sent: list[tuple[Suspect, Awaited]] = []
        for suspect in suspects:
            partition = partition_of(suspect.document_id, self._rings.partitions)
            owner = Target(self._layout.new[partition][0])
            sender = Awaited()
            sent.append((suspect, sender))
            self._merges.send(
                owner, suspect.document_id, suspect.encoded, deadline_s, sender, patient=True
            )
        for suspect, sender in sent:
            held = await sender.outcome
            if not isinstance(held, Lost) or held.code == LateCopy.code:
                self._replica.quarantine.release(suspect)
        await self._replica.durable()
