"""As ``test_ablations``, of what brings writes to other regions and says how far they have come."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import pytest

from cluster.layout import Rings
from kvnode.codec import decode
from kvnode.elsewhere import Elsewhere
from kvnode.everywhere import Everywhere, _Share
from kvnode.outbox import Outbox
from kvnode.regionhandlers import RegionHandlers
from kvnode.replica import Replica
from kvnode.rpc.operations import Fields, Op
from kvnode.services.levelling import Levelling
from kvnode.services.purge import Purge
from kvnode.services.settling import Settling
from kvnode.services.shipping import Shipping
from kvnode.voting import Election
from kvnode.writing import Write
from tests.simulation import test_everywhere, test_regions
from tests.simulation.ablations import Ablation, Ablations, first_failing

ABLATIONS: Final = Ablations()
ablation = ABLATIONS.add
_DIES: Final = test_regions.test_a_coordinator_that_dies_ships_what_it_acknowledged_when_it_is_back
_HOLE: Final = test_regions.test_a_node_that_takes_a_batch_and_dies_leaves_no_hole
_OVERFLOWS: Final = test_regions.test_an_outbox_that_overflows_owes_comparisons_and_pays_them
_STAND_IN: Final = (
    test_regions.test_what_only_a_stand_in_has_stays_in_its_outbox_until_an_owner_takes_it
)
_ONE_WAY: Final = test_regions.test_what_gets_through_one_way_only_is_no_acknowledgement
_LOST: Final = test_regions.test_a_node_that_loses_its_disk_with_its_outbox_owes_all_of_it
_PURGE: Final = test_regions.test_a_purge_waits_for_a_region_that_is_cut_off
_POWER: Final = test_regions.test_a_region_without_power_in_the_middle_of_a_batch_leaves_no_hole
_FOUND: Final = test_regions.test_what_was_just_created_is_found_from_another_region
_EACH_REGION: Final = test_everywhere.test_what_is_written_in_each_region_is_read_in_any_at_once
_ASLEEP: Final = (
    test_everywhere.test_a_body_whose_coordinator_slept_after_its_election_is_no_second_one
)
_FENCED: Final = test_everywhere.test_fenced_owners_elsewhere_neither_vouch_nor_acknowledge
_THREE: Final = test_regions.test_three_regions_pass_nothing_on


@ablation("assert|still", first_failing(_DIES))
def logged_after_the_answer(patch: pytest.MonkeyPatch) -> None:
    """The outbox's entry is not in the batch of the coordinator's copy, and nobody waits for it."""
    log = Write._log

    def late(self: Write) -> None:
        self._logged = True
        asyncio.get_running_loop().call_later(0.5, log, self)

    patch.setattr(Write, "_log", late)


@ablation("I20|still", first_failing(_HOLE))
def cursor_moved_when_sent(patch: pytest.MonkeyPatch) -> None:
    """A batch counts as acknowledged once it is on its way."""
    send = Shipping._send

    def sent(self: Shipping, target: Any, batch: Any) -> Any:
        self._outbox.acknowledge(self._region, batch.last)
        return send(self, target, batch)

    patch.setattr(Shipping, "_send", sent)


@ablation("I20|still", first_failing(_POWER))
def answered_before_a_majority_has_it(patch: pytest.MonkeyPatch) -> None:
    """The other side acknowledges a batch when it has been sent on to its owners."""

    async def at_once(self: RegionHandlers, pairs: Any, deadline_s: float) -> Any:
        for document_id, encoded in pairs:
            write = self._coordinator.take_in(document_id, encoded, deadline_s)
            write.add_done_callback(lambda done: done.exception())
        return [], 0

    patch.setattr(RegionHandlers, "_take_in", at_once)


@ablation("I20|still", first_failing(_OVERFLOWS))
def dropped_in_silence(patch: pytest.MonkeyPatch) -> None:
    """What leaves an outbox that is full is owed to nobody."""
    patch.setattr(Outbox, "owe", lambda self, region, partition, since_ms: None)


@ablation("I20", first_failing(_OVERFLOWS))
def watermark_without_debts(patch: pytest.MonkeyPatch) -> None:
    """A region is told that nothing is left to do while comparisons are owed."""
    patch.setattr(Outbox, "watermark_ms", Outbox._oldest_ms)


@ablation("I20", first_failing(_ONE_WAY))
def watermark_without_the_log(patch: pytest.MonkeyPatch) -> None:
    """A region is told that nothing is left to do while writes wait in the outbox."""
    patch.setattr(Outbox, "watermark_ms", lambda self, region: self._now_ms())


@ablation("I20|assert", first_failing(_LOST))
def lost_logs_not_owed(patch: pytest.MonkeyPatch) -> None:
    """A node that has lost its disk tells that nothing is left to do."""
    patch.setattr(Outbox, "owe_all", lambda self: None)


@ablation("I20|still", first_failing(_OVERFLOWS))
def paid_by_one_comparison(patch: pytest.MonkeyPatch) -> None:
    """A debt counts as paid when one owner on either side has compared."""
    for asking in (Settling, Levelling):
        make = asking.__init__

        def made(self: Any, *args: Any, make: Any = make, **named: Any) -> None:
            make(self, *args, **named)
            self._rings = _LastOwner(self._rings)

        patch.setattr(asking, "__init__", made)


class _LastOwner:
    """Rings in which a partition has one owner in each region."""

    def __init__(self, rings: Rings) -> None:
        self._rings = rings

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rings, name)

    def owners_in(self, region: str, partition: int) -> Sequence[Any]:
        return self._rings.owners_in(region, partition)[-1:]


@ablation("assert", first_failing(_STAND_IN))
def dropped_before_an_owner_has_it(patch: pytest.MonkeyPatch) -> None:
    """A whole record leaves the outbox though no owner may have it."""

    async def nobody(self: Settling, entries: Any) -> dict[int, bool]:
        return {entry.sequence: True for entry in entries}

    patch.setattr(Settling, "_entrust", nobody)


@ablation("I6|I4|assert", first_failing(_PURGE))
def purged_without_the_other_region(patch: pytest.MonkeyPatch) -> None:
    """A region that can't be reached has no say in a purge."""
    refusal = Purge._refusal

    def near(self: Purge, partition: int, answers: Any, aware: Any) -> Any:
        mine = [one for one in answers if self._rings.region_of[one[0]] == self._region]
        with pytest.MonkeyPatch.context() as alone:
            alone.setattr(Rings, "other_regions", lambda rings, node: [])
            return refusal(self, partition, mine, aware)

    patch.setattr(Purge, "_refusal", near)


