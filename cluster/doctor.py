"""One sweep over a cluster: what is wrong with it, and what to do about each thing.

Rules
-----
1. A finding names who it is about, what was found, and what to do, in words that need no manual.
2. What one node alone can't know is put together here from the words of all.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from cluster.edge import EDGE
from cluster.findings import PURGE_STUCK_S, Finding, Severity
from cluster.layoutdoctor import layout_findings, outside_finding
from cluster.operations import (
    ConflictsView,
    HintsView,
    LifecycleView,
    MembersView,
    NodeStatus,
    QuarantineView,
)
from cluster.regiondoctor import region_findings
from cluster.seen import EdgeState, EdgeView, NodeState, NodeView
from cluster.settings import ClusterSettings
from cluster.stage import Stage

#: What helps a purge, by the reason for which a node that answers does not agree to it.
_PURGE_HELP: Final = {
    "fenced": "wait, with all nodes up: {node} is being rebuilt from them",
    "floor": "wait until {node} has learned by comparing how far was purged",
    "differs": "run `stele repair {typed}`: deletions there and elsewhere are not the same yet",
    "hints": "bring up those that {node} keeps writes for: `stele hints` names them",
    "outbox": "bring the region back that has yet to get its writes: `stele status` names it",
    "clock": "set its clock right",
    "layout": "wait until the change of owners has ended: `stele layout` shows how far it is",
    "minority": "bring a majority of the owners of its partitions up",
}
#: Of each partition of a region.
Owners = Sequence[Sequence[str]]
_UNREACHABLE: Final = "unreachable"
#: Rounds of anti-entropy that may be missed.
_ROUNDS: Final = 3


@dataclass(frozen=True, slots=True)
class Checkup:
    """All that one node says; None for what it did not answer."""

    view: NodeView
    hints: HintsView | None
    lifecycle: LifecycleView | None
    quarantine: QuarantineView | None
    members: MembersView | None
    conflicts: ConflictsView | None = None
    #: Where old databases of the node are kept, as far as whoever asks can see its disk.
    put_aside: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """The node's."""
        return self.view.node.id


class Typing(Protocol):
    """How commands are typed for the cluster in question."""

    def command(self, words: str) -> str:
        """``stele start a2`` in a form that acts on it."""


def diagnose(
    var: Typing,
    settings: ClusterSettings,
    checkups: Sequence[Checkup],
    edge: EdgeView | None = None,
    owners: Mapping[str, Owners] | None = None,
) -> list[Finding]:
    """What is wrong, worst first.

    Args:
        owners: By region, of each partition, as the nodes know them.
    """
    findings = [
        *_nodes(var, checkups),
        *_edge(edge, checkups),
        *_connections(checkups),
        *_clocks(settings, checkups),
        *_fences(var, owners or {}, checkups),
        *_corruption(checkups),
        *region_findings([checkup.view for checkup in checkups]),
        *layout_findings([checkup.view for checkup in checkups]),
        *_purges(checkups),
        *_quarantines(checkups),
        *_hints(checkups),
        *_comparisons(settings, checkups),
        *_conflicts(checkups),
        *_put_aside(checkups),
    ]
    order = list(Severity)
    return sorted(findings, key=lambda finding: order.index(finding.severity))


def _nodes(var: Typing, checkups: Sequence[Checkup]) -> Iterator[Finding]:
    for checkup in checkups:
        view = checkup.view
        if view.status and _is_drained(view.status):
            yield _drain(var, checkup.id, view)
        elif view.state is NodeState.OUTSIDE:
            yield outside_finding(view)
        elif view.state is not NodeState.READY:
            what, _, do = view.advice.partition("; ")
            if region := _given_up(checkup):
                do = f"{var.command(f'stele region back {region}')} has it rebuilt from another one"
            yield Finding(Severity.CRITICAL, checkup.id, what, do or "it should pass by itself")
        if view.status and view.status.storage.disk_low:
            low = "is low on disk: it refuses creates until space is freed"
            free = "free space on its disk, or add some; it recovers without a restart"
            yield Finding(Severity.CRITICAL, checkup.id, low, free)
        if view.status and view.status.late:
            relieve = "`stele top` shows what it is asked for; look what else its machine does"
            yield Finding(Severity.WARNING, checkup.id, view.status.late, relieve)


