"""What a node shows of the ring, of the other nodes, and of one document on all of them."""

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from cluster.ids import DocumentId, NodeId, format_document_id, partition_of
from cluster.membership import Member
from kvnode.inspection import Held, Inspection, from_wire, inspect
from kvnode.rpc.connection import Lost, Outcome
from kvnode.rpc.operations import Op
from kvnode.services.asking import Asker

if TYPE_CHECKING:
    from kvnode.node import Node

#: What an operator waits for a node that does not answer.
_INSPECT_WITHIN_S: Final = 2.0


def ring(node: "Node") -> dict[str, Any]:
    """``/admin/ring``: who owns what in this region, and in the others, and what of it is up."""
    shown = {region: _ring(node, region) for region in node.rings.by_region}
    own = shown.pop(node.region)
    return {**own, "other_regions": shown}


def _ring(node: "Node", region: str) -> dict[str, Any]:
    ring_ = node.rings.by_region[region]
    owned = Counter(owner for owners in ring_.owners for owner in owners)
    quorum = node.settings.replication.copies // 2 + 1
    return {
        "region": region,
        "epoch": ring_.epoch,
        "digest": node.rings.layouts[region].digest().hex(),
        "partitions": ring_.partitions,
        "copies": ring_.copies,
        "nodes": [
            {"id": one.id, "zone": one.zone, "weight": one.weight, "owned": owned[one.node_id]}
            for one in node.rings.layouts[region].members
        ],
        "under_replicated": ring_.under_replicated(node.is_up),
        "quorum_share": round(ring_.quorum_share(quorum, node.is_up), 4),
        #: By partition, in preference order.
        "owners": ring_.owners,
    }


def members(node: "Node") -> dict[str, Any]:
    """``/admin/members``: the nodes as this one sees them, those of its own region first.

    Of another region it is known whether a node is connected, and what it has told.
    """
    membership = node.gossip.membership
    states = {member.node: member for member in membership.members()}
    every = [one for layout in node.rings.layouts.values() for one in layout.members]
    nodes = sorted(every, key=lambda one: one.region != node.region)
    return {
        "node": node.own.id,
        "region": node.region,
        "members": [
            {
                "id": one.id,
                "region": one.region,
                "zone": one.zone,
                "address": f"{one.host}:{one.rpc_port}",
                "connected": one.id == node.own.id or node.transport.connected(one.node_id),
                **(
                    _member(node, states[one.node_id])
                    if one.region == node.region
                    else _remote(node, one.node_id)
                ),
                **_clock(node, one.node_id),
            }
            for one in nodes
        ],
    }


def _clock(node: "Node", peer: NodeId) -> dict[str, Any]:
    skew = node.gossip.skews.of(peer)
    return {
        #: Its clock is ahead of this node's by this much, give or take the error.
        "clock_ahead_s": None if skew is None else round(skew.ahead_s, 4),
        "clock_error_s": None if skew is None else round(skew.error_s, 4),
    }


def _member(node: "Node", member: Member) -> dict[str, Any]:
    silent_s = node.gossip.membership.silent_s(member.node, node.clock.monotonic_s())
    return {
        "state": member.status.name.lower(),
        "incarnation": member.incarnation,
        "heartbeat": member.heartbeat,
        "ring_epoch": member.ring_epoch,
        #: Nothing new was heard of it for this long.
        "silent_s": round(silent_s, 3),
    }


def _remote(node: "Node", peer: NodeId) -> dict[str, Any]:
    return {
        "state": "alive" if node.is_up(peer) else "unreachable",
        #: All that it wrote before is here; null: it has told nothing since the start.
        "told_ms": node.watermarks.told_ms(peer) or None,
    }


async def owners(node: "Node", document_id: DocumentId) -> dict[str, Any]:
    """``/admin/owners/ID``: what each node of each region holds of a document. No content.

    Its owners come first, those of this region before the others.
    """
    partition = partition_of(document_id, node.rings.partitions)
    near = node.rings.owners_in(node.region, partition)
    primaries = list(dict.fromkeys([*near, *node.rings.owners(partition)]))
    peers = [peer for peer in (*primaries, *node.rings.nodes) if peer != node.own.node_id]
    asker = Asker(node.transport, node.clock, _INSPECT_WITHIN_S)
    answers: dict[NodeId, Outcome | Inspection] = {
        node.own.node_id: inspect(node.replica, document_id, partition)
    }
    answers |= await asker.ask_all(dict.fromkeys(peers), Op.INSPECT, [document_id])
    order = dict.fromkeys([*primaries, *answers])
    return {
        "id": format_document_id(document_id),
        "partition": partition,
        "owners": primaries,
        "replicas": [
            {"region": node.rings.region_of[name], **_replica(name, answers[name])}
            for name in order
        ],
    }


def _replica(name: NodeId, answer: Outcome | Inspection) -> dict[str, Any]:
    if isinstance(answer, Lost):
        return {"node": name, "answered": False, "reason": answer.code}
    if not isinstance(answer, Inspection):
        try:
            answer = from_wire(answer)
        except ValueError as error:
            return {"node": name, "answered": False, "reason": f"its answer is none: {error}"}
    return {
        "node": name,
        "answered": True,
        "owner": answer.owner,
        "doubt": answer.doubt,
        "record": None if answer.record is None else _record(answer.record),
        "damaged": answer.damaged,
        "hints_for": answer.hints_for,
        "quarantined": answer.quarantined,
    }


def _record(held: Held) -> dict[str, Any]:
    checksum = None if held.checksum is None else held.checksum.hex()
    named = {name: getattr(held, name) for name in held.__struct_fields__}
    state = "deleted" if held.deleted_at_ms is not None else "created"
    return {"state": state, **named, "checksum": checksum}
