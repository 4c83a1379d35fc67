"""How a node is: one check for each thing that can be wrong with it, and what is wrong in words.

A trouble reads on behind the node's name: "is low on disk".
"""

from enum import Enum
from typing import TYPE_CHECKING, Final

import msgspec

from cluster.findings import LAYOUT_STUCK_S, PURGE_STUCK_S
from cluster.stage import Stage
from kvnode.quarantine import State

if TYPE_CHECKING:
    from kvnode.node import Node

#: How long a node that starts waits for its peers before it calls itself ready without them: a
#: cluster that has just come up must be able to serve a request that asks for all replicas.
CONNECT_GRACE_S: Final = 2.0
#: The names of checks that are shown alone, too.
LAG: Final = "lag"
MEMBERSHIP: Final = "membership"
#: An event loop as late as this costs clients as much, with every request. One stall is not told.
LAG_TOLD_S: Final = 1.0
_DRAINING: Final = {
    Stage.SERVING: "",
    Stage.DRAINING: "draining, as an operator asked",
    Stage.DRAINED: "drained, as an operator asked",
    Stage.STOPPING: "draining",
}


class Weight(Enum):
    """What trouble means."""

    #: Requests would mostly fail, or not be believed: the node is not ready.
    UNREADY = "unready"
    #: It serves, with less in reserve than it should have.
    WARNING = "warning"
    #: To be known.
    NOTE = "note"


class Check(msgspec.Struct, frozen=True):
    """One thing that was looked at."""

    name: str
    weight: Weight
    #: What is wrong; empty if nothing is.
    trouble: str


def check(node: "Node") -> list[Check]:
    """All of them, those first that make a node unready."""
    return [
        Check("draining", Weight.UNREADY, _DRAINING[node.background.draining.stage]),
        Check("region", Weight.UNREADY, _region(node)),
        Check(MEMBERSHIP, Weight.UNREADY, membership(node)),
        Check("quorum", Weight.UNREADY, _quorum(node)),
        Check("peers", Weight.UNREADY, _peers(node)),
        Check("joining", Weight.UNREADY, _joining(node)),
        Check("fences", Weight.UNREADY, _fenced(node)),
        Check("disk", Weight.WARNING, _disk(node)),
        Check("clock", Weight.WARNING, _clock(node)),
        Check(LAG, Weight.WARNING, _lag(node)),
        Check("regions", Weight.WARNING, _regions(node)),
        Check("layout", Weight.WARNING, _layout(node)),
        Check("purge", Weight.WARNING, _purge(node)),
        Check("removals", Weight.WARNING, _removals(node)),
        Check("orphans", Weight.NOTE, _orphans(node)),
    ]


def troubles(checks: list[Check], weight: Weight) -> list[str]:
    """What is wrong, of one weight."""
    return [one.trouble for one in checks if one.trouble and one.weight is weight]


def _region(node: "Node") -> str:
    gone = node.replica.standing.is_own_gone
    return f"an operator has said that region {node.region} is gone" if gone else ""


def membership(node: "Node") -> str:
    """Why a node takes no part in its region now; empty if it does."""
    if node.layouts.takes_part:
        return ""
    if node.own.node_id in node.layouts.own.leaving:
        return "leaving: others have its documents"
    if node.layouts.is_member:
        return f"joining: {', '.join(node.layouts.unaware())} must hear of it first"
    return "no member of its region: `stele layout` lets it in, or says that it has left"


def _quorum(node: "Node") -> str:
    if not node.layouts.is_member:
        return ""  # it takes no part, and may be connected to nobody
    share = node.placement.quorum_share(node.settings.replication.copies // 2 + 1)
    return f"only {share:.0%} of the partitions have a quorum of nodes up" if share <= 0.5 else ""


def _peers(node: "Node") -> str:
    if not node.layouts.is_member or node.met_peers or node.up_s >= CONNECT_GRACE_S:
        return ""
    absent = [peer for peer in node.peers if not node.transport.connected(peer)]
    return f"{', '.join(absent)} may yet connect" if absent else ""


def _joining(node: "Node") -> str:
    joining = sum(map(node.placement.answers, node.checkin.joining))
    return f"{joining} partitions wait for a peer to confirm" if joining else ""


def _fenced(node: "Node") -> str:
    fenced = sum(map(node.placement.answers, node.background.rebuild.fenced()))
    return f"{fenced} partitions are fenced and being rebuilt" if fenced else ""


def _disk(node: "Node") -> str:
    low = "is low on disk: it refuses creates until space is freed"
    return low if node.replica.disk_low else ""


def _clock(node: "Node") -> str:
    """Of a clock that most others are far from: it is the one that is wrong, or one of two are."""
    skews = node.gossip.skews
    far = sorted(skews.beyond(node.settings.lifecycle.clock_skew_told_s))
    if 2 * len(far) <= len(list(skews.all())):
        return ""
    most_s = max(skew.least_s for _, skew in far)
    return f"has a clock that is {most_s:.1f} s from those of {', '.join(peer for peer, _ in far)}"


def _lag(node: "Node") -> str:
    lag_s = node.background.budget.lag_s
    return f"answers late: its event loop lags {lag_s:.1f} s" if lag_s > LAG_TOLD_S else ""


def _regions(node: "Node") -> str:
    since_ms = {name: node.contacts.cut_off_since_ms(name) for name in node.watermarks.regions}
    # A cluster that has just come up has not met anybody yet.
    cut_off = [name for name, ms in since_ms.items() if ms is not None]
    met = node.up_s >= CONNECT_GRACE_S
    return f"reaches no node of region {' or '.join(cut_off)}" if cut_off and met else ""


def _layout(node: "Node") -> str:
    still_s = node.changing.still_s
    if still_s < LAYOUT_STUCK_S:
        return ""
    waits_for = node.layouts.waits_for()
    if node.own.node_id in waits_for:
        done, total = node.background.moving.progress()
        left = ", ".join([f"{total - done} partitions", *node.background.moving.held_back()])
        return f"holds up a change of owners, for {still_s:.0f} s: it has {left} left"
    return f"waits for {', '.join(waits_for)} to change owners, for {still_s:.0f} s"


def _purge(node: "Node") -> str:
    vetoes = node.background.purge.vetoes.values()
    longest = min(vetoes, key=lambda veto: veto.since_ms, default=None)
    if longest is None:
        return ""
    for_s = (node.clock.wall_ms() - longest.since_ms) / 1000
    stuck = f"waits for {longest.node} ({longest.reason}) to purge, for {for_s:.0f} s"
    return stuck if for_s >= PURGE_STUCK_S else ""


def _removals(node: "Node") -> str:
    contradicted = node.background.verify.contradicted_count
    alive = f"found {contradicted} documents alive elsewhere that were removed from its disk"
    return alive if contradicted else ""


def _orphans(node: "Node") -> str:
    orphans = node.replica.quarantine.counts[State.ORPHAN]
    return f"has set aside {orphans} copies of documents that no owner knows" if orphans else ""
