"""Taking notes of what is asked of other nodes; see ``kvnode.notedcalls``."""

from cluster.ids import NodeId
from kvnode.rpc.connection import Lost, OnOutcome, Outcome
from kvnode.rpc.inturn import Peers
from kvnode.rpc.operations import Fields, Op, traced
from kvnode.tracing import OpenSpan


class NotedPeers:
    """``kvnode.rpc.inturn.Peers`` on behalf of a span."""

    def __init__(self, peers: Peers, span: OpenSpan) -> None:
        self._peers = peers
        self._span = span

    def connected(self, node: NodeId) -> bool:
        """See ``Peers``."""
        return self._peers.connected(node)

    def request(
        self,
        node: NodeId,
        op: Op,
        deadline_s: float,
        fields: Fields,
        size_bytes: int,
        on_outcome: OnOutcome,
    ) -> None:
        """See ``Peers``."""
        span = self._span.child(f"rpc.{op.name.lower()}", "client", peer=node)

        def noted(outcome: Outcome) -> None:
            span.end(outcome.code if isinstance(outcome, Lost) else "")
            on_outcome(outcome)

        op, fields = traced(span.context, op, fields)
        self._peers.request(node, op, deadline_s, fields, size_bytes, noted)
