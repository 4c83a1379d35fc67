"""A change of owners as operators see it: where it stands, what is staged, what would move.

Nodes answer with these values, and tools read them. What a layout is: ``cluster.ringchange``.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from cluster.ids import NodeId
from cluster.ring import Owners
from cluster.ringchange import Layout, Phase
from cluster.settings import NodeSettings

IN_WORDS: Final[Mapping[Phase, str]] = {
    Phase.STABLE: "stable",
    Phase.FILL: "new owners are being filled",
    Phase.LEVEL: "new owners compare with the old ones",
    Phase.SWITCH: "reads go over to the new owners",
    Phase.RETIRE: "old owners hand on the rest and drop it",
}


class MemberShare(msgspec.Struct, frozen=True):
    """Of one node: partitions that it owns before a change and after it."""

    id: str
    zone: str
    weight: float
    now: int
    at_end: int
    joining: bool = False
    leaving: bool = False


class PlannedShare(MemberShare, frozen=True, kw_only=True):
    """The same in a plan: partitions that it would take over, and give away."""

    gained: int
    lost: int


class RegionLayout(msgspec.Struct, frozen=True):
    """A region's layout, as one node knows it."""

    region: str
    epoch: int
    phase: str
    in_words: str
    #: Replicas that are still to be moved.
    moves_left: int
    members: list[MemberShare]

    @property
    def is_stable(self) -> bool:
        """Whether no change is under way."""
        return self.phase == Phase.STABLE.name.lower()

    @property
    def ids(self) -> list[str]:
        """The members' names."""
        return [member.id for member in self.members]


class Staged(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an operator wants changed; also the body of ``POST /admin/layout/stage``."""

    add: tuple[NodeSettings, ...] = ()
    remove: tuple[NodeId, ...] = ()
    weights: dict[NodeId, float] = {}

    def __bool__(self) -> bool:
        return bool(self.add or self.remove or self.weights)

    def joined(self, more: "Staged") -> "Staged":
        """With what is wanted besides; of one node, what was said last counts.

        Removing a node that is staged to be added takes that back.
        """
        added = {node.node_id: node for node in (*self.add, *more.add)}
        removed = dict.fromkeys((*self.remove, *more.remove))
        for node in more.add:
            removed.pop(node.node_id, None)
        for name in more.remove:
            if added.pop(name, None) is not None:
                removed.pop(name, None)
        weights = {
            name: weight
            for name, weight in {**self.weights, **more.weights}.items()
            if name not in removed
        }
        return Staged(tuple(added.values()), tuple(removed), weights)


class LayoutView(msgspec.Struct):
    """Answer of ``GET /admin/layout``."""

    node: str
    region: str
    #: The only node at which a change of this region can begin.
    begins_at: str
    #: Why requests can't begin on this node: it was not let in, or it leaves. Empty: they can.
    outside: str
    regions: dict[str, RegionLayout]
    #: Of the replicas that the change of this region moves.
    moves_total: int
    #: How long the present phase has lasted, and what this node has done of it.
    phase_s: float
    done: int
    total: int
    #: Members that hold the phase up, and with what.
    waits_for: dict[str, str]
    #: What this node has yet to hand on, in words.
    held_back: list[str]
    #: Nodes of other regions that are not known to know this region's layout.
    unaware: list[str]
    #: For how long nothing has gone on, as far as this node can tell; 0: it goes on.
    still_s: float
    staged: Staged = Staged()

    @property
    def own(self) -> RegionLayout:
        """Of the node's region."""
        return self.regions[self.region]


class PlanView(msgspec.Struct, frozen=True):
    """Answer of ``POST /admin/layout/plan``: what a commit would do. Nothing is changed by it."""

    region: str
    #: What a commit must name: that of the layout which is to be changed.
    epoch: int
    #: Replicas that would be moved, in so many steps of four phases.
    moves: int
    steps: int
    partitions: int
    nodes: list[PlannedShare]


class CommitRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Body of ``POST /admin/layout/commit``."""

    epoch: int


def shown(layout: Layout) -> RegionLayout:
    """A layout for operators."""
    now, at_end = _owned(layout.ring().owners), _owned(layout.target)
    return RegionLayout(
        region=layout.region,
        epoch=layout.epoch,
        phase=layout.phase.name.lower(),
        in_words=IN_WORDS[layout.phase],
        moves_left=0 if layout.is_stable else layout.moves_left(),
        members=[
            MemberShare(
                id=one.id,
                zone=one.zone,
                weight=one.weight,
                now=now[one.node_id],
                at_end=at_end[one.node_id],
                joining=one.node_id in layout.joining,
                leaving=one.node_id in layout.leaving,
            )
            for one in layout.members
        ],
    )


def planned(before: Layout, first: Layout) -> PlanView:
    """What a change would do, from the layout that is and the first one of the change."""
    now, at_end = _owned(before.new), _owned(first.target)
    gained: Counter[NodeId] = Counter()
    lost: Counter[NodeId] = Counter()
    moved_of_partition = [0]
    for own, target in zip(before.new, first.target, strict=True):
        gaining = [node for node in target if node not in own]
        gained.update(gaining)
        lost.update(node for node in own if node not in target)
        moved_of_partition.append(len(gaining))
    return PlanView(
        region=before.region,
        epoch=before.epoch,
        moves=sum(moved_of_partition),
        steps=max(moved_of_partition),
        partitions=before.partitions,
        nodes=[
            PlannedShare(
                id=one.id,
                zone=one.zone,
                weight=one.weight,
                now=now[one.node_id],
                at_end=at_end[one.node_id],
                gained=gained[one.node_id],
                lost=lost[one.node_id],
                joining=one.node_id in first.joining,
                leaving=one.node_id in first.leaving,
            )
            for one in first.members
        ],
    )


def moved(views: Sequence[LayoutView]) -> int:
    """Replicas that are where they belong, those of the present step included that are filled."""
    newest = max(views, key=lambda view: view.own.epoch)
    done = max(view.moves_total for view in views) - newest.own.moves_left
    here = [view for view in views if view.own.epoch == newest.own.epoch]
    if newest.own.phase == "fill":
        return done + sum(view.done for view in here)
    return done + sum(view.total for view in here) if newest.own.phase == "level" else done


def in_words(view: LayoutView) -> str:
    """Where a change stands: the phase, and whom it waits for."""
    waits = "; ".join(
        f"{why}: {', '.join(name for name, its in view.waits_for.items() if its == why)}"
        for why in dict.fromkeys(view.waits_for.values())
    )
    return view.own.in_words + (f" ({waits})" if waits else "")


def _owned(owners: Owners) -> Counter[NodeId]:
    return Counter(node for own in owners for node in own)
