"""Serving a request: place it, ask replicas, count, answer. Any node may coordinate any request.

The way of a create: ``create`` -> ``Write`` -> ``Replica.merge`` here and ``MERGE`` to the others
at once -> ``WriteTally`` -> the future that the caller awaits. The way of a read at R=1: ``read``
-> ``Replica.get`` -> done, without a task, a future or a hop.
"""

import asyncio
from collections.abc import Awaitable
from functools import partial
from typing import Final

from cluster.ids import NodeId, partition_of
from cluster.layout import Rings
from cluster.preference import Target
from kvnode.codec import decode, encode
from kvnode.elsewhere import Elsewhere
from kvnode.errors import (
    CorruptRecord,
    DiskLow,
    NotMember,
    Overloaded,
    StoreError,
    Unavailable,
)
from kvnode.everywhere import Everywhere
from kvnode.keyed import create_keyed
from kvnode.latency import Latencies
from kvnode.merging import UNWATCHED, Merges, MergeSender, Sender
from kvnode.placement import Placement
from kvnode.ports import Clock, Entropy
from kvnode.reading import Read
from kvnode.record import Record, Sighting
from kvnode.replica import Replica
from kvnode.results import Counts, Fetched, Stored
from kvnode.rpc.connection import Lost, OnOutcome
from kvnode.rpc.inturn import Peers
from kvnode.rpc.operations import Fields, Op
from kvnode.rpc.transport import Transport
from kvnode.sweep import DeadlineSweep
from kvnode.writing import Write

#: Writes under way at once, beyond which new ones are refused.
WRITES_MAX: Final = 20_000
_DEADLINE_TICK_S: Final = 0.05
_HEDGE_TICK_S: Final = 0.005


