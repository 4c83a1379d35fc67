"""Proof that the model of lives bites: without any one of these safeguards it finds a failure.

Each safeguard is taken out of the production code in turn, and the model has fewer examples than in
its own test to find out.
"""

from collections.abc import Callable
from typing import Final

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

import kvnode.replica
from kvnode.agreement import Agreement
from kvnode.comparing import Difference
from kvnode.floors import Floor
from kvnode.leaflog import LeafLog
from kvnode.lifecycle import Admission, Lifecycle
from kvnode.record import Record, merge
from kvnode.replica import Replica
from tests.unit.test_lifecycle_model import Lives

Patch = Callable[[pytest.MonkeyPatch], None]


def fences_not_raised(patch: pytest.MonkeyPatch) -> None:
    """Whoever was away for too long is believed when it comes back."""

    def meet(self: Floor, bucket: int, newest_deleted_ms: int) -> Floor:
        return self.advance(bucket, newest_deleted_ms) if bucket > self.bucket else self

    patch.setattr(Floor, "meet", meet)


def fenced_owners_push(patch: pytest.MonkeyPatch) -> None:
    """A fence keeps nothing back in a comparison."""
    original = Difference.add

    def add(self: Difference, ours: object, theirs: object, *, push: bool, pull: bool) -> None:
        original(self, ours, theirs, push=True, pull=pull)  # type: ignore[arg-type]

    patch.setattr(Difference, "add", add)


def fenced_copies_kept(patch: pytest.MonkeyPatch) -> None:
    """What only a fenced owner has stays where it is, and is pushed once the fence has fallen."""
    patch.setattr(Replica, "set_aside_late", lambda self, document_id: False)


def late_copies_merged(patch: pytest.MonkeyPatch) -> None:
    """What is unknown here is taken for new."""
    original = Lifecycle.admit

    def admit(self: Lifecycle, partition: int, ending: object, *, vouched: bool) -> Admission:
        return original(self, partition, ending, vouched=True)  # type: ignore[arg-type]

    patch.setattr(Lifecycle, "admit", admit)


def promised_whatever_is_held(patch: pytest.MonkeyPatch) -> None:
    """Owners don't compare what is to be purged."""
    patch.setattr(Agreement, "_digest", lambda self, partition, after, bucket: 0)


def purged_without_promises(patch: pytest.MonkeyPatch) -> None:
    """Nobody refuses."""
    patch.setattr(Agreement, "own_veto", lambda self, proposal: None)
    patch.setattr(Agreement, "promise", lambda self, proposal: None)


def promises_forgotten(patch: pytest.MonkeyPatch) -> None:
    """An owner agrees, and does not remember."""
    patch.setattr(Floor, "promise", lambda self, bucket: self)


def floors_lowered(patch: pytest.MonkeyPatch) -> None:
    """The latest floor that was heard of counts, also one of the past."""

    def meet(self: Floor, bucket: int, newest_deleted_ms: int) -> Floor:
        fenced = self.fenced or bucket > self.promised
        changes = {"bucket": bucket, "newest_deleted_ms": newest_deleted_ms, "fenced": fenced}
        return msgspec.structs.replace(self, **changes)

    patch.setattr(Floor, "meet", meet)


def newest_deletion_not_told(patch: pytest.MonkeyPatch) -> None:
    """A floor says how far was purged, and not which creates may be among that."""
    original = Floor.advance
    patch.setattr(Floor, "advance", lambda self, bucket, _: original(self, bucket, 0))


def create_beats_tombstone(patch: pytest.MonkeyPatch) -> None:
    """The last writer wins."""

    def last(a: Record, b: Record) -> Record:
        return b if b.create is not None and a.create is None else merge(a, b)

    patch.setattr(kvnode.replica, "merge", last)


def leaves_not_logged(patch: pytest.MonkeyPatch) -> None:
    """What a batch changed in the trees is in memory only."""
    patch.setattr(LeafLog, "put", lambda self, forest, changed: None)


ABLATIONS: Final[list[Patch]] = [
    fences_not_raised,
    fenced_owners_push,
    fenced_copies_kept,
    late_copies_merged,
    promised_whatever_is_held,
    purged_without_promises,
    promises_forgotten,
    floors_lowered,
    newest_deletion_not_told,
    create_beats_tombstone,
    leaves_not_logged,
]


@pytest.mark.parametrize("patch", ABLATIONS, ids=lambda patch: patch.__name__)
def test_the_model_notices_that_a_safeguard_is_missing(
    patch: Patch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within its budget of examples, and without looking for the smallest one."""
    patch(monkeypatch)
    hurried = settings(
        Lives.TestCase.settings,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    with pytest.raises(AssertionError):
        run_state_machine_as_test(Lives, settings=hurried)
