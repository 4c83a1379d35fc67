"""One comparison with one co-owner: find what differs, and bring both to the join.

Rules
-----
1. Roots of many partitions go in one request; only partitions that differ are looked into, and in
   them only branches that differ, down to leaves and buckets. So the cost follows the difference.
2. Of a leaf or bucket that differs both sides' ids and digests are compared. What the peer lacks is
   pushed, and its answer tells what it has more; what is missing here is fetched.
3. Both are owners, so what one of them has is known to an owner: their copies are never late.
4. A fenced side pushes nothing and is believed nothing; it only takes. A document that it alone has
   and that may have been purged goes to its quarantine, and is off the disk before the fence falls.
5. It ends early when its allowance of bytes is used up, also within a partition: what is left
   differs still.
6. Whatever is lost on the way is found again by the next exchange; a partition counts as compared
   only when nothing was.

Source: DeCandia et al., "Dynamo", SOSP 2007, section 4.7.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from typing import Final

import msgspec

from cluster.ids import DocumentId, NodeId
from cluster.preference import Target
from kvnode.codec import verify
from kvnode.comparing import PAGE_ENTRIES, Comparing, Difference, Entry, Place, place_to_wire
from kvnode.ending import Family
from kvnode.errors import StoreError
from kvnode.hashtree import Bucket, digests_from_bytes
from kvnode.merging import Awaited, Merges
from kvnode.ports import Clock
from kvnode.replica import Replica
from kvnode.rpc.connection import Lost, Outcome
from kvnode.rpc.operations import FetchResult, Fields, Op
from kvnode.services.asking import Asker

REQUEST_TIMEOUT_S: Final = 5.0
#: Records under way to or from the peer at once.
_BATCH_RECORDS: Final = 128
#: Pages that are asked for before they are looked at.
_PAGES_AHEAD: Final = 16
#: Nodes of the trees asked about in one request.
_SPANS: Final = 1024
_ROW_BYTES: Final = 32
_ENTRY_BYTES: Final = 26


class PeerLost(Exception):
    """The peer did not answer, or refused; what was done so far stays done."""


class Outcomes(msgspec.Struct):
    """What exchanges did; they add up."""

    pushed: int = 0
    pulled: int = 0
    quarantined: int = 0
    #: Sent and received, by estimate.
    size_bytes: int = 0
    #: Partitions that were compared to the end.
    compared: int = 0


class Exchange:
    """With one peer; see the module's rules.

    Args:
        spend: Told of bytes as they are sent and received.
        allowance: How many there may be now; without any, an exchange ends early.
    """

    def __init__(
        self,
        replica: Replica,
        asker: Asker,
        merges: Merges,
        clock: Clock,
        peer: NodeId,
        spend: Callable[[int], None],
        allowance: Callable[[], int],
    ) -> None:
        self._replica = replica
        self._comparing = Comparing(replica)
        self._asker = asker
        self._merges = merges
        self._clock = clock
        self._peer = peer
        self._spend = spend
        self._allowance = allowance
        self.outcomes = Outcomes()
        #: Partitions in which nothing is left to do.
        self.complete: list[int] = []
        #: Partitions in which the peer is fenced.
        self.fenced_there: list[int] = []
        #: The floor that both sides had when a partition's comparison began.
        self._floor = 0
        #: Partitions that were not done, for the allowance was used up.
        self.unfinished: list[int] = []

    async def run(self, partitions: Sequence[int], first_expiring: int) -> None:
        """Compare and repair; what was and what was not is in the attributes.

        Raises:
            PeerLost: the peer went away meanwhile.
        """
        try:
            await self._run(partitions, first_expiring)
        except (TypeError, ValueError, IndexError) as error:
            raise PeerLost(f"its answer is none: {error}") from error

    async def _run(self, partitions: Sequence[int], first_expiring: int) -> None:
        rows = []
        for partition in partitions:
            floor = self._replica.lifecycle.floor(partition)
            root = self._comparing.root(partition, first_expiring)
            rows.append([partition, floor.bucket, floor.newest_deleted_ms, root])
        (answer,) = await self._ask(Op.COMPARE, [first_expiring, rows], _ROW_BYTES * len(rows))
        self._count(_ROW_BYTES * len(answer))
        complete = dict.fromkeys(partitions)
        for row in answer:
            partition, level = self._meet(row, first_expiring)
            whole = level or await self._repair(partition, first_expiring)
            if not whole or partition in self.fenced_there:
                del complete[partition]
        self.outcomes.compared += len(complete)
        self.complete = list(complete)

    def _meet(self, row: Fields, first_expiring: int) -> tuple[int, bool]:
        """A partition that the peer named, and whether both sides are level by now."""
        partition, bucket, newest_deleted_ms, root, peer_fenced = row
        self._comparing.check_partition(partition)
        if peer_fenced:
            self.fenced_there.append(partition)
        self._replica.meet_floor(partition, bucket, newest_deleted_ms)
        same_floor = bucket == self._replica.lifecycle.floor(partition).bucket
        return partition, same_floor and root == self._comparing.root(partition, first_expiring)

    async def _repair(self, partition: int, first_expiring: int) -> bool:
        """Level one partition; whether it ended with nothing lost or left."""
        self._floor = self._replica.lifecycle.floor(partition).bucket
        push = not self._replica.fenced[partition]
        # What was taken from this node it still gives away (``kvnode.services.moving``).
        pull = partition not in self.fenced_there and self._replica.owns(partition)
        if not (push or pull):
            return False
        if self._allowance() <= 0:
            self.unfinished.append(partition)
            return False
        places = deque(await self._differing_places(partition, first_expiring))
        found, whole = Difference(), True
        async with aclosing(self._pages(places)) as pages:
            async for ours, theirs in pages:
                found.add(ours, theirs, push=push, pull=pull)
                if len(found) < _BATCH_RECORDS:
                    continue
                whole &= await self._level(partition, found, pull=pull)
                found = Difference()
                if self._allowance() <= 0:
                    self.unfinished.append(partition)
                    return False
        return await self._level(partition, found, pull=pull) and whole

    async def _pages(
        self, places: deque[Place]
    ) -> AsyncGenerator[tuple[dict[DocumentId, bytes], list[Entry]], None]:
        """What both sides have of each place, a page at a time; some are asked for ahead."""
        ahead: deque[tuple[Place, bytes, asyncio.Future[Outcome]]] = deque()
        while places or ahead:
            while places and len(ahead) < _PAGES_AHEAD:
                place = places.popleft()
                ahead.append((place, b"", self._send(Op.PAGE, [place_to_wire(place), b""])))
            place, after, asked = ahead.popleft()
            (rows,) = _answer(await asked)
            theirs = [Entry(DocumentId(one), digest) for one, digest in rows]
            self._count(_ENTRY_BYTES * len(theirs))
            upto = theirs[-1].document_id if len(theirs) == PAGE_ENTRIES else None
            yield self._comparing.within(place, after, upto), theirs
            if upto is not None:
                asked = self._send(Op.PAGE, [place_to_wire(place), upto])
                ahead.appendleft((place, upto, asked))

    async def _differing_places(self, partition: int, first_expiring: int) -> list[Place]:
        comparing = self._comparing
        mine = comparing.buckets(partition, first_expiring)
        (rows,) = await self._ask(Op.BUCKETS, [partition, first_expiring], _ROW_BYTES)
        theirs = {Bucket(Family(row[0]), partition, row[1]): row[2] for row in rows}
        self._count(_ROW_BYTES * len(rows))
        places: list[Place] = [
            bucket
            for bucket in sorted({*mine, *theirs})
            if mine.get(bucket, 0) != theirs.get(bucket, 0)
        ]
        spans = [self._replica.records.forest.span_of(partition)]
        while spans:
            asked, spans = spans[:_SPANS], spans[_SPANS:]
            wire = [[span.first, span.width] for span in asked]
            (packed,) = await self._ask(Op.TREE, [wire], _ROW_BYTES * len(wire))
            self._count(sum(map(len, packed)))
            for span, ours, digests in zip(asked, comparing.children(asked), packed, strict=True):
                our_digests, their_digests = digests_from_bytes(ours), digests_from_bytes(digests)
                for child, our, their in zip(
                    span.children(), our_digests, their_digests, strict=True
                ):
                    if our != their:
                        (places if child.width == 1 else spans).append(child)
        return places

    async def _level(self, partition: int, found: Difference, *, pull: bool) -> bool:
        """Bring what differs to the join on both sides; whether nothing was lost."""
        whole = True
        for batch in _batches(list(found.push)):
            if self._replica.fenced[partition]:
                raise PeerLost("this side was fenced meanwhile")
            whole &= await self._push({one: found.push[one] for one in batch}, pull=pull)
        for document_id in found.aside:
            self.outcomes.quarantined += self._replica.set_aside_late(document_id)
        if found.aside:  # reads see the disk, and the fence may fall next
            await self._replica.durable()
        for batch in _batches(found.pull):
            whole &= await self._pull(batch)
        return whole

    async def _push(self, records: dict[DocumentId, bytes], *, pull: bool) -> bool:
        whole = True
        deadline_s = self._clock.monotonic_s() + REQUEST_TIMEOUT_S
        sent = [self._merge(one, encoded, deadline_s) for one, encoded in records.items()]
        for document_id, pushed in zip(records, sent, strict=True):
            held = await pushed.outcome
            if isinstance(held, Lost):
                whole = False
                continue
            self.outcomes.pushed += 1
            if held is not None and pull:
                whole &= self._take(document_id, held)
        await self._replica.durable()
        return whole

    def _merge(self, document_id: DocumentId, encoded: bytes, deadline_s: float) -> Awaited:
        pushed = Awaited()
        self._count(len(encoded))
        target = Target(self._peer)
        self._merges.send(
            target,
            document_id,
            encoded,
            deadline_s,
            pushed,
            patient=True,
            vouched_at=self._floor,
        )
        return pushed

    async def _pull(self, ids: Sequence[DocumentId]) -> bool:
        asked = [
            (document_id, self._asker.send(self._peer, Op.FETCH, [document_id, None]))
            for document_id in ids
        ]
        whole = True
        for document_id, future in asked:
            found = await future
            if isinstance(found, Lost):
                whole = False
            elif found[0] == FetchResult.FOUND:
                whole &= self._take(document_id, found[1])
        await self._replica.durable()
        return whole

    def _take(self, document_id: DocumentId, encoded: bytes) -> bool:
        """Join what the peer has; whether that could be done."""
        self._count(len(encoded))
        if self._replica.floor_of(document_id) != self._floor:
            return False
        try:
            verify(document_id, encoded)
            self._replica.admit()
            self._replica.join(document_id, encoded, vouched=True)
        except StoreError:
            return False  # damaged, or the disk does not keep up: the next exchange finds it again
        self.outcomes.pulled += 1
        return True

    def _count(self, size_bytes: int) -> None:
        self.outcomes.size_bytes += size_bytes
        self._spend(size_bytes)

    async def _ask(self, op: Op, fields: Fields, size_bytes: int) -> Fields:
        return _answer(await self._send(op, fields, size_bytes))

    def _send(
        self, op: Op, fields: Fields, size_bytes: int = _ROW_BYTES
    ) -> "asyncio.Future[Outcome]":
        self._count(size_bytes)
        return self._asker.send(self._peer, op, fields, size_bytes)


def _batches(ids: Sequence[DocumentId]) -> Iterator[Sequence[DocumentId]]:
    for start in range(0, len(ids), _BATCH_RECORDS):
        yield ids[start : start + _BATCH_RECORDS]


def _answer(found: Outcome) -> Fields:
    if isinstance(found, Lost):
        raise PeerLost(f"{found.code}: {found.detail}")
    return found
