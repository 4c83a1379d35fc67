"""One read under way: asked nearest first, hedged when slow, joined, and repaired afterwards.

Rules
-----
1. As many replicas are asked as R still needs; a miss asks all the others, for absence is never
   guessed.
2. When those asked take longer than their usual 95th percentile, one more is asked.
3. Answers are merged. Replicas that answered something older, or nothing, get the join afterwards.
4. With R > 1 the answer waits until R of those that answered have the join on disk: a later quorum
   would miss what this one has shown otherwise. As a rule they have. A tombstone is final, wherever
   it is, and waits for nobody.
5. A caller that has seen the document before gets what it has seen, or more. While the join is
   less, the read goes on to every replica; it ends with less only by the word of all owners.

Source of rule 4: Attiya, Bar-Noy and Dolev, "Sharing memory robustly in message-passing systems",
JACM 1995: a reader writes back what it read.
"""

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final

from cluster.ids import NodeId
from cluster.preference import Target
from kvnode.codec import decode, encode, header_of
from kvnode.errors import CorruptRecord, ReadTimeout, Unavailable
from kvnode.merging import UNWATCHED
from kvnode.quorum import ReadTally, Verdict
from kvnode.record import Record, Sighting, merge
from kvnode.results import Fetched
from kvnode.rpc.connection import Lost, Outcome
from kvnode.rpc.operations import FetchResult, Op

if TYPE_CHECKING:
    from kvnode.coordinator import Coordinator

#: For a repair that nobody waits for.
_REPAIR_WITHIN_S: Final = 1.0


