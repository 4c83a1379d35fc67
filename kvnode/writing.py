"""One write under way: sent to every replica at once, counted, and hinted where it did not arrive.

Rules
-----
1. The caller is answered as soon as the tally says REACHED or LOST; replies after that still count:
   a replica that stays silent becomes a hint.
2. A primary that is known to be down when the write starts gets its hint in the same batch as the
   local copy.
3. A target that fails while the verdict is open is replaced by the next spare, which keeps a hint;
   otherwise the coordinator keeps the hint itself. A hint counts toward W on a node that has not
   counted yet, unless the write is strict.
4. Every hint kept or replica reached makes a lost write "unknown"; only a write that has left
   nothing anywhere is "unavailable".
5. An acknowledgement of a primary that a partition is being moved to doesn't count, nor does a hint
   for it, until it is known to have what came before (``cluster.ringchange``).
6. Where there are other regions, the write is in this node's outbox before it is acknowledged
   (``kvnode.outbox``). One that came from another region is not; of what was shipped, a
   copy that was put into quarantine counts: it is durable there, and its owners are asked.
"""

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from cluster.ids import NodeId
from cluster.preference import Target
from kvnode.codec import decode
from kvnode.errors import CorruptRecord, LateCopy, StoreError, Unavailable, WriteTimeout
from kvnode.placement import WritePlan
from kvnode.quorum import Verdict, WriteTally
from kvnode.record import Record, merge
from kvnode.results import Stored
from kvnode.rpc.connection import Lost

if TYPE_CHECKING:
    from kvnode.coordinator import Coordinator


