"""Taking notes of a traced request: ports that do what those they wrap do, and leave spans.

A request that is not traced knows nothing of them. One that is has a coordinator of its own: the
node's, with these in the place of what it reaches replicas through (``noting``).

Rules
-----
1. What goes to another node is a client's span here and takes the span's context along, so what is
   done there is its child (``kvnode.notedanswers``).
2. A record travels in a batch with others as it would without notes: what is measured is what
   others wait for.
3. A span ends when its answer comes, also after the request itself was answered.
4. What is appended to the outbox is shipped later, by somebody else: the span's context is left in
   ``Tracer.hops``.
"""

from copy import copy
from functools import partial

from cluster.preference import Target
from kvnode.coordinator import Coordinator
from kvnode.errors import StoreError
from kvnode.everywhere import Everywhere
from kvnode.merging import Merges, Sender
from kvnode.notedpeers import NotedPeers
from kvnode.replica import OnMerged
from kvnode.rpc.connection import Lost
from kvnode.tracing import Hops, OpenSpan


class _NotedSender:
    def __init__(self, sender: Sender, span: OpenSpan) -> None:
        self._sender = sender
        self._span = span

    def on_sent(self, target: Target, held: bytes | Lost | None) -> None:
        self._span.end(held.code if isinstance(held, Lost) else "")
        self._sender.on_sent(target, held)


class NotedMerges:
    """``kvnode.merging.Merges`` on behalf of a span."""

    def __init__(self, merges: Merges, span: OpenSpan) -> None:
        self._merges = merges
        self._span = span

    def send(
        self,
        target: Target,
        document_id: bytes,
        encoded: bytes,
        deadline_s: float,
        sender: Sender,
        *,
        patient: bool,
        vouched_at: int | None = None,
        context: bytes = b"",
    ) -> None:
        """See ``Merges``."""
        span = self._span.child("rpc.merge", "client", peer=target.node)
        if target.hint_for is not None:
            span.note(hint_for=target.hint_for)
        self._merges.send(
            target,
            document_id,
            encoded,
            deadline_s,
            _NotedSender(sender, span),
            patient=patient,
            vouched_at=vouched_at,
            context=context + span.context,
        )

    def flush(self) -> None:
        """See ``Merges``."""
        self._merges.flush()


def noting(coordinator: Coordinator, span: OpenSpan, hops: Hops) -> Coordinator:
    """The same coordinator for one request, what it asks replicas being parts of ``span``."""
    noted = copy(coordinator)
    noted.peers = NotedPeers(coordinator.peers, span)
    noted.merges = NotedMerges(coordinator.merges, span)
    noted.everywhere = Everywhere(noted, coordinator.rings, noted.peers)
    if coordinator.elsewhere is not None:
        noted.elsewhere = coordinator.elsewhere.through(noted.peers)

    def merge_here(document_id: bytes, encoded: bytes, done: OnMerged) -> None:
        part = span.child("replica.merge")
        try:
            coordinator.merge_here(document_id, encoded, partial(_merged, part, done))
        except StoreError as error:
            part.end(error.code)
            raise

    def append_to_outbox(document_id: bytes, record: bytes | None) -> None:
        coordinator.append_to_outbox(document_id, record)
        hops.note(coordinator.replica.outbox.last, span.context)

    noted.merge_here = merge_here
    noted.append_to_outbox = append_to_outbox
    return noted


def _merged(part: OpenSpan, done: OnMerged, held: bytes | None) -> None:
    part.end()
    done(held)
