"""What is to be said of changes of owners, for ``stele doctor``: one finding for each region."""

from collections.abc import Iterator, Sequence
from typing import Final

from cluster.findings import LAYOUT_STUCK_S, Finding, Severity
from cluster.layoutviews import LayoutView, moved
from cluster.seen import NodeView

#: How a change that goes on is told; no more than a note.
MOVING: Final = "is moving"


def layout_findings(views: Sequence[NodeView]) -> Iterator[Finding]:
    """From what each node says of its own region's layout."""
    said = [view.status.layout for view in views if view.status and view.status.layout]
    for region in dict.fromkeys(one.region for one in said):
        its = [one for one in said if one.region == region and one.node in one.own.ids]
        newest = max(its, key=lambda one: one.own.epoch, default=None)
        if newest is not None and not newest.own.is_stable:
            same = [one for one in its if one.own.epoch == newest.own.epoch]
            yield _of_region(newest, same, views)


def _of_region(newest: LayoutView, its: Sequence[LayoutView], views: Sequence[NodeView]) -> Finding:
    about, total = f"region {newest.region}", newest.moves_total
    answering = [view.node.id for view in views if view.status]
    missing = [name for name in newest.own.ids if name not in answering]
    if newest.waits_for and missing:
        names = " ".join(missing)
        return Finding(
            Severity.WARNING,
            about,
            f"changes its owners no further: {', '.join(missing)} must take part",
            f"`stele start {names}`, or `stele replace {names}` if the disk is lost",
        )
    stuck = [one for one in its if one.still_s >= LAYOUT_STUCK_S]
    if stuck:
        longest = max(stuck, key=lambda one: one.still_s)
        left = [f"{longest.total - longest.done} partitions", *longest.held_back]
        unaware = [f"{', '.join(longest.unaware)} must hear of it"] if longest.unaware else []
        waits = ", and ".join([f"{longest.node} has {', '.join(left)} left", *unaware])
        return Finding(
            Severity.WARNING,
            about,
            f"has changed its owners no further for {longest.still_s:.0f} s: {waits}",
            f"bring all nodes up that {longest.node} talks with; a region that is lost is given up "
            "by `stele region gone`",
        )
    done = moved(its)
    return Finding(
        Severity.NOTE,
        about,
        f"{MOVING} {total - done} of {total} replicas{_waits(newest)}; {newest.own.in_words}",
        "wait: it goes on by itself; `stele layout --watch` shows how far it is",
    )


def _waits(view: LayoutView) -> str:
    return f", waits for {', '.join(view.waits_for)}" if view.waits_for else ""


def outside_finding(view: NodeView) -> Finding:
    """Of a node that takes no part in its region."""
    name = view.node.id
    done = f"`stele stop {name}`, then `stele forget {name}`" if view.status else ""
    return Finding(
        Severity.NOTE,
        name,
        f"takes no part in region {view.node.region}: it was not let in yet, or it has left",
        f"`stele layout` shows whether it is staged; one that has left: {done}"
        if done
        else f"`stele forget {name}` takes it out of the cluster file",
    )
