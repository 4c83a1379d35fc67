"""As ``test_ablations``, of what holds the promises while owners change."""

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import msgspec
import pytest

from cluster.ids import PartitionId
from cluster.ring import Ring
from cluster.ringchange import Layout, Phase
from kvnode.coordinator import Coordinator
from kvnode.replica import Replica
from kvnode.services.layouts import Layouts
from kvnode.services.moving import Moving
from tests.simulation import test_halves, test_ringchange
from tests.simulation.ablations import Ablation, Ablations, first_failing

ABLATIONS: Final = Ablations()
ablation = ABLATIONS.add
_BEGUN: Final = partial(test_halves.test_no_half_reads_what_the_other_has_deleted, after_s=0.0)
_KNOWN: Final = partial(test_halves.test_no_half_reads_what_the_other_has_deleted, after_s=1.0)
_LAST: Final = test_halves.test_what_only_the_old_owner_has_is_not_left_with_it
_SHOWN: Final = test_halves.test_what_one_quorum_has_read_no_later_one_misses
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


@ablation("I19", first_failing(_BEGUN))
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
