"""As ``test_ablations``, of what session tokens are for."""

from collections.abc import Sequence
from functools import partial
from itertools import islice
from typing import Any, Final

import pytest

from cluster.ids import DocumentId
from cluster.layout import Rings
from docservice.documents import DocumentService
from docservice.session import Known, Session
from kvnode import elsewhere
from kvnode.elsewhere import Elsewhere
from kvnode.reading import Read
from kvnode.record import Record, Sighting, region_tag
from kvnode.rpc.inturn import ask_in_turn
from tests.simulation import test_roaming, test_sessions
from tests.simulation.ablations import (
    Ablation,
    Ablations,
    first_failing,
    sessions,
    without_comparing,
)

ABLATIONS: Final = Ablations()
ablation: Final = ABLATIONS.add


@ablation("I13: |I14: ", sessions(0))
def token_ignored(patch: pytest.MonkeyPatch) -> None:
    """A read takes no notice of what its client has seen."""
    patch.setattr(Session, "known", lambda self, document_id: None)


@ablation("I13: |I14: ", sessions(0))
def token_of_another_region_ignored(patch: pytest.MonkeyPatch) -> None:
    """A read takes no notice of what its client has seen in another region."""
    read = DocumentService.read

    async def near_sighted(
        self: DocumentService, document_id: DocumentId, *, session: Session, **rest: Any
    ) -> Any:
        known = session.known(document_id)
        if known is not None and known.region != self._region:
            session = Session()
        return await read(self, document_id, session=session, **rest)

    patch.setattr(DocumentService, "read", near_sighted)


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
    partial(test_sessions.test_a_read_goes_on_until_it_finds_what_was_seen, 1, "a1"),
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


@ablation(
    "not found, though it can be reached",
    partial(test_roaming.test_what_was_created_in_one_region_is_read_at_once_in_the_other, 0),
)
def other_regions_not_asked(patch: pytest.MonkeyPatch) -> None:
    """What no owner here has is refused, wherever the token says that it was seen."""
    patch.setattr(Rings, "other_regions", lambda self, node: [])


@ablation(
    "who was asked",
    partial(test_roaming.test_the_region_in_which_it_was_seen_is_asked_and_no_other, 0),
)
def region_of_the_token_ignored(patch: pytest.MonkeyPatch) -> None:
    """All regions are asked, wherever it was seen."""
    patch.setattr(elsewhere, "region_tag", lambda region: b"")


@ablation(
    "not found, though it can be reached",
    partial(test_roaming.test_what_was_only_seen_through_a_region_is_found_where_it_is, 0),
)
def only_the_region_of_the_token_asked(patch: pytest.MonkeyPatch) -> None:
    """What was seen in one region is looked for there and nowhere else."""
    ask = Elsewhere._ask

    async def ask_named(
        self: Elsewhere, regions: Sequence[str], document_id: bytes, seen: Any, *rest: Any
    ) -> Any:
        if seen is not None:
            regions = [one for one in regions if region_tag(one) == seen.region]
        return await ask(self, regions, document_id, seen, *rest)

    patch.setattr(Elsewhere, "_ask", ask_named)


@ablation(
    "not found, though it can be reached",
    first_failing(
        test_roaming.test_the_other_region_looks_on_all_its_owners_for_what_was_seen, seeds=24
    ),
)
def other_region_not_told_what_was_seen(patch: pytest.MonkeyPatch) -> None:
    """It answers with what one of its replicas has."""
    without_comparing(patch)
    patch.setattr(Sighting, "fields", None)


@ablation(
    "not found, though it can be reached",
    partial(test_roaming.test_a_node_that_hangs_in_the_other_region_is_passed_over, 0),
)
def one_node_of_the_other_region_asked(patch: pytest.MonkeyPatch) -> None:
    """The first owner there speaks for its region, or nobody does."""

    async def ask_first(transport: Any, clock: Any, nodes: Any, *rest: Any) -> Any:
        return await ask_in_turn(transport, clock, islice(nodes, 1), *rest)

    patch.setattr(elsewhere, "ask_in_turn", ask_first)


@ablation(
    "not found, though it can be reached",
    partial(test_roaming.test_a_node_that_hangs_in_this_region_leaves_time_to_ask_the_other, 0),
)
def no_time_left_for_other_regions(patch: pytest.MonkeyPatch) -> None:
    """This region is waited for until the request's deadline."""
    patch.setattr(Elsewhere, "_first_until_s", lambda self, deadline_s: deadline_s)


@ABLATIONS.each()
def test_without_this_safeguard_a_promise_is_broken(
    ablated: Ablation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And for the right reason."""
    ablated.must_be_caught(monkeypatch)