class Read:
    """See the module's rules. ``answer`` is what the caller awaits."""

    __slots__ = (
        "_asked_count",
        "_being_repaired",
        "_coordinator",
        "_deadline_s",
        "_document_id",
        "_first",
        "_header",
        "_hedge_number",
        "_held_for_others",
        "_holders",
        "_joined",
        "_outstanding",
        "_owners_heard",
        "_seen",
        "_seen_before",
        "_tally",
        "_targets",
        "_timed_out",
        "_unrepaired",
        "answer",
        "deadline_s",
    )

    def __init__(
        self,
        coordinator: "Coordinator",
        document_id: bytes,
        targets: tuple[Target, ...],
        *,
        required: int,
        seen: Sighting | None,
        deadline_s: float,
    ) -> None:
        self._coordinator = coordinator
        self._document_id = document_id
        self._targets = targets
        self._tally = ReadTally(required, coordinator.copies, len(targets))
        self._deadline_s = deadline_s
        self._joined: Record | None = None
        #: The first record found, and its header: sent along so that equal copies stay where they
        #: are. What is joined meanwhile may be more than this.
        self._first: Record | None = None
        self._header: bytes | None = None
        #: What each owner that answered holds; None: nothing.
        self._seen: list[tuple[NodeId, Record | None]] = []
        self._owners_heard = 0
        self._seen_before = seen
        #: Stand-ins' answers: they count, and nobody repairs them.
        self._held_for_others: list[Record] = []
        #: Rule 4: what is being repaired, how many have it, and answers that are still to come.
        self._being_repaired: Record | None = None
        self._holders = 0
        self._unrepaired = 0
        self._asked_count = 0
        self._outstanding = 0
        self._timed_out = False
        #: When to hedge, or to give up a repair; see ``kvnode.sweep.Expiring``.
        self.deadline_s = 0.0
        self._hedge_number = 0
        self.answer: asyncio.Future[Fetched] = coordinator.loop.create_future()

    def start(self) -> None:
        """Ask the first R; with more than one to wait for, watch how long they take."""
        self._progress()

    def expire(self) -> None:
        """Those asked are slow: ask one more. Or a repair is, and there is no time left."""
        self._hedge_number = 0
        if self._being_repaired is not None:
            if not self.answer.done():
                self._lose_repair()
        elif not self.answer.done() and self._asked_count < len(self._targets):
            self._coordinator.counts.hedged_reads += 1
            self._ask_next()
            self._watch()

    def _progress(self) -> None:
        if self._being_repaired is not None and not self.answer.done():
            self._repair_seen(self._being_repaired)
            self._await_repair(self._being_repaired)
        if self._being_repaired is not None or self.answer.done():
            self._repair_when_complete()
            return
        verdict = self._verdict()
        if verdict is Verdict.PENDING:
            wanted = self._wanted()
            while self._outstanding < wanted and self._asked_count < len(self._targets):
                self._ask_next()
            self._watch()
            return
        self._unwatch()
        if verdict is not Verdict.REACHED:
            self._lose()
        elif self._joined is None or self._is_shown_enough(self._joined):
            self._succeed(self._joined)
        else:
            self._being_repaired = self._joined
            # Peers answer by the deadline or count as lost; this node's own disk may take longer.
            self.deadline_s = self._deadline_s
            self._hedge_number = self._coordinator.hedge_sweep.add(self)
            self._repair_seen(self._joined)
            self._await_repair(self._joined)  # when only stand-ins have less, nobody is repaired
        self._repair_when_complete()

    def _verdict(self) -> Verdict:
        """That of the tally; but with less than was seen before, all owners must be heard."""
        verdict = self._tally.verdict
        if verdict is not Verdict.REACHED or not self._is_behind():
            return verdict
        if self._owners_heard >= self._coordinator.copies:
            return verdict
        more = self._outstanding or self._asked_count < len(self._targets)
        return Verdict.PENDING if more else Verdict.LOST

    def _is_behind(self) -> bool:
        """Whether the caller has seen more than what was found up to now."""
        return self._seen_before is not None and not self._seen_before.is_in(self._joined)

    def _unwatch(self) -> None:
        if self._hedge_number:
            self._coordinator.hedge_sweep.pop(self._hedge_number)
            self._hedge_number = 0

    def _succeed(self, record: Record | None) -> None:
        tally = self._tally
        answered = tally.found + tally.absent
        self.answer.set_result(Fetched(record, answered, tally.required, self._coordinator.copies))

    # Rule 4 -------------------------------------------------------------------------------------

    def _is_shown_enough(self, joined: Record) -> bool:
        """Whether R of those that answered have it already; a tombstone settles a read at once."""
        held = [*self._held_for_others, *(record for _, record in self._seen)]
        self._holders = sum(record is joined or record == joined for record in held)
        return self._holders >= self._tally.required or joined.tombstone is not None

    def _repair_seen(self, joined: Record) -> None:
        """Bring those up to date that have answered with less; ``on_sent`` hears of each."""
        stale = [node for node, record in self._seen if record is None or not _has(record, joined)]
        self._seen = []
        if not stale:
            return
        self._unrepaired += len(stale)
        encoded = encode(self._document_id, joined)
        self._coordinator.repair(self._document_id, encoded, stale, self._deadline_s, self)

    def on_sent(self, target: Target, held: bytes | Lost | None) -> None:  # noqa: ARG002
        """See ``kvnode.merging.Sender``: a replica was repaired, or could not be."""
        self._unrepaired -= 1
        self._holders += not isinstance(held, Lost)
        if self._being_repaired is not None and not self.answer.done():
            self._await_repair(self._being_repaired)

    def _await_repair(self, joined: Record) -> None:
        """Answer when enough have it. While they don't, others may: those are asked last."""
        if self._holders >= self._tally.required:
            self._unwatch()
            self._succeed(joined)
        elif self._unrepaired or self._outstanding:
            return
        elif self._asked_count < len(self._targets):
            self._ask_next()
        else:
            self._unwatch()
            self._lose_repair()

    def _lose_repair(self) -> None:
        required = self._tally.required
        detail = f"{self._holders} of {required} replicas have what was found"
        self.answer.set_exception(ReadTimeout(detail, acked=self._holders, required=required))

    # --------------------------------------------------------------------------------------------

    def _wanted(self) -> int:
        """How many replies to wait for at once: what R lacks, or all after a miss."""
        tally = self._tally
        answered = tally.found + tally.absent
        if answered and (not tally.found or self._is_behind()):
            return len(self._targets)
        return tally.required - tally.found - tally.absent

    def _ask_next(self) -> None:
        target = self._targets[self._asked_count]
        self._asked_count += 1
        self._outstanding += 1
        coordinator = self._coordinator
        if target.node == coordinator.node:
            outcome = list(coordinator.replica.fetch(self._document_id, None))
            coordinator.loop.call_soon(self._on_outcome, target, 0.0, outcome)
            return
        coordinator.request(
            target.node,
            Op.FETCH,
            self._deadline_s,
            [self._document_id, self._header],
            0,
            partial(self._on_outcome, target, coordinator.clock.monotonic_s()),
        )

    def take_local(self, target: Target, record: Record | None, encoded: bytes | None) -> None:
        """Count what this node holds itself, read before the operation was needed."""
        assert self._asked_count == 0
        assert self._targets[0] is target
        self._asked_count = 1
        self._take(target, record, encoded)

    def _on_outcome(self, target: Target, asked_s: float, outcome: Outcome) -> None:
        self._outstanding -= 1
        if asked_s and (isinstance(outcome, list) or outcome.code == "timeout"):
            coordinator = self._coordinator
            coordinator.latencies.add(target.node, coordinator.clock.monotonic_s() - asked_s)
        if isinstance(outcome, Lost):
            self._timed_out = self._timed_out or outcome.code == "timeout"
            self._tally.fail()
            self._progress()
            return
        result, encoded = outcome[0], outcome[1]
        if result == FetchResult.SAME:
            self._take(target, self._first, None)
        elif result == FetchResult.ABSENT:
            self._take(target, None, None)
        elif result == FetchResult.FOUND:
            try:
                self._take(target, decode(self._document_id, encoded), encoded)
            except CorruptRecord:
                self._tally.fail()
        else:
            self._tally.fail()
        self._progress()

    def _take(self, target: Target, record: Record | None, encoded: bytes | None) -> None:
        if target.hint_for is None:
            self._seen.append((target.node, record))
            self._owners_heard += 1
        elif record is not None:
            self._held_for_others.append(record)
        if record is None:
            self._tally.miss()
            return
        if self._being_repaired is not None:
            self._holders += _has(record, self._being_repaired)
        if self._joined is None:
            self._joined = self._first = record
            self._header = header_of(encoded) if encoded is not None else None
        else:
            self._joined = merge(self._joined, record)
        self._tally.find(tombstone=record.tombstone is not None)

    def _watch(self) -> None:
        """Hedge when the slowest of those asked exceeds what it usually takes."""
        if self._hedge_number or not self._outstanding or self._asked_count >= len(self._targets):
            return
        coordinator = self._coordinator
        asked = self._targets[self._asked_count - 1].node
        self.deadline_s = coordinator.clock.monotonic_s() + coordinator.latencies.usual_s(asked)
        self._hedge_number = coordinator.hedge_sweep.add(self)

    def _lose(self) -> None:
        tally = self._tally
        answered = tally.found + tally.absent
        required = tally.required if tally.found else tally.absent_required
        if self._is_behind():
            required = self._coordinator.copies
            detail = f"{answered} of {required} replicas answered, none with what was seen before"
        elif tally.found:
            detail = f"{answered} of {required} required replicas answered"
        else:
            detail = f"{tally.absent} replicas have nothing, {required} must say so for a 'no'"
        kind = ReadTimeout if self._timed_out else Unavailable
        self.answer.set_exception(kind(detail, acked=answered, required=required))

    def _repair_when_complete(self) -> None:
        """Once nobody else will answer, bring those up to date that did answer."""
        joined = self._joined
        if self._outstanding or joined is None:
            return
        stale = [node for node, record in self._seen if record != joined]
        self._seen = []
        if stale:
            encoded = encode(self._document_id, joined)
            deadline_s = self._coordinator.clock.monotonic_s() + _REPAIR_WITHIN_S
            self._coordinator.repair(self._document_id, encoded, stale, deadline_s, UNWATCHED)


def _has(held: Record, wanted: Record) -> bool:
    """Whether there is nothing in ``wanted`` that is not in ``held``."""
    return held is wanted or merge(held, wanted) is held