class Write:
    """See the module's rules. ``answer`` is what the caller awaits."""

    __slots__ = (
        "_coordinator",
        "_document_id",
        "_encoded",
        "_hints_uncounted",
        "_joined",
        "_late_counts",
        "_left_something",
        "_logged",
        "_plan",
        "_sloppy",
        "_spares_used",
        "_stored_here",
        "_sweep_number",
        "_tally",
        "answer",
        "deadline_s",
    )

    def __init__(
        self,
        coordinator: "Coordinator",
        document_id: bytes,
        record: Record,
        encoded: bytes,
        plan: WritePlan,
        *,
        required: int,
        sloppy: bool,
        deadline_s: float,
        shipped: bool = False,
        late_counts: bool = False,
    ) -> None:
        self._coordinator = coordinator
        self._document_id = document_id
        self._encoded = encoded
        self._plan = plan
        self._sloppy = sloppy
        self._tally = WriteTally(required)
        self._joined = record
        self._spares_used = 0
        self._left_something = False
        self._late_counts = late_counts
        #: Whether this node puts the record on its own disk, and whether other regions will get it.
        self._stored_here = False
        self._logged = shipped or not coordinator.replica.outbox.regions
        #: Hints on their way to the disk that don't count toward W, and so aren't in the tally.
        self._hints_uncounted = 0
        self.deadline_s = deadline_s
        self.answer: asyncio.Future[Stored] = coordinator.loop.create_future()
        self._sweep_number = coordinator.sweep.add(self)

    def start(self) -> None:
        """Send to every target. The local copy and the hints known to be needed share a batch."""
        # All are counted before the first is sent: a refusal may come at once.
        for _ in self._plan.targets:
            self._tally.asked()
        for _ in self._plan.uncovered:
            self._expect_hint()
        required = self._tally.required
        for number, target in enumerate(self._plan.targets):
            # The first W are waited for; the commits of the others may wait for company.
            self._send(target, patient=number >= required)
        for primary in self._plan.uncovered:
            self._keep_hint(primary)
        if not self._logged:
            self._log()
        self._progress()

    def _log(self) -> None:
        """Append the write to the outbox, in the batch of this node's copy; see rule 6."""
        if self.answer.done():  # refused already
            self._logged = True
            return
        replica = self._coordinator.replica
        self._left_something = True
        record = None if self._stored_here else self._encoded
        self._coordinator.append_to_outbox(self._document_id, record)
        replica.when_durable(self._on_logged, patient=False)

    def _on_logged(self) -> None:
        self._logged = True
        self._progress()

    def expire(self) -> None:
        """The deadline has passed and something has not answered (see ``kvnode.sweep``)."""
        if not self.answer.done():
            self._lose("no answer in time")

    def _send(self, target: Target, *, patient: bool) -> None:
        if target.node == self._coordinator.node:
            self._store_locally(target)
            return
        self._coordinator.merges.send(
            target,
            self._document_id,
            self._encoded,
            self.deadline_s,
            self,
            patient=patient,
        )

    def _store_locally(self, target: Target) -> None:
        replica = self._coordinator.replica
        try:
            if target.hint_for is None:
                self._coordinator.merge_here(
                    self._document_id, self._encoded, partial(self._on_merged, target)
                )
                self._stored_here = True
            else:
                replica.hint_store.hold(
                    target.hint_for,
                    self._document_id,
                    self._encoded,
                    partial(self._on_held, target.node, target.hint_for),
                )
        except StoreError as error:
            lost = Lost(error.code, str(error), sent=False)
            self._coordinator.loop.call_soon(self._on_lost, target, lost)

    def _on_held(self, node: NodeId, primary: NodeId, kept: bool) -> None:
        if kept:
            self._left_something = True
            self._acknowledge(node, primary, hint=True)
        else:
            self._tally.fail(maybe_stored=False)
        self._progress()

    def _acknowledge(self, node: NodeId, primary: NodeId, *, hint: bool) -> None:
        """Count a node that has the write on disk, itself or for a primary; see rule 5."""
        if primary in self._plan.filling:
            self._tally.fail(maybe_stored=True)
        else:
            self._tally.acknowledge(node, hint=hint)

    def on_sent(self, target: Target, held: bytes | Lost | None) -> None:
        """A peer answered, or will not (see ``kvnode.merging``)."""
        if isinstance(held, Lost):
            self._on_lost(target, held)
        elif target.hint_for is not None:
            self._acknowledge(target.node, target.hint_for, hint=True)
            self._progress()
        else:
            self._on_merged(target, held)

    def _on_merged(self, target: Target, held: bytes | None) -> None:
        if held is not None:
            try:
                self._joined = merge(self._joined, decode(self._document_id, held))
            except CorruptRecord as error:
                self._on_lost(target, Lost(error.code, str(error), sent=True))
                return
        self._acknowledge(target.node, target.node, hint=False)
        self._progress()

    def _on_lost(self, target: Target, lost: Lost) -> None:
        if self._late_counts and lost.code == LateCopy.code:
            self._on_merged(target, None)
            return
        primary = target.hint_for or target.node
        spares = self._plan.spares
        if self._tally.verdict is Verdict.PENDING and self._spares_used < len(spares):
            spare = spares[self._spares_used]
            self._spares_used += 1
            self._tally.asked()
            self._send(Target(spare, hint_for=primary), patient=False)
        elif primary != self._coordinator.node:
            self._expect_hint()
            self._keep_hint(primary)
        # After the replacement was asked, so that the tally does not give up too early.
        self._tally.fail(maybe_stored=lost.sent)
        self._progress()

    def _expect_hint(self) -> None:
        if self._sloppy:
            self._tally.asked()
        else:
            self._hints_uncounted += 1

    def _keep_hint(self, primary: NodeId) -> None:
        """Keep a hint here; it counts only when sloppy, and only if this node has not counted."""
        node = self._coordinator.node
        done = partial(self._on_held, node, primary) if self._sloppy else self._on_uncounted
        hint_store = self._coordinator.replica.hint_store
        hint_store.hold(primary, self._document_id, self._encoded, done)

    def _on_uncounted(self, kept: bool) -> None:
        self._hints_uncounted -= 1
        self._left_something = self._left_something or kept

    def _progress(self) -> None:
        tally = self._tally
        if not self.answer.done():
            verdict = tally.verdict
            if verdict is Verdict.REACHED and self._logged:
                self._coordinator.merges.flush()
                self.answer.set_result(
                    Stored(
                        self._joined,
                        tally.acked,
                        tally.required,
                        self._coordinator.copies,
                        tally.hints,
                    )
                )
            elif verdict is Verdict.LOST:
                self._lose("too few replicas could store it")
        if tally.open_count == 0 and self._logged:
            self._coordinator.sweep.pop(self._sweep_number)

    def _lose(self, why: str) -> None:
        tally = self._tally
        detail = f"{tally.acked} of {tally.required} required replicas have it on disk: {why}"
        under_way = tally.open_count or self._hints_uncounted
        left_something = self._left_something or tally.acked or tally.unknown or under_way
        kind = WriteTimeout if left_something else Unavailable
        self.answer.set_exception(kind(detail, acked=tally.acked, required=tally.required))
