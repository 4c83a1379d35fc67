"""Proof that the histories bite: without any one of these safeguards, a promise is broken.

Each safeguard is taken out of the production code in turn. A few random histories must then fail,
and say which promise it was. A test that can't fail tests nothing.
"""

from collections.abc import Callable
from typing import Any

import pytest

import kvnode.client
import kvnode.reading
import kvnode.replica
import kvnode.writing
from cluster.ids import NodeId
from kvnode.coordinator import Coordinator
from kvnode.hints import HintBook
from kvnode.quorum import ReadTally, WriteTally
from kvnode.record import Record, merge
from kvnode.replica import Replica
from kvnode.rpc.operations import FetchResult
from kvnode.services.handoff import _Delivery
from kvnode.storage.commit import GroupCommit
from kvnode.storage.memory import MemoryEngine
from kvnode.sweep import DeadlineSweep

Patch = Callable[[pytest.MonkeyPatch], None]
ABLATIONS: dict[str, tuple[Patch, str]] = {}


def ablation(caught_as: str) -> Callable[[Patch], Patch]:
    """Register the removal of a safeguard, and what its failure says."""

    def register(patch: Patch) -> Patch:
        ABLATIONS[patch.__name__] = patch, caught_as
        return patch

    return register


@ablation("I18|I1")
def acknowledged_before_it_is_durable(patch: pytest.MonkeyPatch) -> None:
    """The barrier fires at the end of the tick, not of the commit."""

    def barrier(self: GroupCommit, done: Callable[[], None], *, patient: bool = False) -> None:
        self._loop.call_soon(done)

    patch.setattr(GroupCommit, "barrier", barrier)


@ablation("I15")
def hint_dropped_without_acknowledgement(patch: pytest.MonkeyPatch) -> None:
    """A hint counts as delivered once it was sent."""

    def on_sent(self: _Delivery, target: object, held: object) -> None:
        if not self.outcome.done():
            self.outcome.set_result(None)

    patch.setattr(_Delivery, "on_sent", on_sent)


@ablation("I15")
def newer_hint_dropped_with_the_one_that_was_delivered(patch: pytest.MonkeyPatch) -> None:
    """A hint that was superseded during its delivery is released all the same."""

    def release(self: Replica, target: Any, document_id: Any, value: Any, fate: Any) -> None:
        key = kvnode.replica.hint_key(target, document_id)
        latest = self._engine.latest(key)
        if latest is not None:
            self._engine.delete(key)
            self.hints.release(target, len(latest), fate)

    patch.setattr(Replica, "release", release)


@ablation("I1|agree")
def hints_forgotten_at_restart(patch: pytest.MonkeyPatch) -> None:
    """They stay in the database, and nobody knows."""
    patch.setattr(HintBook, "restore", lambda *_: None)


@ablation("I1|I4")
def reads_of_what_is_not_durable(patch: pytest.MonkeyPatch) -> None:
    """A read sees what a crash can still take away."""
    patch.setattr(MemoryEngine, "get", MemoryEngine.latest)


@ablation("I2")
def absence_guessed_from_one_replica(patch: pytest.MonkeyPatch) -> None:
    """As many have to say "absent" as R asks for."""
    original = ReadTally.__init__

    def init(self: ReadTally, required: int, copies: int, askable: int) -> None:
        original(self, required, copies, askable)
        self.absent_required = required

    patch.setattr(ReadTally, "__init__", init)


@ablation("I1|I2")
def absence_vouched_for_by_anybody(patch: pytest.MonkeyPatch) -> None:
    """A stand-in that holds no hint says "absent"."""
    original = Replica.fetch

    def fetch(self: Replica, document_id: bytes, known: bytes | None) -> Any:
        result, encoded = original(self, document_id, known)
        return (FetchResult.ABSENT if result is FetchResult.UNKNOWN else result), encoded

    patch.setattr(Replica, "fetch", fetch)


@ablation("I18")
def node_counted_twice(patch: pytest.MonkeyPatch) -> None:
    """A replica and a hint on one disk are two acknowledgements."""

    def acknowledge(self: WriteTally, node: NodeId, *, hint: bool) -> None:
        self.open_count -= 1
        self.acked += 1
        self.hints += hint

    patch.setattr(WriteTally, "acknowledge", acknowledge)


@ablation("I18")
def hints_counted_as_replicas(patch: pytest.MonkeyPatch) -> None:
    """The answer does not say which acknowledgements were hints."""
    original = WriteTally.acknowledge

    def acknowledge(self: WriteTally, node: NodeId, *, hint: bool) -> None:
        original(self, node, hint=False)

    patch.setattr(WriteTally, "acknowledge", acknowledge)


@ablation("I5")
def create_beats_tombstone(patch: pytest.MonkeyPatch) -> None:
    """The last writer wins."""

    def last(a: Record, b: Record) -> Record:
        return b if b.create is not None and a.create is None else merge(a, b)

    patch.setattr(kvnode.replica, "merge", last)


@ablation("I9|I8")
def election_skipped(patch: pytest.MonkeyPatch) -> None:
    """Two bodies under one key are left to the lattice, also in the strong mode."""

    async def elect(self: Coordinator, document_id: bytes, record: Record, _: float) -> Record:
        return record

    patch.setattr(Coordinator, "_elect", elect)


@ablation("I9")
def votes_changed(patch: pytest.MonkeyPatch) -> None:
    """A replica votes for whichever body it is asked about."""
    original = Replica.vote

    def vote(self: Replica, document_id: bytes, fingerprint: bytes, done: Any) -> None:
        original(self, document_id, fingerprint, lambda voted, held: done(fingerprint, held))

    patch.setattr(Replica, "vote", vote)


@ablation("still")
def stale_replicas_not_repaired(patch: pytest.MonkeyPatch) -> None:
    """Reads answer, and leave everything as it is."""
    patch.setattr(Coordinator, "repair", lambda *_: None)


@ablation("I12")
def leftovers_called_nothing(patch: pytest.MonkeyPatch) -> None:
    """A write that may have been stored somewhere is reported as refused."""
    patch.setattr(kvnode.writing, "WriteTimeout", kvnode.writing.Unavailable)


@ablation("I27")
def deadlines_not_watched(patch: pytest.MonkeyPatch) -> None:
    """Whoever waits for a silent node waits for ever."""
    patch.setattr(DeadlineSweep, "_sweep", lambda self: None)
