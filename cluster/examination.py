"""Asking every node of a local cluster everything that the doctor wants to know."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from cluster import operations, status
from cluster.answers import Answers, Unreachable
from cluster.doctor import Checkup, Owners
from cluster.operations import NoAnswer, RingView
from cluster.seen import NodeView
from cluster.settings import ClusterSettings, NodeSettings
from cluster.vardir import VarDirectory

_TIMEOUT_S: Final = 5.0
_Answer = TypeVar("_Answer")


def examine(var: VarDirectory, settings: ClusterSettings) -> list[Checkup]:
    """Ask every node everything."""
    views = status.look(var, settings.node)

    def ask(of: Callable[[NodeSettings, float], _Answer], view: NodeView) -> _Answer | None:
        if view.status is None:
            return None
        try:
            return of(view.node, _TIMEOUT_S)
        except NoAnswer:
            return None

    def check_up(view: NodeView) -> Checkup:
        return Checkup(
            view,
            ask(operations.hints, view),
            ask(operations.lifecycle, view),
            ask(operations.quarantine, view),
            ask(operations.members, view),
            ask(operations.conflicts, view),
            put_aside(var, view.node.id),
        )

    with ThreadPoolExecutor(max_workers=len(views)) as pool:
        return list(pool.map(check_up, views))


def owners_of(settings: ClusterSettings) -> dict[str, Owners]:
    """By region, who owns each partition: its own nodes' word counts before that of others."""
    try:
        rings = list(Answers(settings.node, operations.ring).given.values())
    except Unreachable:
        return {}
    return {region: ring_of(region, rings).owners for region in settings.region_names}


def ring_of(region: str, rings: Sequence[RingView]) -> RingView:
    """The newest that is known of a region, and by its own nodes before others."""
    seen = [(one.all_regions[region], one.region == region) for one in rings]
    return max(seen, key=lambda its: (its[1], its[0].epoch))[0]


def put_aside(var: VarDirectory, name: str) -> tuple[str, ...]:
    """Where old databases of a node are kept."""
    found = [*var.node_directory(name).glob("damaged-*"), *var.replaced(name)]
    return tuple(str(one) for one in found)
