"""Bringing this node's writes to another region, in order, in batches.

Rules
-----
1. What is in the outbox when a unit of work begins is sent to one node there, some batches ahead of
   its answers. It coordinates each record in its own region and answers when all are on a majority
   of their owners. Only then the region's cursor moves, batch by batch, without a gap.
2. A batch that is refused or lost ends the unit. It begins anew behind the cursor, at the next node
   that can be reached, after a pause that doubles. What arrived already merges into itself.
3. A record that is on the disk no longer has expired: a purge waits for the outbox. One that can't
   be read is owed (``kvnode.outbox``, rule 5).
4. A unit that has caught up rests for an interval and costs no budget: lag matters. One that has
   not is background work like any other.
"""

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Final

import msgspec

from cluster.ids import DocumentId, NodeId, partition_of
from kvnode.batching import RECORDS_MAX, Packer
from kvnode.codec import verify
from kvnode.errors import CorruptRecord
from kvnode.log import Log
from kvnode.outbox import Entry
from kvnode.ports import Clock
from kvnode.replica import Replica
from kvnode.rpc.connection import Lost, Outcome
from kvnode.rpc.operations import Op, traced
from kvnode.rpc.transport import Transport
from kvnode.sampling import Sampler
from kvnode.services.asking import Asker
from kvnode.services.loop import Work
from kvnode.tracing import CONTEXTS_MAX, TRACE_ID_BYTES, OpenSpan, Tracer

#: Batches under way at once.
_AHEAD: Final = 4
#: Batches of one unit of work.
_UNIT_BATCHES: Final = 32
#: In one line of the log.
_TRACES_TOLD: Final = 10
_BACKOFF_MIN_S: Final = 0.2
_BACKOFF_MAX_S: Final = 10.0


class _Batch(msgspec.Struct):
    last: Entry
    #: Nothing is left of what has expired.
    records: dict[tuple[DocumentId, bytes], None]
    #: Spans of traces that some of the writes belong to.
    contexts: list[bytes]


