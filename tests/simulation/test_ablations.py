"""Proof that the histories bite: without any one of these safeguards, a promise is broken.

Each safeguard is taken out of the production code in turn. Then a few random histories must fail
and say which promise it was; for what they seldom meet it is the test that is about it.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import msgspec
import pytest

import kvnode.codec
import kvnode.keyed
import kvnode.node
import kvnode.replica
import kvnode.writing
from cluster.detector import Detector
from cluster.ids import NodeId
from cluster.preference import Target
from kvnode.coordinator import Coordinator
from kvnode.errors import Unavailable
from kvnode.hints import HintBook
from kvnode.hintstore import HintStore
from kvnode.quorum import ReadTally, WriteTally
from kvnode.reading import Read
from kvnode.record import Record, merge
from kvnode.replica import Replica
from kvnode.rpc.operations import FetchResult
from kvnode.services.handoff import _Delivery
from kvnode.services.overdue import Overdue
from kvnode.storage.commit import GroupCommit
from kvnode.storage.identity import Identity, boot
from kvnode.storage.keys import hint_key
from kvnode.storage.memory import MemoryEngine
from kvnode.sweep import DeadlineSweep
from kvnode.writing import Write
from tests.simulation import (
    test_crashes,
    test_handoff,
    test_membership,
    test_reading,
)
from tests.simulation.ablations import Ablation, Ablations, histories, without_comparing

ABLATIONS: Final = Ablations()
ablation: Final = ABLATIONS.add


@ablation("I18: ", histories(0))
def acknowledged_before_it_is_durable(patch: pytest.MonkeyPatch) -> None:
    """The barrier fires at the end of the tick, not of the commit."""

    def barrier(self: GroupCommit, done: Callable[[], None], *, patient: bool = False) -> None:
        self._loop.call_soon(done)

    patch.setattr(GroupCommit, "barrier", barrier)


@ablation("I15: ", histories(1))
def hint_dropped_without_acknowledgement(patch: pytest.MonkeyPatch) -> None:
    """A hint counts as delivered once it was sent."""

    def on_sent(self: _Delivery, target: object, held: object) -> None:
        if not self.outcome.done():
            self.outcome.set_result(None)

    patch.setattr(_Delivery, "on_sent", on_sent)


@ablation(
    "I15: ", partial(test_handoff.test_a_hint_that_grew_while_delivered_is_delivered_again, 0)
)
def newer_hint_dropped_with_the_one_that_was_delivered(patch: pytest.MonkeyPatch) -> None:
    """A hint that was superseded during its delivery is released all the same."""
    original = HintStore.release

    def release(self: HintStore, target: Any, document_id: Any, value: Any, fate: Any) -> bool:
        latest = self._engine.latest(hint_key(target, document_id))
        return original(self, target, document_id, latest or value, fate)

    patch.setattr(HintStore, "release", release)


@ablation(
    "nowhere that it is lost",
    partial(test_handoff.test_hints_older_than_the_window_are_dropped_and_counted, 0),
)
def lost_hints_not_remembered(patch: pytest.MonkeyPatch) -> None:
    """A hint is given up, and nobody knows that its target has to be compared with."""
    patch.setattr(HintStore, "_put_debt", lambda *_: None)


@ablation("I1: ", partial(test_handoff.test_a_document_that_only_hints_hold_outlasts_the_window, 0))
def overdue_hints_dropped_unasked(patch: pytest.MonkeyPatch) -> None:
    """A hint that is too old is given up before any owner has its document."""
    patch.setattr(Overdue, "is_here", lambda self, hint: True)


@ablation(
    "still: . are held",
    partial(test_handoff.test_hints_that_their_target_refuses_hold_up_no_others, 0),
)
def refused_hints_sent_again_and_again(patch: pytest.MonkeyPatch) -> None:
    """Each batch begins with the first hint that is held."""
    original = HintStore.behind
    patch.setattr(
        HintStore, "behind", lambda self, target, _, limit: original(self, target, b"", limit)
    )


@ablation("0 == 2", partial(test_handoff.test_a_holder_that_is_restarted_still_has_its_hints, 0))
def hints_forgotten_at_restart(patch: pytest.MonkeyPatch) -> None:
    """They stay in the database, and nobody knows."""
    patch.setattr(HintBook, "restore", lambda *_: None)


@ablation(
    "DID NOT RAISE DocumentNotFound",
    partial(test_crashes.test_what_a_power_cut_could_take_away_is_not_read, 0),
)
def reads_of_what_is_not_durable(patch: pytest.MonkeyPatch) -> None:
    """A read sees what a crash can still take away."""

    def get(self: MemoryEngine, key: bytes) -> bytes | None:
        pending, value = self._commit.pending(key)
        return value if pending else self._disk.values.get(key)

    patch.setattr(MemoryEngine, "get", get)


@ablation("I2: ", histories(0))
def absence_guessed_from_one_replica(patch: pytest.MonkeyPatch) -> None:
    """As many have to say "absent" as R asks for."""
    original = ReadTally.__init__

    def init(self: ReadTally, required: int, copies: int, askable: int) -> None:
        original(self, required, copies, askable)
        self.absent_required = required

    patch.setattr(ReadTally, "__init__", init)


@ablation("I2: ", histories(0))
def absence_vouched_for_by_anybody(patch: pytest.MonkeyPatch) -> None:
    """A stand-in that holds no hint says "absent"."""
    original = Replica.fetch

    def fetch(self: Replica, document_id: bytes, known: bytes | None) -> Any:
        result, encoded = original(self, document_id, known)
        return (FetchResult.ABSENT if result is FetchResult.UNKNOWN else result), encoded

    patch.setattr(Replica, "fetch", fetch)


@ablation("I18: ", histories(1))
def node_counted_twice(patch: pytest.MonkeyPatch) -> None:
    """A replica and a hint on one disk are two acknowledgements."""

    def acknowledge(self: WriteTally, node: NodeId, *, hint: bool) -> None:
        self.open_count -= 1
        self.acked += 1
        self.hints += hint

    patch.setattr(WriteTally, "acknowledge", acknowledge)


@ablation("I18: ", histories(3))
def hints_counted_as_replicas(patch: pytest.MonkeyPatch) -> None:
    """The answer does not say which acknowledgements were hints."""
    original = WriteTally.acknowledge

    def acknowledge(self: WriteTally, node: NodeId, *, hint: bool) -> None:
        original(self, node, hint=False)

    patch.setattr(WriteTally, "acknowledge", acknowledge)


@ablation("I5: ", histories(3))
def create_beats_tombstone(patch: pytest.MonkeyPatch) -> None:
    """The last writer wins."""

    def last(a: Record, b: Record) -> Record:
        return b if b.create is not None and a.create is None else merge(a, b)

    patch.setattr(kvnode.replica, "merge", last)


@ablation("I8: |I9: |I12: ", histories(4))
def election_skipped(patch: pytest.MonkeyPatch) -> None:
    """Two bodies under one key are left to the lattice, also in the strong mode."""

    async def elect(
        self: Coordinator, document_id: bytes, record: Record, _: float, **_more: object
    ) -> Record:
        return record

    patch.setattr(kvnode.keyed, "elect", elect)


@ablation("I9: ", histories(1))
def votes_changed(patch: pytest.MonkeyPatch) -> None:
    """A replica votes for whichever body it is asked about."""
    original = Replica.vote

    def vote(self: Replica, document_id: bytes, fingerprint: bytes, done: Any) -> None:
        original(self, document_id, fingerprint, lambda voted, held: done(fingerprint, held))

    patch.setattr(Replica, "vote", vote)


@ablation(
    "a majority of its owners has nothing",
    partial(test_reading.test_a_quorum_read_that_found_a_lone_copy_spreads_it, 0),
)
def stale_replicas_not_repaired(patch: pytest.MonkeyPatch) -> None:
    """Reads call repaired what they leave as it is."""

    def repair(self: Coordinator, _: bytes, __: bytes, stale: list[NodeId], *rest: Any) -> None:
        for node in stale:
            self.loop.call_soon(rest[-1].on_sent, Target(node), None)

    patch.setattr(Coordinator, "repair", repair)


@ablation("I12: ", histories(1))
def leftovers_called_nothing(patch: pytest.MonkeyPatch) -> None:
    """A write that may have been stored somewhere is reported as refused."""
    patch.setattr(kvnode.writing, "WriteTimeout", Unavailable)


@ablation("I27: ", histories(0))
def deadlines_not_watched(patch: pytest.MonkeyPatch) -> None:
    """Whoever waits for a silent node waits for ever."""
    patch.setattr(DeadlineSweep, "_sweep", lambda self: None)


@ablation("DID NOT RAISE Unavailable", partial(test_reading.test_damaged_bytes_are_never_served, 0))
def damaged_bytes_not_looked_at(patch: pytest.MonkeyPatch) -> None:
    """No checksum is compared."""
    for module in (kvnode.codec, kvnode.replica):
        patch.setattr(module, "verify", lambda document_id, encoded: None)


@ablation(
    "after 10 s still: .*'deleted'",
    partial(test_reading.test_a_read_repairs_every_stale_replica_that_answered, 0),
)
def same_as_you_sent_taken_for_all_that_is_known(patch: pytest.MonkeyPatch) -> None:
    """A replica that has what it was shown is not compared with what others added to it."""
    without_comparing(patch)
    original = Read._take

    def take(self: Read, target: Any, record: Record | None, encoded: bytes | None) -> None:
        original(self, target, self._joined if record is self._first else record, encoded)

    patch.setattr(Read, "_take", take)


@ablation("0 == 3", partial(test_handoff.test_what_a_node_missed_is_delivered_when_it_is_back, 0))
def misses_not_remembered(patch: pytest.MonkeyPatch) -> None:
    """No hint is kept for a primary that nobody stands in for."""
    patch.setattr(Write, "_keep_hint", lambda self, primary: None)


@ablation("incarnation=1", partial(test_membership.test_a_dead_node_is_revived_by_its_restart, 0))
def boots_not_counted(patch: pytest.MonkeyPatch) -> None:
    """A restarted node comes with the incarnation of its last life."""

    def first_boot(*arguments: Any) -> Identity:
        return msgspec.structs.replace(boot(*arguments), boot_counter=1)

    patch.setattr(kvnode.node, "boot", first_boot)


@ablation("declared_dead", partial(test_membership.test_a_stopped_node_doubts_nobody_afterwards, 0))
def own_pause_not_excused(patch: pytest.MonkeyPatch) -> None:
    """A node that stood still takes everybody else for silent."""
    patch.setattr(Detector, "excuse", lambda self, paused_s, now_s: None)


@ABLATIONS.each()
def test_without_this_safeguard_a_promise_is_broken(
    ablated: Ablation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And for the right reason."""
    ablated.must_be_caught(monkeypatch)