def _is_drained(status: NodeStatus) -> bool:
    """Whether that alone is why a node is not ready."""
    return status.stage is not Stage.SERVING and len(status.reasons) == 1


def _drain(var: Typing, name: str, view: NodeView) -> Finding:
    assert view.status is not None
    if view.status.stage is Stage.STOPPING:
        start = f"{var.command(f'stele start {name}')} starts it again"
        return Finding(Severity.NOTE, name, "is about to stop, and serves until then", start)
    do = f"{var.command(f'stele drain --back {name}')} has it serve again"
    if view.status.stage is Stage.DRAINED:
        do = f"{var.command(f'stele stop {name}')} stops it, {do}"
    return Finding(Severity.WARNING, name, view.advice, do)


def _edge(edge: EdgeView | None, checkups: Sequence[Checkup]) -> Iterator[Finding]:
    if edge is None:
        return
    ready = [checkup.id for checkup in checkups if checkup.view.state is NodeState.READY]
    if edge.state in {EdgeState.DOWN, EdgeState.SILENT}:
        what, _, do = edge.advice.partition("; ")
        yield Finding(Severity.CRITICAL, EDGE, what, do)
    elif left_out := [node for node in ready if node not in edge.rotation]:
        yield Finding(
            Severity.WARNING if edge.rotation else Severity.CRITICAL,
            EDGE,
            f"sends nothing to {', '.join(left_out)}, though ready",
            "if it stays so, look at the network between the edge and there",
        )


def _connections(checkups: Sequence[Checkup]) -> Iterator[Finding]:
    answering = [checkup.id for checkup in checkups if checkup.view.status]
    for checkup in checkups:
        outside = checkup.view.state is NodeState.OUTSIDE
        members = checkup.view.status.members if checkup.view.status and not outside else []
        for member in members:
            if member.state != "alive" and member.id in answering:
                yield Finding(
                    Severity.WARNING,
                    checkup.id,
                    f"takes {member.id} for {member.state}, which answers here",
                    f"if it stays so, look at the network between {checkup.id} and {member.id}",
                )


def _clocks(settings: ClusterSettings, checkups: Sequence[Checkup]) -> Iterator[Finding]:
    """Two clocks are apart; whose is wrong is said by a third."""
    lifecycle = settings.lifecycle
    apart_s: dict[tuple[str, str], float] = {}
    for checkup in checkups:
        for member in checkup.members.members if checkup.members else []:
            if member.clock_ahead_s is None or member.clock_error_s is None:
                continue
            least_s = abs(member.clock_ahead_s) - member.clock_error_s
            if least_s > lifecycle.clock_skew_told_s:
                first, second = sorted((checkup.id, member.id))
                apart_s[first, second] = max(least_s, apart_s.get((first, second), 0.0))
    while apart_s:
        suspects = Counter(node for pair in apart_s for node in pair)
        (suspect, pairs_count), *_ = suspects.most_common(1)
        pairs = [pair for pair in apart_s if suspect in pair]
        others = [second if first == suspect else first for first, second in pairs]
        most_s = max(apart_s.pop(pair) for pair in pairs)
        about = suspect
        what = f"has a clock that is {most_s:.1f} s from those of {', '.join(others)}"
        if pairs_count == 1:  # either may be the one that is wrong
            about, what = f"{suspect}, {others[0]}", f"have clocks that are {most_s:.1f} s apart"
        yield Finding(
            Severity.CRITICAL if most_s > lifecycle.clock_skew_max_s else Severity.WARNING,
            about,
            what,
            "set it right, and see that a time service runs; expiry and purge rely on clocks that "
            f"are within {lifecycle.clock_skew_max_s:g} s",
        )