class Coordinator:
    """``docservice.store.DocumentStore`` inside a node.

    What it reaches replicas through is public: a traced request has a coordinator of its own, with
    the same parts and others in place of these (``kvnode.notedcalls``).
    """

    def __init__(
        self,
        *,
        node: NodeId,
        rings: Rings,
        placement: Placement,
        replica: Replica,
        transport: Transport,
        latencies: Latencies,
        clock: Clock,
        entropy: Entropy,
        copies: int,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.node = node
        self.replica = replica
        self.clock = clock
        self.latencies = latencies
        self.copies = copies
        #: For kvnode.writing and kvnode.reading, which act for this object.
        self.sweep = DeadlineSweep(self.loop, clock, _DEADLINE_TICK_S)
        self.hedge_sweep = DeadlineSweep(self.loop, clock, _HEDGE_TICK_S)
        self.merges: Merges = MergeSender(self.loop, transport)
        self.merge_here = replica.merge
        self.append_to_outbox = replica.outbox.append
        self.placement = placement
        self.peers: Peers = transport
        self._entropy = entropy
        self.rings = rings
        self.elsewhere = elsewhere
        self.everywhere = Everywhere(self, rings, transport)
        self._partitions = placement.ring.partitions
        #: Whether writes may begin here (``kvnode.services.layouts``, rule 5).
        self.takes_part = True
        self.counts = Counts()

    def mint_partition(self) -> int | None:
        """A random partition that this node owns: its first copy costs no hop."""
        here = self.placement.read_here
        if not here:
            return None
        return here[int.from_bytes(self._entropy.random_bytes(2), "big") % len(here)]

    def create(
        self,
        document_id: bytes,
        record: Record,
        *,
        keyed: bool,
        write_quorum: int,
        sloppy: bool,
        deadline_s: float,
        each_region: bool = False,
    ) -> Awaitable[Stored]:
        """See ``docservice.store.DocumentStore``."""
        if self.replica.disk_low:
            msg = "the disk is below its low mark: delete documents or add space"
            raise DiskLow(msg)
        if keyed:
            how = {"sloppy": sloppy, "each_region": each_region}
            return create_keyed(self, document_id, record, write_quorum, deadline_s, **how)
        return self.put(
            document_id, record, write_quorum, deadline_s, sloppy=sloppy, each_region=each_region
        )

    async def read(
        self,
        document_id: bytes,
        *,
        read_quorum: int,
        sloppy: bool,
        deadline_s: float,
        seen: Sighting | None = None,
        each_region: bool = False,
    ) -> Fetched:
        """See ``docservice.store.DocumentStore``."""
        if each_region:
            read_here = partial(
                self.read_here,
                document_id,
                read_quorum=read_quorum,
                sloppy=False,
                deadline_s=deadline_s,
            )
            fetched = await self.everywhere.read(document_id, read_here, read_quorum, deadline_s)
            if seen is None or seen.is_in(fetched.record):
                return fetched
        elsewhere = self.elsewhere
        if seen is not None and elsewhere is not None and elsewhere.regions:
            read_here = partial(self.read_here, read_quorum=read_quorum, sloppy=sloppy)
            return await elsewhere.read_seen(document_id, seen, read_here, read_quorum, deadline_s)
        fetched = await self.read_here(
            document_id, read_quorum=read_quorum, sloppy=sloppy, deadline_s=deadline_s, seen=seen
        )
        if fetched.record is None and elsewhere is not None:
            regions = elsewhere.in_question(document_id)
            if regions:
                found = await elsewhere.read(regions, document_id, read_quorum, deadline_s)
                return found or fetched
        return fetched

    async def read_here(
        self,
        document_id: bytes,
        *,
        read_quorum: int,
        sloppy: bool,
        deadline_s: float,
        seen: Sighting | None = None,
    ) -> Fetched:
        """As ``read``, of this region's owners only."""
        partition = partition_of(document_id, self._partitions)
        local: tuple[Record, bytes] | None = None
        damaged = False
        owned = self.placement.answers(partition) and self.replica.believes(partition)
        if owned:
            try:
                local = self.replica.get(document_id)
            except CorruptRecord:
                damaged = True
            else:
                if (
                    local is not None
                    and (read_quorum == 1 or local[0].tombstone is not None)
                    and (seen is None or seen.is_in(local[0]))
                ):
                    return Fetched(local[0], 1, read_quorum, self.copies)
        targets = self.placement.read_plan(partition, sloppy=sloppy)
        read = Read(
            self, document_id, targets, required=read_quorum, seen=seen, deadline_s=deadline_s
        )
        if owned and not damaged:
            read.take_local(targets[0], *(local or (None, None)))
        read.start()
        fetched = await read.answer
        if read_quorum > 1 and self.placement.ring.more_acks(partition):
            await self._show_all(document_id, fetched.record, read_quorum, deadline_s)
        return fetched

    async def delete(
        self,
        document_id: bytes,
        record: Record,
        *,
        write_quorum: int,
        sloppy: bool,
        deadline_s: float,
        each_region: bool = False,
    ) -> Stored:
        """See ``docservice.store.DocumentStore``."""
        return await self.put(
            document_id, record, write_quorum, deadline_s, sloppy=sloppy, each_region=each_region
        )

    def take_in(
        self, document_id: bytes, encoded: bytes, deadline_s: float, *, late_counts: bool = True
    ) -> "asyncio.Future[Stored]":
        """Store what another region ships, on a majority of its owners here, and no stand-ins.

        Args:
            late_counts: Whether a copy in quarantine is as good (``kvnode.writing``, rule 6).

        Raises as ``create``, here or by the answer.
        """
        record = decode(document_id, encoded)
        required = self.copies // 2 + 1
        return self._write(
            document_id,
            record,
            required,
            deadline_s,
            sloppy=False,
            shipped=True,
            late_counts=late_counts,
        )

    async def _show_all(
        self, document_id: bytes, record: Record | None, required: int, deadline_s: float
    ) -> None:
        """While readers change: a later quorum of the others must not miss what is shown now.

        It is ``kvnode.reading``'s rule 4, of the owners before and after.
        """
        if record is not None and record.tombstone is None:
            how = {"sloppy": False, "shipped": True}
            await self._write(document_id, record, required, deadline_s, **how)

    # For the operations under way (kvnode.writing, kvnode.reading)

    def request(
        self,
        node: NodeId,
        op: Op,
        deadline_s: float,
        fields: Fields,
        size_bytes: int,
        on_outcome: OnOutcome,
    ) -> None:
        """Send to a peer."""
        self.peers.request(node, op, deadline_s, fields, size_bytes, on_outcome)

    def repair(
        self,
        document_id: bytes,
        encoded: bytes,
        stale: list[NodeId],
        deadline_s: float,
        sender: Sender,
    ) -> None:
        """Give replicas that answered a read with less what the others hold; ``sender`` is told."""
        self.counts.stale_reads += 1
        patient = sender is UNWATCHED
        for node in stale:
            self.counts.read_repairs += 1
            target = Target(node)
            if node != self.node:
                self.merges.send(target, document_id, encoded, deadline_s, sender, patient=patient)
                continue
            try:
                self.merge_here(document_id, encoded, partial(sender.on_sent, target))
            except StoreError as error:
                # Refused: low on disk, late, being rebuilt. The next read finds it again.
                self.counts.read_repairs -= 1
                refused = Lost(error.code, str(error), sent=True)
                self.loop.call_soon(sender.on_sent, target, refused)

    # inside

    def put(
        self,
        document_id: bytes,
        record: Record,
        required: int,
        deadline_s: float,
        *,
        sloppy: bool,
        each_region: bool,
    ) -> Awaitable[Stored]:
        """Write a record, whatever is there. Raises as ``create``, here or by the answer."""
        if not each_region:
            return self._write(document_id, record, required, deadline_s, sloppy=sloppy)
        write_here = partial(self._write, document_id, record, required, deadline_s, sloppy=False)
        return self.everywhere.write(document_id, write_here, deadline_s)

    def _write(
        self,
        document_id: bytes,
        record: Record,
        required: int,
        deadline_s: float,
        *,
        sloppy: bool,
        shipped: bool = False,
        late_counts: bool = False,
    ) -> "asyncio.Future[Stored]":
        if len(self.sweep) >= WRITES_MAX:
            msg = f"{WRITES_MAX} writes are under way on this node"
            raise Overloaded(msg)
        if self.replica.standing.is_own_gone:
            detail = f"an operator has said that region {self.replica.standing.own} is gone"
            raise Unavailable(detail, required=required)
        if not self.takes_part:
            detail = "this node is joining or leaving its region: ask another one"
            raise NotMember(detail, required=required)
        partition = partition_of(document_id, self._partitions)
        plan = self.placement.write_plan(partition, sloppy=sloppy)
        required += plan.more_acks
        if plan.countable < required:
            detail = f"{plan.countable} replicas can be reached, {required} are required"
            raise Unavailable(detail, required=required)
        write = Write(
            self,
            document_id,
            record,
            encode(document_id, record),
            plan,
            required=required,
            sloppy=sloppy,
            deadline_s=deadline_s,
            shipped=shipped,
            late_counts=late_counts,
        )
        write.start()
        return write.answer
