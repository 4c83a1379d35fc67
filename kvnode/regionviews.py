"""What a node shows of other regions: how far each is with its writes, and it with theirs."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvnode.node import Node


def regions(node: "Node") -> dict[str, Any]:
    """``/admin/regions``."""
    return {
        "region": node.region,
        "regions": {region: _region(node, region) for region in node.watermarks.regions},
    }


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