def _given_up(checkup: Checkup) -> str | None:
    """A node's region, if an operator has said that it is gone and the node knows."""
    status = checkup.view.status
    return status.region if status is not None and status.region in status.gone else None


def _fences(
    var: Typing, owners_of: Mapping[str, Owners], checkups: Sequence[Checkup]
) -> Iterator[Finding]:
    fenced = {
        one.id: set(one.lifecycle.fenced)
        for one in checkups
        if one.lifecycle and not _given_up(one)
    }
    gone = {region for one in checkups if (region := _given_up(one))}
    rings = [owners for region, owners in owners_of.items() if region not in gone]
    lost: dict[tuple[str, ...], int] = {}
    for partition, each_region in enumerate(zip(*rings, strict=True)):
        owners = tuple(owner for owners in each_region for owner in owners)
        if all(partition in fenced.get(owner, ()) for owner in owners):
            lost[owners] = lost.get(owners, 0) + 1
    for owners, count in lost.items():
        yield Finding(
            Severity.CRITICAL,
            ", ".join(owners),
            f"are all owners of {count} partitions and all fenced: none knows what was deleted "
            "meanwhile",
            f"choose the one with the best disk: {var.command(f'stele trust {owners[0]}')}",
        )
    filled = {one.id: _being_filled(one.view) for one in checkups}
    for node, partitions in fenced.items():
        if len(partitions) > filled[node]:
            yield Finding(
                Severity.WARNING,
                node,
                f"rebuilds {len(partitions)} of its partitions from its peers",
                "wait, and keep its peers up; they answer in its place",
            )


def _being_filled(view: NodeView) -> int:
    """Partitions that a change of owners has yet to bring a node."""
    layout = view.status.layout if view.status else None
    return layout.total - layout.done if layout and layout.own.phase == "fill" else 0


def _corruption(checkups: Sequence[Checkup]) -> Iterator[Finding]:
    for checkup in checkups:
        if checkup.lifecycle is None or not checkup.lifecycle.scrub.corrupt:
            continue
        scrub = checkup.lifecycle.scrub
        healed = scrub.healed >= scrub.corrupt
        yield Finding(
            Severity.WARNING if healed else Severity.CRITICAL,
            checkup.id,
            f"met {scrub.corrupt} damaged records, and replaced {scrub.healed} of them",
            "look at the disk's health" if healed else "bring all other owners up, and wait",
        )


def _purges(checkups: Sequence[Checkup]) -> Iterator[Finding]:
    for checkup in checkups:
        if checkup.lifecycle is None:
            continue
        if checkup.lifecycle.contradicted:
            yield Finding(
                Severity.CRITICAL,
                checkup.id,
                f"has removed {checkup.lifecycle.contradicted} documents that are alive on some "
                "replica",
                "keep the logs (`purge.contradicted` names them) and report this as a bug",
            )
    yield from _stuck(checkups)


def _stuck(checkups: Sequence[Checkup]) -> Iterator[Finding]:
    """By what holds purges up: all nodes may wait for the same."""
    answering = [one.id for one in checkups if one.view.status]
    held_s: dict[str, dict[str, float]] = {}
    for checkup in checkups:
        for veto in checkup.lifecycle.vetoes if checkup.lifecycle else ():
            if veto.for_s >= PURGE_STUCK_S:
                of = held_s.setdefault(veto.reason, {})
                of[veto.node] = max(veto.for_s, of.get(veto.node, 0.0))
    for reason, by_node in held_s.items():
        names = sorted(by_node)
        has = "has" if len(names) == 1 else "have"
        do = _PURGE_HELP.get(reason, "bring {node} up, or replace it")
        if reason == _UNREACHABLE and all(name in answering for name in names):
            do = "look at the network there: {node} can be asked from here"
        yield Finding(
            Severity.WARNING,
            ", ".join(names),
            f"{has} held up the purge of deleted documents for {max(by_node.values()):.0f} s "
            f"({reason})",
            do.format(node=", ".join(names), typed=" ".join(names))
            + "; deleted documents keep their space till then",
        )