class Shipping:
    """A service (``kvnode.services.loop``) for one region.

    Args:
        nodes: Of that region, the one that is asked first in front.
        asker: Its deadline is that of a batch.
    """

    def __init__(
        self,
        replica: Replica,
        region: str,
        nodes: Sequence[NodeId],
        *,
        batch_bytes_max: int,
        interval_s: float,
        asker: Asker,
        transport: Transport,
        partitions: int,
        tracer: Tracer,
        clock: Clock,
        log: Log,
    ) -> None:
        self.name = f"shipping to {region}"
        self.interval_s = interval_s
        self._replica = replica
        self._outbox = replica.outbox
        self._region = region
        self._nodes = deque[NodeId]()
        self.review(nodes)
        self._batch_bytes_max = batch_bytes_max
        self._asker = asker
        self._transport = transport
        self._partitions = partitions
        self._tracer = tracer
        self._clock = clock
        self._log = log
        self._packer = Packer()
        self._backoff_s = 0.0
        self._left_alone_until_s = 0.0
        #: What the next line of the log is about.
        self._lines = Sampler(per_s=1)
        self._untold_count = 0
        self._untold_traces: dict[str, None] = {}
        self.shipped_count = 0
        self.shipped_bytes = 0

    def review(self, nodes: Sequence[NodeId]) -> None:
        """The region has other nodes; the one that is asked now stays the first."""
        kept = [node for node in self._nodes if node in nodes]
        self._nodes = deque([*kept, *(node for node in nodes if node not in kept)])

    async def run_once(self) -> Work:
        """Send what there is, or as much of it as a unit of work may have."""
        work = await self._ship()
        self._tell()
        return work

    async def _ship(self) -> Work:
        target = self._target()
        if target is None or self._clock.monotonic_s() < self._left_alone_until_s:
            return Work.IDLE
        batches = islice(self._batches(), _UNIT_BATCHES)
        under_way: deque[tuple[_Batch, asyncio.Future[Outcome] | None]] = deque()
        count = 0
        while True:
            while len(under_way) < _AHEAD and (batch := next(batches, None)) is not None:
                under_way.append((batch, self._send(target, batch)))
                count += 1
            if not under_way:
                return Work.BUSY if count == _UNIT_BATCHES else Work.IDLE
            batch, asked = under_way.popleft()
            answer = await asked if asked is not None else []
            if isinstance(answer, Lost):
                self._fail(target, answer)
                return Work.IDLE
            self._backoff_s = 0.0
            self._outbox.acknowledge(self._region, batch.last)
            self.shipped_count += len(batch.records)
            self._untold_count += len(batch.records)
            for context in batch.contexts:
                self._untold_traces[context[:TRACE_ID_BYTES].hex()] = None

    def _target(self) -> NodeId | None:
        """The node that took the last batch, or the next one that can be reached."""
        for _ in range(len(self._nodes)):
            if self._transport.connected(self._nodes[0]):
                return self._nodes[0]
            self._nodes.rotate(-1)
        return None

    def _batches(self) -> Iterator[_Batch]:
        """What is in the outbox by now behind the region's cursor, as far as it is durable."""
        after, upto = self._outbox.cursors[self._region].sequence, self._outbox.last
        records: dict[tuple[DocumentId, bytes], None] = {}
        contexts: list[bytes] = []
        size_bytes = 0
        last: Entry | None = None
        while after < upto and (entries := self._outbox.read(after, self._batch_bytes_max)):
            for entry in entries:
                record = self._record_of(entry)
                if record is not None:
                    records[entry.document_id, record] = None
                    size_bytes += len(record)
                    if context := self._tracer.hops.of(entry.sequence):
                        contexts.append(context)
                last = entry
                if size_bytes >= self._batch_bytes_max or len(records) == RECORDS_MAX:
                    yield _Batch(entry, records, contexts)
                    records, contexts, size_bytes, last = {}, [], 0, None
            after = entries[-1].sequence
        if last is not None:
            yield _Batch(last, records, contexts)

    def _record_of(self, entry: Entry) -> bytes | None:
        """See rule 3."""
        try:
            record = entry.record or self._replica.records.durable(entry.document_id)
            if record is not None:
                verify(entry.document_id, record)
        except CorruptRecord:
            partition = partition_of(entry.document_id, self._partitions)
            self._outbox.owe(self._region, partition, entry.coordinated_ms)
            return None
        return record

    def _send(self, target: NodeId, batch: _Batch) -> "asyncio.Future[Outcome] | None":
        if not batch.records:
            return None
        codec, packed = self._packer.pack(batch.records)
        self.shipped_bytes += len(packed)
        if not batch.contexts:
            return self._asker.send(target, Op.SHIP, [codec, packed], len(packed))
        spans = [
            self._tracer.begin("rpc.ship", "client", parent=context)
            for context in batch.contexts[:CONTEXTS_MAX]
        ]
        for span in spans:
            span.note(peer=target, region=self._region, records=len(batch.records))
        contexts = b"".join(span.context for span in spans)
        op, fields = traced(contexts, Op.SHIP, [codec, packed])
        answer = self._asker.send(target, op, fields, len(packed))
        answer.add_done_callback(partial(_end, spans))
        return answer

    def _tell(self) -> None:
        """One line a second, for all that has arrived since the last one."""
        if not self._untold_count or self._lines.admit(self._clock.monotonic_s()) is None:
            return
        traces = list(self._untold_traces)[:_TRACES_TOLD]
        said = {"trace_ids": traces} if traces else {}
        self._log.info(
            "document.replicated", region=self._region, documents=self._untold_count, **said
        )
        self._untold_count, self._untold_traces = 0, {}

    def _fail(self, target: NodeId, lost: Lost) -> None:
        self._backoff_s = min(_BACKOFF_MAX_S, max(_BACKOFF_MIN_S, 2 * self._backoff_s))
        self._left_alone_until_s = self._clock.monotonic_s() + self._backoff_s
        self._nodes.rotate(-1)
        self._log.info(
            "shipping.postponed",
            region=self._region,
            peer=target,
            reason=lost.code,
            wait_s=self._backoff_s,
        )


def _end(spans: Sequence[OpenSpan], answered: "asyncio.Future[Outcome]") -> None:
    if answered.cancelled():
        return
    answer = answered.result()
    for span in spans:
        span.end(answer.code if isinstance(answer, Lost) else "")
