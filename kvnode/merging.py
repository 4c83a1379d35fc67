"""Sending records to peers: many to one peer are one request with one answer.

Under load most of a merge's cost is that of a message: a request to remember, a deadline, a header,
an answer. A batch has these once. Its receiver puts every record in one stretch, so they are also
in one group commit, and answers when all of them are durable.

A batch leaves at the end of the tick. Under load ticks are short, and a tick holds one record; so a
batch that follows another within a pause waits that long for company. With 32 connections, a third
of the coordinator's CPU time went into sending records one by one, and as much into receiving them.

    MERGE  hint_for | nil, patient, vouched_at | nil, [id, record, id, record, ...]
        -> nil | [[index, held | nil, code | nil, detail | nil], ...]

``patient``: nobody waits for the answer, so the receiver may let its commit wait for company.
``vouched_at``: the sender is a co-owner that has the records and has compared them with the
receiver, when both had this purge floor (``kvnode.lifecycle``).

The answer names only what is out of the ordinary: the receiver holds something else than was sent,
or could not merge.
"""

import asyncio
from math import inf
from typing import Final, Protocol

from cluster.ids import NodeId
from cluster.preference import Target
from kvnode.rpc.connection import Lost, Outcome
from kvnode.rpc.operations import MERGE_RECORDS_MAX, Fields, Op, traced
from kvnode.rpc.transport import Transport

#: How long a batch waits for company. The event loop's timers have whole milliseconds.
PAUSE_S: Final = 0.001
PATIENT_PAUSE_S: Final = 0.004
#: A batch that has grown to this leaves before the tick ends.
BATCH_BYTES_MAX: Final = 192 * 1024
_RECORD_OVERHEAD_BYTES: Final = 32


#: Node, whom it keeps a hint for, at which floor the records are vouched for.
_Recipient = tuple[NodeId, NodeId | None, int | None]


class Sender(Protocol):
    """Whoever sent a record."""

    def on_sent(self, target: Target, held: bytes | Lost | None) -> None:
        """The record is durable at the target, or lost.

        Args:
            held: What the target holds, if that is not what was sent; or why there is no answer.
        """


class Awaited:
    """A sender that awaits what becomes of its record."""

    def __init__(self) -> None:
        self.outcome: asyncio.Future[bytes | Lost | None] = (
            asyncio.get_running_loop().create_future()
        )

    def on_sent(self, target: Target, held: bytes | Lost | None) -> None:  # noqa: ARG002
        """Whoever waits may have been cancelled."""
        if not self.outcome.done():
            self.outcome.set_result(held)


class Unwatched:
    """Sender of read repairs: one that fails is repeated by the next read or anti-entropy."""

    def on_sent(self, target: Target, held: bytes | Lost | None) -> None:
        """See ``kvnode.merging.Sender``."""


#: For whoever does not care.
UNWATCHED: Final = Unwatched()


class _Batch:
    __slots__ = ("contexts", "deadline_s", "fields", "patient", "senders", "size_bytes")

    def __init__(self) -> None:
        self.fields: Fields = []
        self.senders: list[tuple[Sender, Target]] = []
        self.size_bytes = 0
        self.deadline_s = 0.0
        self.patient = True
        #: Of the traces that some of the records belong to.
        self.contexts = b""

    def on_outcome(self, outcome: Outcome) -> None:
        """Tell every sender how its record went."""
        exceptions: dict[int, bytes | Lost | None] = {}
        if not isinstance(outcome, Lost):
            try:
                exceptions = _parse(outcome)
            except (TypeError, ValueError):
                outcome = Lost("bad-answer", "the answer is not one to a merge", sent=True)
        if isinstance(outcome, Lost):
            for sender, target in self.senders:
                sender.on_sent(target, outcome)
        elif not exceptions:
            for sender, target in self.senders:
                sender.on_sent(target, None)
        else:
            for index, (sender, target) in enumerate(self.senders):
                sender.on_sent(target, exceptions.get(index))


