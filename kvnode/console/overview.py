"""The cluster as the console shows it: what all nodes say, and what it means.

Rules
-----
1. A node that nothing listens for is dead at once. One that is silent is suspect, and dead once its
   peers say so, or after SILENT_S.
2. One that answers is as it says: fenced, joining, not ready. It is suspect if a peer that answers
   doubts it: those two can't reach each other.
3. What is wrong, and what to do, the doctor says (``cluster.doctor``), here as on the command line.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Final

import msgspec

from cluster.doctor import Checkup, Finding, diagnose
from cluster.ids import NodeId
from cluster.layout import Rings
from cluster.rates import Rates
from cluster.seen import NodeState, NodeView, unready
from cluster.settings import ClusterSettings, NodeSettings
from kvnode.console.glance import Glance

SILENT_S: Final = 4.0


class State(Enum):
    """Of a node, from best to worst."""

    ALIVE = "alive"
    NOT_READY = "not ready"
    JOINING = "joining"
    SUSPECT = "suspect"
    FENCED = "fenced"
    DEAD = "dead"


class Seen(msgspec.Struct):
    """What is known of one node."""

    node: NodeSettings
    #: Its last answer, as long as it answers.
    glance: Glance | None = None
    #: What came instead of one; empty while nothing was asked yet.
    trouble: str = ""
    #: Nothing listens on its port.
    refused: bool = False
    silent_s: float = 0.0
    rates: Rates | None = None


class NodeShown(msgspec.Struct, frozen=True):
    """One node's tile."""

    seen: Seen
    state: State
    #: Why it is not alive; empty if it is.
    why: str


class RingShown(msgspec.Struct, frozen=True):
    """The partitions of one region."""

    #: By partition: how many of its owners are up.
    up: list[int]
    copies: int

    @property
    def under_replicated(self) -> int:
        """Partitions of which some owner is not up."""
        return sum(up < self.copies for up in self.up)

    @property
    def without_quorum(self) -> int:
        """Partitions of which no majority of the owners is up."""
        return sum(up <= self.copies // 2 for up in self.up)

    @property
    def unavailable(self) -> int:
        """Partitions of which no owner is up."""
        return sum(not up for up in self.up)


class Pair(msgspec.Struct, frozen=True):
    """How far one region's writes are in another."""

    source: str
    target: str
    #: Age of the watermark, of the node there that knows least; None: nobody there knows.
    lag_s: float | None
    #: The node of the source that holds it up.
    slowest: str
    #: Writes that the target has yet to get, and partitions to be compared for lost ones.
    waiting: int
    owed: int
    #: Nodes of the target that reach some node of the source, of those that answer.
    reached_by: int
    answering: int


class Overview(msgspec.Struct, frozen=True):
    """All of it."""

    regions: dict[str, list[NodeShown]]
    rings: dict[str, RingShown]
    pairs: list[Pair]
    findings: list[Finding]
    #: Unix time.
    at_ms: int


class AsTyped:
    """Commands as they are typed on the machine of the cluster file."""

    def command(self, words: str) -> str:
        """See ``cluster.doctor.Typing``."""
        return f"`{words}`"


def overview(
    settings: ClusterSettings, rings: Rings, seen: Mapping[NodeId, Seen], at_ms: int
) -> Overview:
    """Put together what all nodes say."""
    shown = {name: _shown(one, seen) for name, one in seen.items()}
    up = {name for name, one in shown.items() if one.state not in (State.DEAD, State.SUSPECT)}
    regions = {
        region: [shown[name] for name in rings.nodes_of(region)] for region in rings.by_region
    }
    return Overview(
        regions=regions,
        rings={
            region: RingShown([sum(one in up for one in owners) for owners in ring.owners], copies)
            for region, ring in rings.by_region.items()
            for copies in [len(ring.owners[0])]
        },
        pairs=[
            _pair(source, target, seen, rings)
            for source in rings.by_region
            for target in rings.by_region
            if source != target
        ],
        findings=diagnose(AsTyped(), settings, [_checkup(one) for one in shown.values()]),
        at_ms=at_ms,
    )


def _shown(one: Seen, seen: Mapping[NodeId, Seen]) -> NodeShown:
    doubts = _doubts(one, seen)
    glance = one.glance
    if glance is None:
        gone = one.refused or "dead" in doubts or one.silent_s >= SILENT_S
        return NodeShown(one, State.DEAD if gone else State.SUSPECT, one.trouble)
    if fenced := len(glance.lifecycle.fenced):
        rebuilt = f"{fenced} partitions are rebuilt from its peers"
        return NodeShown(one, State.FENCED, rebuilt)
    if doubts:
        by = ", ".join(doubter for doubters in doubts.values() for doubter in doubters)
        return NodeShown(one, State.SUSPECT, f"answers here, but is doubted by {by}")
    if glance.joining:
        waits = f"{glance.joining} partitions wait for a peer to confirm"
        return NodeShown(one, State.JOINING, waits)
    if why := unready(glance.status):
        return NodeShown(one, State.NOT_READY, why)
    return NodeShown(one, State.ALIVE, ", ".join(glance.status.warnings))


def _doubts(one: Seen, seen: Mapping[NodeId, Seen]) -> dict[str, list[str]]:
    """Who of those that answer takes a node for suspect or dead."""
    doubts: dict[str, list[str]] = {}
    for other in seen.values():
        for member in other.glance.status.members if other.glance else ():
            if member.id == one.node.id and member.state != "alive":
                doubts.setdefault(member.state, []).append(other.node.id)
    return doubts


def _checkup(shown: NodeShown) -> Checkup:
    """In the doctor's terms."""
    node, glance = shown.seen.node, shown.seen.glance
    if glance is None:
        state = NodeState.DOWN if shown.state is State.DEAD else NodeState.SILENT
        do = f"`stele start {node.id}` starts it, `stele restart {node.id}` if it hangs"
        what = "is down" if shown.seen.refused else f"does not answer ({shown.why})"
        return Checkup(NodeView(node, state, None, None, f"{what}; {do}"), None, None, None, None)
    why = unready(glance.status)
    state = NodeState.NOT_READY if why else NodeState.READY
    return Checkup(
        NodeView(node, state, None, glance.status, why),
        glance.hints,
        glance.lifecycle,
        glance.quarantine,
        glance.members,
        glance.regions,
    )


def _pair(source: str, target: str, seen: Mapping[NodeId, Seen], rings: Rings) -> Pair:
    there = [
        one.glance.regions.regions[source]
        for one in _answering(seen, rings.nodes_of(target))
        if one.glance
    ]
    here = [
        one.glance.regions.regions[target]
        for one in _answering(seen, rings.nodes_of(source))
        if one.glance
    ]
    lags = [one.lag_s for one in there if one.lag_s is not None]
    slowest = Counter(one.slowest for one in there).most_common(1)
    return Pair(
        source=source,
        target=target,
        lag_s=max(lags, default=None),
        slowest=slowest[0][0] if slowest else "",
        waiting=sum(one.waiting for one in here),
        owed=sum(one.comparisons_owed for one in here),
        reached_by=sum(bool(one.connected) for one in there),
        answering=len(there),
    )


def _answering(seen: Mapping[NodeId, Seen], nodes: Sequence[NodeId]) -> list[Seen]:
    return [seen[name] for name in nodes if seen[name].glance]
