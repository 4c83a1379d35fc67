"""As ``test_ablations``, of what makes documents end and disks be mistrusted."""

from collections.abc import Iterable
from functools import partial
from math import inf
from typing import Any, Final
from unittest.mock import ANY

import pytest

from cluster.ids import NodeId
from kvnode.agreement import Agreement
from kvnode.boots import Boots
from kvnode.ending import Family
from kvnode.floors import Floor
from kvnode.lifecycle import Admission, Lifecycle
from kvnode.replica import Replica
from kvnode.rpc.operations import Op
from kvnode.services import checkin
from kvnode.services.asking import Asker
from kvnode.services.checkin import CheckIn
from kvnode.services.purge import Purge
from kvnode.services.rebuild import Rebuild
from kvnode.services.scrub import Scrub
from kvnode.services.sweep import Sweep
from tests.simulation import test_antientropy, test_leases, test_lifecycle, test_overtaken
from tests.simulation.ablations import Ablation, Ablations, first_failing, lifetimes

ABLATIONS: Final = Ablations()
ablation: Final = ABLATIONS.add
_AWAY: Final = (
    test_lifecycle.test_a_node_that_was_away_for_too_long_is_fenced_and_brings_nothing_back
)
_ALONE: Final = test_lifecycle.test_a_deletion_that_only_a_returning_node_knows_of_is_not_undone
_OLD_COPY: Final = test_lifecycle.test_a_node_on_an_old_copy_of_its_disk_brings_nothing_back
_STARTED_OFTEN: Final = (
    test_lifecycle.test_a_disk_is_doubted_however_often_it_was_started_before_anybody_saw_it
)
_BACKUP: Final = test_lifecycle.test_a_copy_from_a_backup_is_quarantined_and_never_served
_CUT_OFF: Final = test_lifecycle.test_a_node_that_is_cut_off_from_all_other_owners_purges_nothing
_KNOWS_MORE: Final = test_leases.test_a_connected_owner_that_knows_more_is_waited_for
_MISSED_A_BOOT: Final = test_leases.test_an_owner_that_missed_a_boot_hears_of_it_from_another
_PUSHED: Final = (
    test_overtaken.test_a_copy_that_is_pushed_while_its_document_is_purged_brings_nothing_back
)
_DAMAGED: Final = test_antientropy.test_what_was_deleted_while_it_was_damaged_is_purged_in_the_end


@ablation("I6: ", first_failing(test_lifecycle.test_a_node_that_is_away_holds_up_the_purge))
def purged_without_proof(patch: pytest.MonkeyPatch) -> None:
    """Owners promise a floor without looking at what they have, and nobody else is asked."""
    patch.setattr(Agreement, "own_veto", lambda self, proposal: None)
    patch.setattr(Asker, "ask_all", _answer_yes)


@ablation("I6: ", lifetimes(3))
def promises_told_as_floors(patch: pytest.MonkeyPatch) -> None:
    """A peer that has agreed to a floor is taken for one that has purged."""

    def floors(self: Replica) -> list[list[int]]:
        every = enumerate(map(self.lifecycle.floor, range(self._partitions)))
        return [[one, floor.promised, floor.newest_deleted_ms] for one, floor in every]

    patch.setattr(Replica, "floors", floors)


@ablation(
    "16 partitions are fenced",
    partial(test_lifecycle.test_two_wiped_owners_are_rebuilt_from_the_third, 0),
)
def fenced_owners_waited_for(patch: pytest.MonkeyPatch) -> None:
    """A partition is rebuilt once every owner was compared with, the fenced ones as well."""
    original = Rebuild.asked

    def asked(self: Rebuild, partition: int, peer: NodeId, *, compared: bool) -> None:
        if compared:
            original(self, partition, peer, compared=compared)

    patch.setattr(Rebuild, "asked", asked)


async def _answer_yes(self: Asker, nodes: list[NodeId], op: Op, fields: Any) -> Any:
    return [(node, [None, []]) for node in nodes]


