"""Operations that are cut short at one step after the other; ``make crash-points`` takes each."""

from typing import Any, Final

import pytest

from kvnode.agreement import Proposal
from kvnode.boots import Boot, Boots
from kvnode.handlers import Handlers
from kvnode.rpc.connection import Connection
from kvnode.rpc.operations import Fields
from kvnode.services.purge import Purge
from tests.simulation.ablations import Ablation, Ablations
from tests.simulation.crash_points import (
    OPERATIONS,
    Point,
    Strike,
    cut,
    point_of,
    points_of,
    steps_of,
    strikes_on,
)
from tests.simulation.test_ablations import hint_dropped_without_acknowledgement

ABLATIONS: Final = Ablations()


@pytest.mark.parametrize(
    "operation",
    OPERATIONS,
    ids=[f"{name}, every {one.stride}. step" for name, one in OPERATIONS.items()],
)
def test_an_operation_may_be_cut_short_at_any_step(operation: str) -> None:
    """Whichever node is killed or loses power, or all at once: every promise is kept."""
    points = list(points_of(operation, OPERATIONS[operation].stride))
    assert {point.strike for point in points} == set(strikes_on(operation))
    for point in points:
        cut(point)


@pytest.mark.parametrize("operation", ["create W=3", "keyed create", "delete W=2"])
def test_the_points_span_the_operation(operation: str) -> None:
    """At the first nothing of it has happened, and at the last its client has been answered."""
    steps, everywhere = steps_of(operation), strikes_on(operation)[0]
    assert len(steps) > 20
    assert not cut(Point(operation, everywhere, steps[0]))
    assert cut(Point(operation, everywhere, steps[-1]))


def test_a_point_is_read_as_it_is_printed() -> None:
    """So that what the runner prints can be replayed."""
    for operation in OPERATIONS:
        for strike in strikes_on(operation):
            point = Point(operation, strike, 17)
            assert point_of(str(point)) == point


# Proof that it bites ----------------------------------------------------------------------------


def cut_at(operation: str, how: str, *names: str, stride: int = 1) -> Any:
    """Cut an operation in one way, at one step after the other."""

    def check() -> None:
        for step in steps_of(operation)[::stride]:
            cut(Point(operation, Strike(how, names), step))

    return check


@ABLATIONS.add("I15: ", cut_at("hints of an owner", "power", "a1", stride=3))
def hint_released_when_it_was_sent(patch: pytest.MonkeyPatch) -> None:
    """Its target may lose power before it is on the disk there."""
    hint_dropped_without_acknowledgement(patch)


@ABLATIONS.add("I22: ", cut_at("purge", "power", "a1", stride=50))
def floor_before_promises(patch: pytest.MonkeyPatch) -> None:
    """The proposer purges, and asks afterwards: who promised nothing takes itself for absent."""
    original = Purge._try

    async def concluded(self: Purge, proposal: Proposal) -> None:
        self._agreement.conclude(proposal)
        await self._replica.durable()
        await original(self, proposal)

    patch.setattr(Purge, "_try", concluded)


@ABLATIONS.add("I22: ", cut_at("purge", "power", "a2", stride=3))
def promise_before_it_is_durable(patch: pytest.MonkeyPatch) -> None:
    """Who promised and lost power does not know of it, when the others have purged."""

    def promise(
        self: Handlers, connection: Connection, request_id: int, _: float, fields: Fields
    ) -> None:
        veto = self._agreement.promise(Proposal(*fields[:-1]))
        connection.reply(request_id, [veto, self._absent()], 0)

    patch.setattr(Handlers, "_promise", promise)


@ABLATIONS.add("I22: ", cut_at("rebuild of an empty disk", "power", "a3", stride=11))
def boots_only_numbered(patch: pytest.MonkeyPatch) -> None:
    """A wiped disk that starts twice has the number that its peers wait for."""
    original = Boots.meet

    def meet(self: Boots, peer: Any, boot: Boot, known: Any) -> list[Boot]:
        later = [one for one in self._remembered(peer) if one.number < boot.number]
        return original(self, peer, boot, [*known, *later])

    patch.setattr(Boots, "meet", meet)


@ABLATIONS.each()
def test_without_this_safeguard_some_point_breaks_a_promise(
    ablated: Ablation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And for the right reason."""
    ablated.must_be_caught(monkeypatch)
