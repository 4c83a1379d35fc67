"""As ``test_ablations``, of what session tokens are for."""

from functools import partial
from typing import Final

import pytest

from docservice.session import Known, Session
from kvnode.reading import Read
from kvnode.record import Record, Sighting
from tests.simulation import test_sessions
from tests.simulation.ablations import Ablation, Ablations, sessions

ABLATIONS: Final = Ablations()
ablation: Final = ABLATIONS.add


@ablation("I13: |I14: ", sessions(0))
def token_ignored(patch: pytest.MonkeyPatch) -> None:
    """A read takes no notice of what its client has seen."""
    patch.setattr(Session, "known", lambda self, document_id: None)


@ablation("I13: |I14: ", sessions(0))
def deletions_not_kept_in_the_token(patch: pytest.MonkeyPatch) -> None:
    """A session knows what it has read and created, not what is deleted."""
    original = Session.note

    def note(self: Session, document_id: bytes, known: Known) -> None:
        if not known.deleted:
            original(self, document_id, known)

    patch.setattr(Session, "note", note)


@ablation("I14: ", sessions(2))
def absence_taken_for_what_was_seen(patch: pytest.MonkeyPatch) -> None:
    """A majority that has nothing is believed, whatever the session was shown."""
    original = Sighting.is_in

    def is_in(self: Sighting, record: Record | None) -> bool:
        return record is None or original(self, record)

    patch.setattr(Sighting, "is_in", is_in)


@ablation(
    "not found, though it can be reached",
    partial(test_sessions.test_a_read_goes_on_until_it_finds_what_was_seen, 0, "a1"),
)
def search_ended_by_a_majority(patch: pytest.MonkeyPatch) -> None:
    """A read ends with less than was seen as soon as it may say "absent"."""
    patch.setattr(Read, "_is_behind", lambda self: False)


@ablation(
    "DID NOT RAISE",
    partial(test_sessions.test_of_two_bodies_under_one_key_a_session_is_not_shown_the_older_one, 0),
)
def any_body_taken_for_what_was_seen(patch: pytest.MonkeyPatch) -> None:
    """Of two bodies under one key, a session takes either for the other."""
    patch.setattr(Sighting, "is_in", lambda self, record: record is not None)


@ABLATIONS.each()
def test_without_this_safeguard_a_promise_is_broken(
    ablated: Ablation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And for the right reason."""
    ablated.must_be_caught(monkeypatch)
