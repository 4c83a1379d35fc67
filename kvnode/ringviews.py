"""What a node shows of the ring, of the other nodes, and of one document on all of them."""

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from cluster.ids import DocumentId, NodeId, format_document_id, partition_of
from cluster.settings import NodeSettings
from kvnode.inspection import Held, Inspection, from_wire, inspect
from kvnode.rpc.connection import Lost, Outcome
from kvnode.rpc.operations import Op
from kvnode.services.asking import Asker

if TYPE_CHECKING:
    from kvnode.node import Node

#: What an operator waits for a node that does not answer.
_INSPECT_WITHIN_S: Final = 2.0


def ring(node: "Node") -> dict[str, Any]:
    """``/admin/ring``: who owns what, and what of it is up."""
    placement = node.placement
    owned = Counter(owner for owners in placement.ring.owners for owner in owners)
    nodes = node.settings.region_nodes(node.region)
    quorum = node.settings.replication.copies // 2 + 1
    return {
        "region": node.region,
        "epoch": placement.ring.epoch,
        "digest": placement.ring.digest().hex(),
        "partitions": placement.ring.partitions,
        "copies": placement.ring.copies,
        "nodes": [
            {"id": one.id, "zone": one.zone, "weight": one.weight, "owned": owned[one.node_id]}
            for one in nodes
        ],
        "under_replicated": placement.under_replicated(),
        "quorum_share": round(placement.quorum_share(quorum), 4),
        #: By partition, in preference order.
        "owners": placement.ring.owners,
    }


def members(node: "Node") -> dict[str, Any]:
    """``/admin/members``: the nodes of the region as this one sees them."""
    settings = {one.node_id: one for one in node.settings.region_nodes(node.region)}
    membership, now_s = node.gossip.membership, node.clock.monotonic_s()

    def described(own: NodeSettings) -> dict[str, Any]:
        skew = node.gossip.skews.of(own.node_id)
        return {
            "zone": own.zone,
            "address": f"{own.host}:{own.rpc_port}",
            #: Nothing new was heard of it for this long.
            "silent_s": round(membership.silent_s(own.node_id, now_s), 3),
            #: Its clock is ahead of this node's by this much, give or take the error.
            "clock_ahead_s": None if skew is None else round(skew.ahead_s, 4),
            "clock_error_s": None if skew is None else round(skew.error_s, 4),
        }

    return {
        "node": node.own.id,
        "members": [
            {
                "id": member.node,
                "state": member.status.name.lower(),
                "connected": member.node == node.own.id or node.transport.connected(member.node),
                "incarnation": member.incarnation,
                "heartbeat": member.heartbeat,
                "ring_epoch": member.ring_epoch,
                **described(settings[member.node]),
            }
            for member in membership.members()
        ],
    }


async def owners(node: "Node", document_id: DocumentId) -> dict[str, Any]:
    """``/admin/owners/ID``: what each node holds of a document, its owners first. No content."""
    partition = partition_of(document_id, node.placement.ring.partitions)
    primaries = node.placement.ring.primaries(partition)
    peers = [peer for peer in (*primaries, *node.peers) if peer != node.own.node_id]
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
        "replicas": [_replica(name, answers[name]) for name in order],
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
