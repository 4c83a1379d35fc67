"""How a node is: one check for each thing that can be wrong with it, and what is wrong in words.

Checks that gate make the node unready: requests would mostly fail, or not be believed. The others
are to be known: something has lost its reserve, or was found that should not be there.
"""

from typing import TYPE_CHECKING, Final

import msgspec

from kvnode.quarantine import State

if TYPE_CHECKING:
    from kvnode.node import Node

#: How long a node that starts waits for its peers before it calls itself ready without them: a
#: cluster that has just come up must be able to serve a request that asks for all replicas.
CONNECT_GRACE_S: Final = 2.0
#: Of ``clock_skew_max_s``, which purge and expiry rely on: from here on an operator hears of it.
SKEW_TOLD_SHARE: Final = 0.5


class Check(msgspec.Struct, frozen=True):
    """One thing that was looked at."""

    name: str
    #: What is wrong; empty if nothing is.
    trouble: str
    #: Whether trouble makes the node unready.
    gates: bool = True


def check(node: "Node") -> list[Check]:
    """All of them, those that gate first."""
    return [
        Check("quorum", _quorum(node)),
        Check("peers", _peers(node)),
        Check("disk-identity", _joining(node)),
        Check("rebuild", _fenced(node)),
        Check("disk-space", _disk(node), gates=False),
        Check("clock", _clock(node), gates=False),
        Check("deletions", _deletions(node), gates=False),
        Check("orphans", _orphans(node), gates=False),
    ]


def _quorum(node: "Node") -> str:
    share = node.placement.quorum_share(node.settings.replication.copies // 2 + 1)
    return f"only {share:.0%} of the partitions have a quorum of nodes up" if share <= 0.5 else ""


def _peers(node: "Node") -> str:
    absent = [peer for peer in node.peers if not node.transport.connected(peer)]
    return f"{', '.join(absent)} may yet connect" if absent and node.up_s < CONNECT_GRACE_S else ""


def _joining(node: "Node") -> str:
    joining = len(node.checkin.joining)
    return f"{joining} partitions wait for a peer to confirm" if joining else ""


def _fenced(node: "Node") -> str:
    fenced = len(node.background.rebuild.fenced())
    return f"{fenced} partitions are fenced and being rebuilt" if fenced else ""


def _disk(node: "Node") -> str:
    low = "low on disk: it refuses creates until space is freed"
    return low if node.replica.disk_low else ""


def _clock(node: "Node") -> str:
    far = node.gossip.skews.beyond(SKEW_TOLD_SHARE * node.settings.lifecycle.clock_skew_max_s)
    apart = [f"{skew.least_s:.1f} s from {peer}'s" for peer, skew in far]
    return f"its clock is {', '.join(apart)}" if apart else ""


def _deletions(node: "Node") -> str:
    contradicted = node.background.verify.contradicted_count
    return f"{contradicted} documents that were removed are alive elsewhere" if contradicted else ""


def _orphans(node: "Node") -> str:
    orphans = node.replica.quarantine.counts[State.ORPHAN]
    return f"{orphans} copies of documents that no owner knows are set aside" if orphans else ""
