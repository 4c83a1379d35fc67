"""The cluster as the console shows it: what all nodes say, and what it means.

Rules
-----
1. A node that nothing listens for is dead at once. One that is silent is suspect, and dead once its
   peers say so, or after SILENT_S.
2. One that answers is as it says: fenced, joining, not ready. It is suspect if a peer that answers
   doubts it: those two can't reach each other.
3. What is wrong, and what to do, the doctor says (``cluster.doctor``), here as on the command line.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Final

import msgspec

from cluster.doctor import Checkup, diagnose
from cluster.findings import Finding, Severity
from cluster.ids import NodeId
from cluster.layout import Rings
from cluster.rates import Rates
from cluster.regionpairs import Pair
from cluster.seen import NodeState, NodeView, region_pairs, unready
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


class Overview(msgspec.Struct, frozen=True):
    """All of it."""

    regions: dict[str, list[NodeShown]]
    rings: dict[str, RingShown]
    pairs: list[Pair]
    findings: list[Finding]

    @property
    def wrong(self) -> list[Finding]:
        """What was found that somebody should do something about, worst first."""
        return [one for one in self.findings if one.severity is not Severity.NOTE]

    @property
    def answers(self) -> list[tuple[str, Glance]]:
        """What each node has said that answers, in the cluster file's order."""
        return [
            (node.seen.node.id, node.seen.glance)
            for its in self.regions.values()
            for node in its
            if node.seen.glance is not None
        ]


class AsTyped:
    """Commands as they are typed on the machine of the cluster file."""

    def command(self, words: str) -> str:
        """See ``cluster.doctor.Typing``."""
        return f"`{words}`"


def overview(settings: ClusterSettings, rings: Rings, seen: Mapping[NodeId, Seen]) -> Overview:
    """Put together what all members say; ``seen`` has each of them."""
    shown = {name: _shown(one, seen) for name, one in seen.items() if name in rings.nodes}
    checkups = [_checkup(one) for one in shown.values()]
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
        pairs=region_pairs([checkup.view for checkup in checkups]),
        findings=diagnose(
            AsTyped(),
            settings,
            checkups,
            owners={region: ring.owners for region, ring in rings.by_region.items()},
        ),
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
    if unready(glance.status):
        return NodeShown(one, State.NOT_READY, ", ".join(glance.status.reasons))
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
        glance.conflicts,
    )
