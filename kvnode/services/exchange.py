"""One comparison with one co-owner: find what differs, and bring both to the join.

Rules
-----
1. Roots of many partitions go in one request; only partitions that differ are looked into, and in
   them only branches that differ, down to leaves and buckets. So the cost follows the difference.
2. Of a leaf or bucket that differs both sides' ids and digests are compared. What the peer lacks is
   pushed, and its answer tells what it has more; what is missing here is fetched.
3. Both are owners, so what one of them has is known to an owner: their copies are never late.
4. A fenced side pushes nothing and is believed nothing; it only takes. A document that it alone has
   and that may have been purged goes to its quarantine.
5. Whatever is lost on the way is found again by the next exchange; a partition counts as compared
   only when nothing was.

Source: DeCandia et al., "Dynamo", SOSP 2007, section 4.7.
"""

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from cluster.ids import DocumentId, NodeId
from cluster.preference import Target
from kvnode.codec import verify
from kvnode.comparing import Comparing, Entry, Place, place_to_wire
from kvnode.ending import Family, ending_of
from kvnode.errors import StoreError
from kvnode.hashtree import Bucket, digest_of, digests_from_bytes
from kvnode.merging import Awaited, MergeSender
from kvnode.ports import Clock
from kvnode.replica import Replica
from kvnode.rpc.connection import Lost
from kvnode.rpc.operations import FetchResult, Fields, Op
from kvnode.services.asking import Asker

REQUEST_TIMEOUT_S: Final = 5.0
#: Records under way to or from the peer at once.
_BATCH_RECORDS: Final = 128
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
    """

    def __init__(
        self,
        replica: Replica,
        asker: Asker,
        merges: MergeSender,
        clock: Clock,
        peer: NodeId,
        spend: Callable[[int], None],
    ) -> None:
        self._replica = replica
        self._comparing = Comparing(replica)
        self._asker = asker
        self._merges = merges
        self._clock = clock
        self._peer = peer
        self._spend = spend
        self.outcomes = Outcomes()
        #: Partitions in which the peer is fenced itself.
        self.peer_fenced: list[int] = []

    async def run(self, partitions: Sequence[int], first_expiring: int) -> list[int]:
        """Compare and repair; the partitions in which nothing is left to do.

        Raises:
            PeerLost: the peer went away meanwhile.
        """
        try:
            return await self._run(partitions, first_expiring)
        except (TypeError, ValueError, IndexError) as error:
            raise PeerLost(f"its answer is none: {error}") from error

    async def _run(self, partitions: Sequence[int], first_expiring: int) -> list[int]:
        rows = []
        for partition in partitions:
            floor = self._replica.lifecycle.floor(partition)
            root = self._comparing.root(partition, first_expiring)
            rows.append([partition, floor.bucket, floor.newest_deleted_ms, root])
        (answer,) = await self._ask(Op.COMPARE, [first_expiring, rows], _ROW_BYTES * len(rows))
        self._count(_ROW_BYTES * len(answer))
        complete = dict.fromkeys(partitions)
        for partition, bucket, newest_deleted_ms, root, peer_fenced in answer:
            if partition not in complete:
                raise ValueError("another partition")
            self._replica.meet_floor(partition, bucket, newest_deleted_ms)
            if peer_fenced:
                self.peer_fenced.append(partition)
            same_floor = bucket == self._replica.lifecycle.floor(partition).bucket
            level = same_floor and root == self._comparing.root(partition, first_expiring)
            if (
                not level
                and not await self._repair(partition, first_expiring, peer_fenced=bool(peer_fenced))
            ) or peer_fenced:
                del complete[partition]
        self.outcomes.compared += len(complete)
        return list(complete)

    async def _repair(self, partition: int, first_expiring: int, *, peer_fenced: bool) -> bool:
        """Level one partition; whether it ended with nothing lost."""
        own_fenced = self._replica.fenced[partition]
        if own_fenced and peer_fenced:
            return False
        whole = True
        for place in await self._differing_places(partition, first_expiring):
            after = b""
            while True:
                fields = [place_to_wire(place), after]
                (rows,) = await self._ask(Op.PAGE, fields, _ROW_BYTES)
                theirs = [Entry(DocumentId(one), digest) for one, digest in rows]
                self._count(_ENTRY_BYTES * len(theirs))
                last = theirs[-1].document_id if theirs else None
                ours = self._comparing.within(place, after, last)
                whole &= await self._level(ours, theirs, pull=not peer_fenced, push=not own_fenced)
                if last is None:
                    break
                after = last
        return whole

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

    async def _level(
        self, ours: dict[DocumentId, bytes], theirs: Sequence[Entry], *, pull: bool, push: bool
    ) -> bool:
        """Bring what differs of a page to the join on both sides; whether nothing was lost."""
        known = {entry.document_id: entry.digest for entry in theirs}
        missing = [one for one in known if one not in ours]
        differing = [
            one for one, encoded in ours.items() if known.get(one) != digest_of(one, encoded)
        ]
        whole = True
        if push:
            whole &= await self._push(differing, ours, pull=pull)
        else:
            self._set_aside([one for one in differing if one not in known], ours)
            missing += [one for one in differing if one in known]
        if pull:
            for start in range(0, len(missing), _BATCH_RECORDS):
                whole &= await self._pull(missing[start : start + _BATCH_RECORDS])
        return whole

    async def _push(
        self, ids: Sequence[DocumentId], ours: dict[DocumentId, bytes], *, pull: bool
    ) -> bool:
        whole = True
        for start in range(0, len(ids), _BATCH_RECORDS):
            deadline_s = self._clock.monotonic_s() + REQUEST_TIMEOUT_S
            batch = ids[start : start + _BATCH_RECORDS]
            sent = [self._send(one, ours[one], deadline_s) for one in batch]
            for document_id, pushed in zip(batch, sent, strict=True):
                held = await pushed.outcome
                if isinstance(held, Lost):
                    whole = False
                    continue
                self.outcomes.pushed += 1
                if held is not None and pull:
                    whole &= self._take(document_id, held)
        await self._replica.durable()
        return whole

    def _send(self, document_id: DocumentId, encoded: bytes, deadline_s: float) -> Awaited:
        pushed = Awaited()
        self._count(len(encoded))
        target = Target(self._peer)
        self._merges.send(
            target, document_id, encoded, deadline_s, pushed, patient=True, vouched=True
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
        try:
            verify(document_id, encoded)
            self._replica.admit()
            self._replica.join(document_id, encoded, vouched=True)
        except StoreError:
            return False  # damaged, or the disk does not keep up: the next exchange finds it again
        self.outcomes.pulled += 1
        return True

    def _set_aside(self, ids: Sequence[DocumentId], ours: dict[DocumentId, bytes]) -> None:
        """What a fenced replica alone has and what may be of a purged document."""
        for document_id in ids:
            if self._replica.set_aside_late(document_id, ending_of(ours[document_id])):
                self.outcomes.quarantined += 1

    def _count(self, size_bytes: int) -> None:
        self.outcomes.size_bytes += size_bytes
        self._spend(size_bytes)

    async def _ask(self, op: Op, fields: Fields, size_bytes: int) -> Fields:
        self._count(size_bytes)
        found = await self._asker.send(self._peer, op, fields, size_bytes)
        if isinstance(found, Lost):
            raise PeerLost(f"{found.code}: {found.detail}")
        return found
