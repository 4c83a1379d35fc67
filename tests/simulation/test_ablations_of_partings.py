"""As ``test_ablations``, of what keeps apart a region that an operator has said to be gone."""

from functools import partial
from typing import Any, Final

import pytest

from kvnode.outbox import Outbox
from kvnode.partings import Partings
from kvnode.replica import Replica
from tests.simulation import test_partings
from tests.simulation.ablations import Ablation, Ablations, first_failing

ABLATIONS: Final = Ablations()
ablation = ABLATIONS.add
_CALM: Final = test_partings.test_a_wrong_word_is_heard_by_all_and_its_region_fenced
_WRONG: Final = test_partings.test_a_wrong_word_brings_nothing_back_to_life
_BACK: Final = test_partings.test_a_lost_region_that_is_back_is_rebuilt_and_owed_everything

_WHATEVER: Final = (
    test_partings.test_whatever_befalls_a_region_that_is_given_up_nothing_comes_to_life
)


@ablation("I22.*know nothing", partial(_CALM, 1))
def purged_before_all_know(patch: pytest.MonkeyPatch) -> None:
    """A purge goes on without a region though other nodes have not heard that it is gone."""
    patch.setattr(Partings, "_tell", lambda self, only=None: None)
    patch.setattr(Partings, "agrees", lambda self, peer: True)


@ablation("nobody takes it|I4|assert", first_failing(_WRONG))
def taken_from_a_region_that_is_gone(patch: pytest.MonkeyPatch) -> None:
    """What a region ships that was given up is stored."""
    patch.setattr(Partings, "may_talk", lambda self, peer: True)


@ablation("I22.*believes", first_failing(_WRONG))
def believed_after_its_region_was_given_up(patch: pytest.MonkeyPatch) -> None:
    """A node that hears that its region is gone, or back, fences nothing."""
    made = Partings.__init__

    def unfenced(self: Partings, *args: Any, **named: Any) -> None:
        made(self, *args, **{**named, "fence": lambda: None})

    patch.setattr(Partings, "__init__", unfenced)


@ablation("assert 0 == 16", first_failing(_BACK))
def nothing_owed_to_a_region_that_is_back(patch: pytest.MonkeyPatch) -> None:
    """It is told that it has all that was written while nothing was kept for it."""
    patch.setattr(Outbox, "_owe_whole", lambda self, region, since_ms: None)


@ablation("I4: back after it was purged", lambda: _WHATEVER(51))
def hints_of_purged_documents_believed(patch: pytest.MonkeyPatch) -> None:
    """A node answers for a document with a hint, though it may have been purged meanwhile."""

    def joined(self: Replica, _: int, document_id: bytes) -> bytes | None:
        return self.hint_store.joined(document_id)

    patch.setattr(Replica, "_hinted", joined)


@ABLATIONS.each()
def test_without_this_safeguard_a_promise_is_broken(
    ablated: Ablation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And for the right reason."""
    ablated.must_be_caught(monkeypatch)
