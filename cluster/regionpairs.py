"""How far each region is with the writes of each other one, put together from what nodes say.

Rules
-----
1. What any node says of a watermark is true (``kvnode.watermarks``), so the latest that is said in
   a region is the region's. A node that has just started knows less, and takes nothing back.
2. What waits is in the logs of those that wrote it, so it is the sum over the nodes of that region
   that answer; what a silent one has is not known.
3. A region is cut off from another when each of its nodes that answers reaches none there; since
   the last of them lost it.
"""

from collections.abc import Mapping, Sequence

import msgspec


class RegionSeen(msgspec.Struct):
    """What a node says of another region; also of ``GET /admin/regions``."""

    connected: list[str]
    lag_s: float | None
    #: The node there that holds up what is known of it.
    slowest: str
    waiting: int
    comparisons_owed: int
    #: All that was written there before is here; None: not known since the start.
    watermark_ms: int | None = None
    #: Since when nothing there is connected.
    cut_off_since_ms: int | None = None
    #: Of the outbox; beyond 1 writes are dropped, and owed a comparison.
    fullness: float = 0.0


class Pair(msgspec.Struct, frozen=True):
    """What ``source`` writes, on its way to ``target``."""

    source: str
    target: str
    #: All that was written before is there; None: no node there knows.
    watermark_ms: int | None
    lag_s: float | None
    #: The node of ``source`` that holds the watermark up.
    slowest: str | None
    #: Writes that are not there yet, how full the fullest log of them is, comparisons in place of
    #: those that were dropped.
    waiting: int
    fullness: float
    comparisons_owed: int
    #: Rule 3; None: it is not.
    cut_off_since_ms: int | None
    #: Nodes of ``source`` that reach nothing there, though others may.
    cut_off: list[str]


def pairs(
    nodes_of: Mapping[str, Sequence[str]], said: Mapping[str, Mapping[str, RegionSeen]]
) -> list[Pair]:
    """All ordered pairs of regions.

    Args:
        nodes_of: By region, in the order to list them.
        said: By node that answers, by region.
    """
    return [
        _pair(
            source,
            target,
            [said[node][source] for node in nodes_of[target] if source in said.get(node, {})],
            {node: said[node][target] for node in nodes_of[source] if target in said.get(node, {})},
        )
        for source in nodes_of
        for target in nodes_of
        if source != target
    ]


def _pair(
    source: str, target: str, there: Sequence[RegionSeen], here: Mapping[str, RegionSeen]
) -> Pair:
    """From what nodes of ``target`` say of ``source``, and those of ``source`` of ``target``."""
    best = max(there, key=lambda seen: seen.watermark_ms or 0, default=None)
    since_ms = {node: seen.cut_off_since_ms for node, seen in here.items()}
    cut_off = {node: ms for node, ms in since_ms.items() if ms is not None}
    return Pair(
        source,
        target,
        watermark_ms=best.watermark_ms if best else None,
        lag_s=best.lag_s if best else None,
        slowest=best.slowest if best else None,
        waiting=sum(seen.waiting for seen in here.values()),
        fullness=max((seen.fullness for seen in here.values()), default=0.0),
        comparisons_owed=sum(seen.comparisons_owed for seen in here.values()),
        cut_off_since_ms=max(cut_off.values()) if cut_off and len(cut_off) == len(here) else None,
        cut_off=list(cut_off),
    )
