"""What a node shows of other regions: how far each is with its writes, and it with theirs."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvnode.node import Node

#: Does something about what is named, and tells what is known of it then.
Deed = Callable[[str], Awaitable[dict[str, Any]]]


def regions(node: "Node") -> dict[str, Any]:
    """``/admin/regions``."""
    standing = node.replica.standing
    others = [] if standing.is_own_gone else standing.others
    return {
        "region": node.region,
        "regions": {region: _region(node, region) for region in others},
        #: Those that an operator has said to be gone.
        "gone": standing.gone,
        #: All that operators have said; odd: gone.
        "words": dict(sorted(standing.words.items())),
        #: Nodes that are not known to have heard the same; purges wait for them.
        "unaware": node.partings.unaware,
    }


def deeds(node: "Node") -> dict[str, Deed]:
    """``POST /admin/gone/REGION`` and ``back/REGION``: see ``kvnode.partings``."""
    return {"gone": partial(_speak, node, gone=True), "back": partial(_speak, node, gone=False)}


async def _speak(node: "Node", region: str, *, gone: bool) -> dict[str, Any]:
    """Raises Refused: this is not the node to be told."""
    node.partings.say(region, gone=gone)
    await node.replica.durable()
    return regions(node)


def _region(node: "Node", region: str) -> dict[str, Any]:
    outbox, shipping = node.replica.outbox, node.background.shipping[region]
    watermark_ms = node.watermarks.of(region)
    nodes = node.rings.nodes_of(region)
    return {
        "connected": [one for one in nodes if node.transport.connected(one)],
        #: When the last of them was; null: now.
        "cut_off_since_ms": node.contacts.cut_off_since_ms(region),
        #: All that was written there before is here; null: not known since the start.
        "watermark_ms": watermark_ms or None,
        "lag_s": lag_s(node, region),
        #: The node there that holds the watermark up.
        "slowest": node.watermarks.slowest(region),
        #: What this node has written and that region has yet to get.
        "waiting": outbox.waiting(region),
        "waiting_bytes": outbox.waiting_bytes(region),
        #: Of the outbox, that this takes; above 1 the oldest are dropped and owed a comparison.
        "fullness": round(outbox.fullness(region), 4),
        "comparisons_owed": len(outbox.owed(region)),
        "behind_s": round(max(0, node.clock.wall_ms() - outbox.watermark_ms(region)) / 1000, 3),
        "shipped": shipping.shipped_count,
        "shipped_bytes": shipping.shipped_bytes,
    }


def lag_s(node: "Node", region: str) -> float | None:
    """How old what is known of a region is; None: it has told nothing since the start."""
    watermark_ms = node.watermarks.of(region)
    return round((node.clock.wall_ms() - watermark_ms) / 1000, 3) if watermark_ms else None
