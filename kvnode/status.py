"""What a node shows of itself to operators."""

from typing import TYPE_CHECKING, Any

from cluster.ids import format_document_id
from kvnode.conflicts import conflict_words
from kvnode.ending import Family
from kvnode.health import LAG, Weight, check, troubles
from kvnode.layoutviews import layout
from kvnode.quarantine import State
from kvnode.regionviews import regions

if TYPE_CHECKING:
    from kvnode.node import Node

_LISTED_MAX = 100


def status(node: "Node") -> dict[str, Any]:
    """``/admin/status``."""
    membership = node.gossip.membership
    zones = {node.own.node_id: node.own.zone} | node.rings.layouts[node.region].zones
    checks, between = check(node), regions(node)
    reasons = troubles(checks, Weight.UNREADY)
    return {
        "node": node.own.id,
        "region": node.region,
        "zone": node.own.zone,
        "incarnation": membership.own().incarnation,
        "ready": not reasons,
        "reasons": reasons,
        "stage": node.background.draining.stage.value,
        #: What is wrong and does not make it unready.
        "warnings": troubles(checks, Weight.WARNING),
        "late": next(one.trouble for one in checks if one.name == LAG),
        "ring": {
            "epoch": node.placement.ring.epoch,
            "partitions": node.placement.ring.partitions,
            "owned": len(node.rings.partitions_of(node.own.node_id)),
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
            target: {"count": held.count, "bytes": held.size_bytes}
            for target, held in node.replica.hints.targets()
        },
        "layout": layout(node),
        "regions": between["regions"],
        "gone": between["gone"],
        "unaware": between["unaware"],
        "background_pace": round(node.background.budget.pace, 3),
        "documents_estimate": node.replica.records.count - node.replica.records.deleted_count,
        "storage": {"disk_free_bytes": node.disk_free_bytes, "disk_low": node.replica.disk_low},
    }


def hints(node: "Node") -> dict[str, Any]:
    """``/admin/hints``: what is kept here for others, and what was lost of it."""
    book, now_ms = node.replica.hints, node.clock.wall_ms()
    owed: dict[str, int] = {}
    for debt in book.owed():
        owed[debt.target] = owed.get(debt.target, 0) + 1
    return {
        "targets": {
            target: {
                "count": held.count,
                "bytes": held.size_bytes,
                "oldest_s": round((now_ms - (held.oldest_ms or now_ms)) / 1000, 3),
                "left_alone_s": round(node.background.handoff.left_alone_s(target), 3),
            }
            for target, held in book.targets()
        },
        "created": book.created,
        "delivered": book.delivered,
        "superseded": book.superseded,
        "dropped": dict(book.dropped),
        #: By target, partitions that are compared with it because hints were lost.
        "comparisons_owed": owed,
    }


def lifecycle(node: "Node") -> dict[str, Any]:
    """``/admin/lifecycle``: what has ended and waits, and what holds it up."""
    forest, background = node.replica.records.forest, node.background
    partitions = range(forest.partitions)
    now_ms = node.clock.wall_ms()

    def waiting(family: Family) -> int:
        return sum(forest.oldest(family, partition) is not None for partition in partitions)

    return {
        "up_s": round(node.up_s, 3),
        #: On this disk, and how many of them are deletions that are still remembered.
        "records": node.replica.records.count,
        "tombstones": node.replica.records.deleted_count,
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
        "fenced": background.rebuild.fenced(),
        "comparisons": {
            peer: {
                "last_complete_s": round((now_ms - round_.complete_ms) / 1000, 3)
                if round_.complete_ms
                else None,
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


def conflicts(node: "Node") -> dict[str, Any]:
    """``/admin/conflicts``: keys that were given two bodies, the newest of those met with here."""
    met = node.replica.conflicts
    return {
        "held": len(met),
        "conflicts": [conflict_words(conflict) for conflict in met.newest(_LISTED_MAX)],
    }
