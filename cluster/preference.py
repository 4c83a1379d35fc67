"""Which nodes serve one partition right now, and in which order a read asks them.

Rules
-----
1. There are at most N targets, and no node is there twice.
2. A primary that is up is always a target; it is never passed over for a fallback.
3. A fallback is a target only in place of one primary that is down, and says which: what it
   stores is a hint for that primary.
4. Too few targets are an answer, not an error: the caller's quorum decides what is enough.

Source: DeCandia et al., "Dynamo", SOSP 2007, sections 4.3 (preference list) and 4.6 (sloppy
quorum).
"""

from collections.abc import Container, Mapping, Sequence

import msgspec

from cluster.ids import NodeId


class Target(msgspec.Struct, frozen=True, gc=False):
    """One replica to ask; ``hint_for`` names the down primary it stands in for, if any."""

    node: NodeId
    hint_for: NodeId | None = None


def preference_list(
    primaries: Sequence[NodeId],
    fallbacks: Sequence[NodeId],
    up: Container[NodeId],
    *,
    sloppy: bool = True,
) -> tuple[Target, ...]:
    """Choose the replicas of one partition, replacing primaries that are down.

    Args:
        primaries: The N owners, in preference order (``Ring.primaries``).
        fallbacks: Every other member, in the order in which they stand in (``ring.fallbacks``).
        up: Nodes believed reachable (``Membership.up``); asked only whether a node is in it.
        sloppy: Whether fallbacks may take part. Without, only primaries that are up remain.

    Returns:
        At most N targets, in the order of the primaries that they serve.
    """
    standing_in = iter([node for node in fallbacks if node in up] if sloppy else ())
    targets: list[Target] = []
    for primary in primaries:
        if primary in up:
            targets.append(Target(primary))
        elif (fallback := next(standing_in, None)) is not None:
            targets.append(Target(fallback, hint_for=primary))
    return tuple(targets)


def read_order(
    targets: Sequence[Target],
    self_node: NodeId | None,
    zones: Mapping[NodeId, str],
    latency_s: Mapping[NodeId, float],
) -> tuple[Target, ...]:
    """The same targets, the one that is likely to answer first in front.

    Primaries come before fallbacks, for a stand-in holds only what was written since the
    primary went down, and its "absent" says nothing. Within each: the reader itself, its own
    zone, then the lowest latency. What is still equal keeps its order, and claim spreads first
    owners evenly, so ties are no hot spot.

    Args:
        self_node: The reader; None when the reader is no member of the region.
        zones: The zone of each member.
        latency_s: Smoothed answer time by node. A node that is not in it was never measured
            and counts as fast, so that it will be.
    """
    self_zone = None if self_node is None else zones.get(self_node)

    def distance(target: Target) -> tuple[bool, bool, bool, float]:
        node = target.node
        return (
            target.hint_for is not None,
            node != self_node,
            self_zone is None or zones.get(node) != self_zone,
            latency_s.get(node, 0.0),
        )

    return tuple(sorted(targets, key=distance))
