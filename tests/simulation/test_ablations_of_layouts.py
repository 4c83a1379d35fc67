"""As ``test_ablations``, of what holds the promises while owners change."""

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import msgspec
import pytest

from cluster.ids import NodeId, PartitionId
from cluster.ring import Ring
from cluster.ringchange import Layout, Phase
from kvnode.coordinator import Coordinator
from kvnode.replica import Replica
from kvnode.services.layouts import Layouts
from kvnode.services.moving import Moving
from kvnode.services.overdue import Overdue
from kvnode.services.rebuild import Rebuild
from kvnode.voting import Claim, judge
from tests.simulation import test_halves, test_moving, test_ringchange
from tests.simulation.ablations import Ablation, Ablations, first_failing

ABLATIONS: Final = Ablations()
ablation = ABLATIONS.add
_KNOWN: Final = partial(test_halves.test_no_half_reads_what_the_other_has_deleted, after_s=1.0)
_LAST: Final = test_halves.test_what_only_the_old_owner_has_is_not_left_with_it
_SHOWN: Final = test_halves.test_what_one_quorum_has_read_no_later_one_misses
_UNDER_WAY: Final = test_moving.test_what_began_before_the_newcomer_counted_is_compared_as_well
_UNHEARD: Final = test_moving.test_a_former_owner_takes_no_write_of_who_has_not_heard_of_that
_GIVEN: Final = test_moving.test_what_only_the_former_owner_has_is_given_away_before_it_is_dropped
_HINTED: Final = partial(
    test_moving.test_a_hint_for_a_former_owner_goes_to_one_of_now, killed=False
)
_EMPTY: Final = test_moving.test_nobody_is_rebuilt_from_a_newcomer_that_has_nothing_yet
_ELECTED: Final = test_moving.test_no_body_wins_by_the_vote_of_who_was_not_asked_before
_OLD: Final = test_ringchange.test_an_old_copy_of_a_disk_counts_by_no_layout_of_the_past


@ablation("I3", first_failing(_KNOWN))
def no_acknowledgement_more(patch: pytest.MonkeyPatch) -> None:
    """W of N + 1 holders are enough while an owner changes."""
    patch.setattr(Ring, "more_acks", lambda self, partition: 0)


@ablation("I3", first_failing(_KNOWN))
def new_owner_asked_while_it_is_filled(patch: pytest.MonkeyPatch) -> None:
    """Reads ask the new owner, and not the old one, as soon as a change begins."""
    ring = Layout.ring

    def early(self: Layout) -> Ring:
        made = ring(self)
        if self.phase is not Phase.FILL:
            return made
        moves = {
            partition: msgspec.structs.replace(move, readers=self.new[partition])
            for partition, move in made.moves.items()
        }
        return msgspec.structs.replace(made, moves=moves)

    patch.setattr(Layout, "ring", early)


@ablation("I3", first_failing(_LAST))
def not_compared_with_each_old_owner(patch: pytest.MonkeyPatch) -> None:
    """A new owner answers once it was filled, whatever was acknowledged meanwhile."""
    _without_work(patch, Phase.LEVEL)


@ablation("a later one misses", first_failing(_SHOWN))
def shown_to_one_quorum_only(patch: pytest.MonkeyPatch) -> None:
    """What a read finds while readers change is not seen to be with the others, too."""

    async def leave(self: Coordinator, *_: Any) -> None:
        """As outside of a change."""

    patch.setattr(Coordinator, "_show_all", leave)


@ablation("I19", first_failing(_UNHEARD))
def taken_by_who_is_no_owner(patch: pytest.MonkeyPatch) -> None:
    """A replica stores whatever it is sent."""
    join = Replica.join

    def any_(self: Replica, *args: Any, **named: Any) -> Any:
        owned, self._owned = self._owned, lambda _: True
        try:
            return join(self, *args, **named)
        finally:
            self._owned = owned

    patch.setattr(Replica, "join", any_)


@ablation("I1: absent", first_failing(_OLD))
def talks_before_it_knows_the_layout(patch: pytest.MonkeyPatch) -> None:
    """A node that was put back to an old copy of its disk goes by the layout it has there."""
    patch.setattr(Layouts, "may_talk", lambda self, peer: True)


@ablation("I3", first_failing(_UNDER_WAY))
def compared_before_all_have_settled(patch: pytest.MonkeyPatch) -> None:
    """A new owner compares as soon as LEVEL begins, whatever is still under way."""
    made = Moving.__init__

    def hasty(self: Moving, *args: Any, **named: Any) -> None:
        made(self, *args, **named | {"all_settled": lambda: True})

    patch.setattr(Moving, "__init__", hasty)


@ablation("I23", first_failing(_GIVEN))
def dropped_without_comparing(patch: pytest.MonkeyPatch) -> None:
    """Who owns a partition no more takes it off its disk when nobody writes there any more."""
    _without_work(patch, Phase.RETIRE)


@ablation("I23", first_failing(_HINTED))
def hints_for_former_owners_dropped(patch: pytest.MonkeyPatch) -> None:
    """A hint ends with what its target owned."""

    async def drop(self: Overdue, target: NodeId, hints: Any, _: float) -> bool:
        for document_id, value in hints:
            self._hints.release(target, document_id, value, "delivered")
        return True

    patch.setattr(Overdue, "entrust", drop)


@ablation("believes that there is nothing", first_failing(_EMPTY))
def newcomers_not_fenced(patch: pytest.MonkeyPatch) -> None:
    """What a node is to own is believed while it has nothing of it."""
    raise_for = Rebuild.raise_for

    def only_what_it_owned(self: Rebuild, partitions: Any) -> None:
        gained = self._rings.layouts[self._rings.region_of[self._node]].gained_by(self._node)
        raise_for(self, [one for one in partitions if one not in gained])

    patch.setattr(Rebuild, "raise_for", only_what_it_owned)


@ablation("both bodies were acknowledged|I9", first_failing(_ELECTED))
def ties_decided_while_voters_change(patch: pytest.MonkeyPatch) -> None:
    """The newcomer's first vote counts as if it had been asked all the time."""

    def decided(fingerprint: bytes, votes: list[bytes], voters: int, **_: bool) -> Claim:
        return judge(fingerprint, votes, voters)

    patch.setattr("kvnode.voting.judge", decided)


def _without_work(patch: pytest.MonkeyPatch, phase: Phase) -> None:
    review: Callable[[Moving], None] = Moving.review

    def nothing_left(self: Moving) -> None:
        review(self)
        if self._layout.phase is phase:
            self._left = {PartitionId(partition): {} for partition in self._left}

    patch.setattr(Moving, "review", nothing_left)


@ABLATIONS.each()
def test_without_this_safeguard_a_promise_is_broken(
    ablated: Ablation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And for the right reason."""
    ablated.must_be_caught(monkeypatch)
