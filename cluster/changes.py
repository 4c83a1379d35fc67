"""Changes of who owns what, asked of nodes: staged, planned, begun, and watched to the end.

Rules
-----
1. A change begins at one node of its region. Whoever is asked first names it.
2. Watching changes nothing: the nodes go on by themselves, and another command can watch as well.
"""

import time
from collections.abc import Sequence
from typing import Final, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cluster import operations
from cluster.answers import Answers, unreachable
from cluster.interrupts import Interrupted, Interrupts
from cluster.launch import say
from cluster.layoutviews import LayoutView, PlanView, Staged, in_words, moved
from cluster.operations import Declined, JobView, NoAnswer
from cluster.settings import ClusterSettings, NodeSettings
from cluster.startup import LaunchError
from cluster.topology import node_named

TIMEOUT_S: Final = 5.0
_POLL_S: Final = 0.2
_Answer = TypeVar("_Answer")


def layout(node: NodeSettings, timeout_s: float) -> LayoutView:
    """What a node knows of the layouts. Raises NoAnswer."""
    return operations.ask(node, "/admin/layout", timeout_s, LayoutView)


def look(settings: ClusterSettings, region: str, *, without: str = "") -> LayoutView:
    """What the nodes of a region say of it, by the word of one that knows the newest layout.

    Raises:
        Unreachable: none of them answers.
    """
    return newest(all_views(settings, region, without=without))


def newest(views: Sequence[LayoutView]) -> LayoutView:
    """Of what nodes of one region say, the word of one that knows most."""
    members = [view for view in views if view.node in view.own.ids]
    return max(members or views, key=lambda view: view.own.epoch)


def all_views(settings: ClusterSettings, region: str, *, without: str = "") -> list[LayoutView]:
    """What each node of a region says that answers. Raises Unreachable."""
    nodes = [node for node in settings.region_nodes(region) if node.id != without]
    if not nodes:
        raise unreachable(settings.region_nodes(region))
    return list(Answers(nodes, layout).given.values())


def first_member(settings: ClusterSettings, region: str) -> NodeSettings:
    """Where a change of a region begins. Raises Unreachable, TopologyError."""
    return node_named(settings, look(settings, region).begins_at)


def stage(first: NodeSettings, wanted: Staged) -> Staged:
    """Add to what is staged. Raises Unreachable, LaunchError."""
    return _post(first, "layout/stage", Staged, wanted)


def plan(first: NodeSettings) -> PlanView:
    """What a commit would do. Raises Unreachable, LaunchError."""
    return _post(first, "layout/plan", PlanView)


def commit(first: NodeSettings, epoch: int) -> JobView:
    """Begin what is staged. Raises Unreachable, LaunchError."""
    return _post(first, "layout/commit", JobView, {"epoch": epoch})


def revert(first: NodeSettings) -> Staged:
    """Forget what is staged. Raises Unreachable, LaunchError."""
    return _post(first, "layout/revert", Staged)


def leave(first: NodeSettings, name: str) -> JobView:
    """Have a member give all away and leave. Raises Unreachable, LaunchError."""
    return _post(first, f"nodes/{name}/leave", JobView)


def _post(node: NodeSettings, path: str, answer: type[_Answer], body: object = None) -> _Answer:
    try:
        return operations.ask(node, f"/admin/{path}", TIMEOUT_S, answer, method="POST", body=body)
    except NoAnswer as error:
        raise unreachable([node]) from error
    except Declined as error:
        raise LaunchError(f"{error}.") from error


def follow(settings: ClusterSettings, region: str, after: int, console: Console) -> LayoutView:
    """Watch a change until the region is stable at an epoch beyond ``after``.

    Raises:
        Interrupted: the nodes go on.
    """
    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    ]
    with Interrupts() as interrupts, Progress(*columns, console=console, transient=True) as bars:
        bar = bars.add_task(f"region {region}", total=None)
        while True:
            views = all_views(settings, region)
            view = newest(views)
            if view.own.is_stable and view.own.epoch > after:
                return view
            total = max(one.moves_total for one in views)
            bars.update(
                bar,
                total=total,
                completed=moved(views),
                description=f"region {region}: {in_words(view)}",
            )
            try:
                interrupts.check()
            except Interrupted:
                say(console, "the nodes go on by themselves; `stele layout --watch` shows how far")
                raise
            time.sleep(_POLL_S)