def _quarantines(checkups: Sequence[Checkup]) -> Iterator[Finding]:
    for checkup in checkups:
        held = checkup.quarantine
        if held is not None and held.orphans:
            yield Finding(
                Severity.WARNING,
                checkup.id,
                f"has set aside {held.orphans} copies of documents that no owner knows",
                "nothing serves them; /admin/quarantine on its operations listener lists them",
            )
        if held is not None and held.asked:
            what = f"asks the owners of {held.asked} late copies whether these count"
            yield Finding(Severity.NOTE, checkup.id, what, "wait, with all owners up")


def _conflicts(checkups: Sequence[Checkup]) -> Iterator[Finding]:
    for checkup in checkups:
        if checkup.conflicts is not None and checkup.conflicts.held:
            yield Finding(
                Severity.NOTE,
                checkup.id,
                f"met {checkup.conflicts.held:,} keys that were given two bodies; one is gone",
                "/admin/conflicts on its operations listener lists them; whoever makes the keys "
                "must not use one for two bodies, or create with consistency=each_quorum",
            )


def _hints(checkups: Sequence[Checkup]) -> Iterator[Finding]:
    views = {one.id: one.view for one in checkups}
    targets: dict[str, int] = {}
    owed: dict[str, int] = {}
    for checkup in checkups:
        if checkup.hints is None:
            continue
        for target, kept in checkup.hints.targets.items():
            targets[target] = targets.get(target, 0) + kept.count
        for target, count in checkup.hints.comparisons_owed.items():
            owed[target] = owed.get(target, 0) + count
    for target, count in targets.items():
        do = _until(views.get(target), target, "they are being delivered")
        yield Finding(
            Severity.NOTE, target, f"lacks {count:,} writes, which others keep for it", do
        )
    for target, count in owed.items():
        do = _until(views.get(target), target, "it is being compared")
        yield Finding(Severity.NOTE, target, f"is owed a comparison of {count} partitions", do)


def _until(view: NodeView | None, target: str, being_done: str) -> str:
    """What a node needs that others keep something for."""
    if view is None or view.status is None:
        return f"bring {target} up"
    if view.status.storage.disk_low:
        return f"free space on {target}'s disk: it can't take them"
    return f"wait: {being_done}"


def _comparisons(settings: ClusterSettings, checkups: Sequence[Checkup]) -> Iterator[Finding]:
    region_of = {node.id: node.region for node in settings.node}
    for checkup in checkups:
        if checkup.lifecycle is None:
            continue
        for peer, round_ in checkup.lifecycle.comparisons.items():
            near = region_of.get(peer) == region_of[checkup.id]
            interval_s = (
                settings.antientropy.interval_s if near else settings.regions.compare_interval_s
            )
            overdue_s = _ROUNDS * interval_s
            since_s = round_.last_complete_s
            if max(overdue_s, 60.0) < (checkup.lifecycle.up_s if since_s is None else since_s):
                what = f"its copies with those of {peer} to the end"
                yield Finding(
                    Severity.WARNING,
                    checkup.id,
                    f"has never compared {what}"
                    if since_s is None
                    else f"compared {what} {since_s:.0f} s ago for the last time",
                    f"bring {peer} up, then run `stele repair {checkup.id}`",
                )


def _put_aside(checkups: Sequence[Checkup]) -> Iterator[Finding]:
    for checkup in checkups:
        for aside in checkup.put_aside:
            yield Finding(
                Severity.NOTE,
                checkup.id,
                f"has an old database in {aside}",
                "remove it when all nodes are well",
            )