@ablation("ORPHAN: 1>: 0", first_failing(_BACKUP))
def late_copies_merged(patch: pytest.MonkeyPatch) -> None:
    """What is unknown here is taken for new."""
    patch.setattr(Lifecycle, "admit", lambda self, partition, ending, vouched: Admission.STORE)


@ablation("which is gone", first_failing(_AWAY))
def unpromised_floors_not_minded(patch: pytest.MonkeyPatch) -> None:
    """A node takes over a floor that it was never asked about."""

    def meet(self: Floor, bucket: int, newest_deleted_ms: int) -> Floor:
        return self.advance(bucket, newest_deleted_ms) if bucket > self.bucket else self

    patch.setattr(Floor, "meet", meet)


@ablation("DID NOT RAISE DocumentDeleted", first_failing(_ALONE))
def fenced_deletions_swept(patch: pytest.MonkeyPatch) -> None:
    """What a fenced owner alone knows to be deleted leaves its disk before anybody has asked."""

    def firsts(self: Sweep, partition: int, first_kept: int) -> dict[Family, int]:
        floor = self._replica.lifecycle.floor(partition)
        return {Family.EXPIRING: first_kept, Family.DELETED: floor.bucket}

    patch.setattr(Sweep, "_firsts", firsts)


@ablation(r"events\('node.fenced'\)", first_failing(partial(_STARTED_OFTEN, wiped=False)))
def later_boots_not_remembered(patch: pytest.MonkeyPatch) -> None:
    """Whoever says its name is believed."""
    patch.setattr(Boots, "meet", lambda self, peer, boot, known: [])


@ablation("which is gone", first_failing(_OLD_COPY))
def served_before_it_is_confirmed(patch: pytest.MonkeyPatch) -> None:
    """A node answers from its disk before anybody has told it what it missed."""
    always = property(lambda self: [inf] * 16, lambda self, _: None)
    patch.setattr(Replica, "leased_until_s", always, raising=False)


@ablation(
    "deleted while a3 was paused",
    first_failing(test_leases.test_a_node_that_was_paused_for_long_wakes_in_doubt),
)
def leases_that_never_end(patch: pytest.MonkeyPatch) -> None:
    """A node that was once confirmed believes its disk whatever happens meanwhile."""
    patch.setattr(checkin, "lease_end_s", lambda answered_s, lease_s: _ever(answered_s))


@ablation("a majority of its owners has nothing", first_failing(_KNOWS_MORE))
def first_answer_believed(patch: pytest.MonkeyPatch) -> None:
    """One co-owner's word is enough while another, that knows better, is about to answer."""
    patch.setattr(CheckIn, "_may_answer", lambda self, peer, now_s: False)


@ablation("a1 has not heard", first_failing(_MISSED_A_BOOT))
def boots_not_told(patch: pytest.MonkeyPatch) -> None:
    """Each node knows only those boots that it has met itself."""
    patch.setattr(Boots, "told", lambda self: [])


@ablation(r"\[\] == \['a3'\]|\(\[\], None\)", first_failing(_CUT_OFF))
def purged_by_a_minority(patch: pytest.MonkeyPatch) -> None:
    """A node that is cut off takes all others for absent, and purges by itself."""
    patch.setattr(Purge, "_has_majority", lambda self, region, partition, missing: True)


@ablation(r"\['a\d'\] == \[\]", first_failing(_PUSHED))
def vouched_for_ever(patch: pytest.MonkeyPatch) -> None:
    """What an owner vouched for is taken, whatever was purged while it was on its way."""
    patch.setattr(Replica, "floor_of", lambda self, document_id: ANY)


@ablation("after 120 s still: ", first_failing(_DAMAGED))
def buckets_not_corrected(patch: pytest.MonkeyPatch) -> None:
    """The scrub leaves the digests of buckets as they are: owners never agree on a purge."""
    patch.setattr(Scrub, "_check_bucket", lambda self, bucket: None)


@ABLATIONS.each()
def test_without_this_safeguard_a_promise_is_broken(
    ablated: Ablation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And for the right reason."""
    ablated.must_be_caught(monkeypatch)


def _ever(answered_s: Iterable[float | None]) -> float:
    return inf if any(sent_s is not None for sent_s in answered_s) else -inf
