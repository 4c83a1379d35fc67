"""What a node shows of itself to operators."""

from typing import TYPE_CHECKING, Any

from cluster.ids import format_document_id
from kvnode.ending import Family
from kvnode.quarantine import State

if TYPE_CHECKING:
    from kvnode.node import Node

_LISTED_MAX = 100


def status(node: "Node") -> dict[str, Any]:
    """``/admin/status``."""
    hints = node.replica.hints
    membership = node.gossip.membership
    zones = {one.node_id: one.zone for one in node.settings.region_nodes(node.region)}
    reasons = node.unready_reasons()
    return {
        "node": node.own.id,
        "region": node.region,
        "zone": node.own.zone,
        "incarnation": membership.own().incarnation,
        "ready": not reasons,
        "reasons": reasons,
        "ring": {
            "epoch": node.placement.ring.epoch,
            "partitions": node.placement.ring.partitions,
            "owned": len(node.placement.owned),
        },
        "members": [
            {
                "id": member.node,
                "zone": zones[member.node],
                "state": member.status.name.lower(),
                "connected": member.node == node.own.id or node.transport.connected(member.node),
                "incarnation": member.incarnation,
            }
            for member in membership.members()
        ],
        "hints": {
            target: {
                "count": held.count,
                "bytes": held.size_bytes,
                "oldest_at_ms": held.oldest_ms,
                "left_alone_s": round(node.background.handoff.left_alone_s(target), 3),
            }
            for target, held in hints.targets()
        },
        "hints_lost": dict(hints.dropped),
        "comparisons_owed": len(hints.owed()),
        "background_pace": round(node.background.budget.pace, 3),
        "documents_estimate": node.replica.records.count,
        "storage": {"disk_free_bytes": node.disk_free_bytes, "disk_low": node.replica.disk_low},
    }


def lifecycle(node: "Node") -> dict[str, Any]:
    """``/admin/lifecycle``: what has ended and waits, and what holds it up."""
    forest, background = node.replica.records.forest, node.background
    partitions = range(forest.partitions)
    now_ms = node.clock.wall_ms()

    def waiting(family: Family) -> int:
        return sum(forest.oldest(family, partition) is not None for partition in partitions)

    return {
        "partitions_with_deleted": waiting(Family.DELETED),
        "partitions_with_expiring": waiting(Family.EXPIRING),
        "purged": background.sweep.purged_count,
        "expired": background.sweep.expired_count,
        "verified": background.verify.verified_count,
        "contradicted": background.verify.contradicted_count,
        "vetoes": [
            {
                "partition": partition,
                "node": veto.node,
                "reason": veto.reason,
                "for_s": round((now_ms - veto.since_ms) / 1000, 3),
            }
            for partition, veto in list(background.purge.vetoes.items())[:_LISTED_MAX]
        ],
        "vetoed_partitions": len(background.purge.vetoes),
        "fenced_partitions": len(background.antientropy.fenced_partitions()),
        "comparisons": {
            peer: {
                "last_complete_ms": round_.complete_ms,
                "partitions_left": len(round_.left),
                "partitions": len(round_.shared),
            }
            for peer, round_ in background.antientropy.rounds.items()
        },
        "repaired": {
            "pushed": background.antientropy.totals.pushed,
            "pulled": background.antientropy.totals.pulled,
        },
        "scrub": {
            "passes": background.scrub.passes,
            "progress": round(background.scrub.progress, 3),
            "corrupt": background.scrub.corrupt_count,
            "healed": background.scrub.healed_count,
        },
    }


def quarantine(node: "Node") -> dict[str, Any]:
    """``/admin/quarantine``: copies that are not merged. The first ones, without content."""
    found = node.replica.quarantine
    return {
        "asked": found.counts[State.ASKED],
        "orphans": found.counts[State.ORPHAN],
        "copies": [
            {
                "id": format_document_id(suspect.document_id),
                "state": suspect.state.name.lower(),
                "held_at_ms": suspect.held_at_ms,
            }
            for suspect in found.suspects(b"", _LISTED_MAX)
        ],
    }