class Merges(Protocol):
    """``MergeSender``, or what takes notes around it."""

    def send(
        self,
        target: Target,
        document_id: bytes,
        encoded: bytes,
        deadline_s: float,
        sender: Sender,
        *,
        patient: bool,
        vouched_at: int | None = None,
        context: bytes = b"",
    ) -> None:
        """Send one record; ``sender.on_sent`` is called once, later."""

    def flush(self) -> None:
        """Send what is waiting."""


class MergeSender:
    """Batches of one process, by target and by whom they are hints for."""

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: Transport) -> None:
        self._loop = loop
        self._transport = transport
        self._batches: dict[_Recipient, _Batch] = {}
        self._flushed_s = -inf
        #: The flush that is due, and whether a sender waits for it who is not patient.
        self._flush_due: asyncio.Handle | None = None
        self._urgent = False

    def send(
        self,
        target: Target,
        document_id: bytes,
        encoded: bytes,
        deadline_s: float,
        sender: Sender,
        *,
        patient: bool,
        vouched_at: int | None = None,
        context: bytes = b"",
    ) -> None:
        """Send one record; ``sender.on_sent`` is called once, later.

        A batch waits for its answer until the latest deadline of its records, and is as patient as
        the least patient of its senders. ``context`` is that of a span that waits for this record
        (``kvnode.tracing``).
        """
        key = (target.node, target.hint_for, vouched_at)
        batch = self._batches.get(key)
        if batch is None:
            batch = self._batches[key] = _Batch()
        elif (
            batch.size_bytes + len(encoded) > BATCH_BYTES_MAX
            or len(batch.senders) >= MERGE_RECORDS_MAX
        ):
            self._request(key, batch)
            batch = self._batches[key] = _Batch()
        batch.fields.append(document_id)
        batch.fields.append(encoded)
        batch.senders.append((sender, target))
        batch.size_bytes += len(encoded) + _RECORD_OVERHEAD_BYTES
        batch.deadline_s = max(batch.deadline_s, deadline_s)
        batch.patient = batch.patient and patient
        if context:
            batch.contexts += context
        if self._flush_due is None or not (patient or self._urgent):
            self._urgent = not patient
            self._schedule()

    def flush(self) -> None:
        """Send what is waiting: a write is about to be acknowledged.

        So an acknowledged record has been sent to every replica, also if this process is killed in
        the next moment.
        """
        if self._flush_due is not None:
            self._flush_due.cancel()
            self._flush()

    def _schedule(self) -> None:
        """Set when the batches leave, anew if somebody impatient has come."""
        if self._flush_due is not None:
            self._flush_due.cancel()
        pause_s = PAUSE_S if self._urgent else PATIENT_PAUSE_S
        if self._loop.time() - self._flushed_s <= pause_s:
            self._flush_due = self._loop.call_later(pause_s, self._flush)
        else:
            self._flush_due = self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = None
        self._urgent = False
        self._flushed_s = self._loop.time()
        batches, self._batches = self._batches, {}
        for key, batch in batches.items():
            self._request(key, batch)

    def _request(self, key: _Recipient, batch: _Batch) -> None:
        node, hint_for, vouched_at = key
        op, fields = Op.MERGE, [hint_for, batch.patient, vouched_at, batch.fields]
        if batch.contexts:
            op, fields = traced(batch.contexts, op, fields)
        self._transport.request(
            node, op, batch.deadline_s, fields, batch.size_bytes, batch.on_outcome
        )


def _parse(answer: Fields) -> dict[int, bytes | Lost | None]:
    """By index, what was out of the ordinary. Raises TypeError, ValueError for a bad answer."""
    (rows,) = answer
    found: dict[int, bytes | Lost | None] = {}
    for index, held, code, detail in rows or ():
        found[index] = held if code is None else Lost(str(code), str(detail), sent=False)
    return found