@ablation("assert", first_failing(_THREE))
def passed_on(patch: pytest.MonkeyPatch) -> None:
    """What comes from another region is logged for the others as well."""
    write = Write.__init__

    def own(self: Write, *args: Any, **named: Any) -> None:
        write(self, *args, **{**named, "shipped": False})

    patch.setattr(Write, "__init__", own)


@ablation("is absent in the other", first_failing(_FOUND))
def misses_taken_for_absence(patch: pytest.MonkeyPatch) -> None:
    """What nobody in this region has is answered with 404, however young its id."""
    patch.setattr(Elsewhere, "in_question", lambda self, document_id: [])


@ablation("assert|is absent|still", first_failing(_EACH_REGION))
def answered_before_each_region_has_it(patch: pytest.MonkeyPatch) -> None:
    """A write at ``each_quorum`` counts as done elsewhere once it is on its way there."""

    async def sent(
        self: Everywhere, op: Op, document_id: bytes, fields: Fields, *rest: Any
    ) -> list[_Share]:
        if op is not Op.WRITE_HERE:
            return await ask(self, op, document_id, fields, *rest)
        asking = asyncio.ensure_future(ask(self, op, document_id, fields, *rest))
        asking.add_done_callback(lambda done: done.exception())
        here = decode(document_id, fields[1])
        return [_Share(region, 2, 2, 3, here) for region in self._others]

    ask = Everywhere._ask_all
    patch.setattr(Everywhere, "_ask_all", sent)


@ablation("both bodies were acknowledged|I9", first_failing(_ASLEEP))
def elected_in_one_region_only(patch: pytest.MonkeyPatch) -> None:
    """At ``each_quorum`` the owners in the coordinator's region choose between two bodies."""

    async def near(
        self: Everywhere, document_id: bytes, fingerprint: bytes, deadline_s: float
    ) -> Any:
        ring = self._rings.by_region[self._region]
        election = Election(self._coordinator, document_id, fingerprint, ring, deadline_s)
        election.start()
        return await election.answer

    patch.setattr(Everywhere, "elect", near)


@ablation("DID NOT RAISE", first_failing(_FENCED))
def fenced_copies_elsewhere_count(patch: pytest.MonkeyPatch) -> None:
    """A replica that is being rebuilt vouches for what it has, for whoever asks from elsewhere."""
    patch.setattr(Replica, "believes", lambda self, partition: True)


@ablation("DID NOT RAISE", first_failing(_FENCED))
def fenced_copies_elsewhere_acknowledged(patch: pytest.MonkeyPatch) -> None:
    """A replica that is being rebuilt stores what it is sent, and says so."""
    join = Replica.join
    patch.setattr(Replica, "join", lambda *what, vouched=False: join(*what, vouched=True))


@ABLATIONS.each()
def test_without_this_safeguard_a_promise_is_broken(
    ablated: Ablation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And for the right reason."""
    ablated.must_be_caught(monkeypatch)
