"""Records from outside the cluster: a document service's side, aware of the ring.

Every call goes straight to a node that owns the document's partition, which coordinates it. If that
one can't be reached or does not answer, the next owner is asked: repeating a call is safe, for ids
and records are made before the first try and merging is idempotent.

Owners change while it runs, and it asks for the newest layouts now and then. Until it has them it
asks nodes that were owners before: they coordinate the request, or say that they have left.
"""

import asyncio
from collections.abc import Mapping, Sequence
from copy import copy
from typing import Final

from cluster.ids import NodeId, partition_of
from cluster.layout import Rings
from cluster.ringchange import decode_layout
from kvnode.codec import decode, encode
from kvnode.errors import (
    DiskLow,
    KeyDeleted,
    KeyReused,
    Overloaded,
    ReadTimeout,
    StoreError,
    Unavailable,
    WriteTimeout,
)
from kvnode.log import Log
from kvnode.notedpeers import NotedPeers
from kvnode.placement import Placement
from kvnode.ports import Clock, Entropy
from kvnode.record import Record, Sighting
from kvnode.results import Fetched, Stored
from kvnode.rpc.connection import Connection, Lost
from kvnode.rpc.frames import Message, ProtocolError
from kvnode.rpc.inturn import Peers, ask_in_turn
from kvnode.rpc.operations import Fields, Op
from kvnode.rpc.transport import CLIENT_PREFIX, Transport
from kvnode.services.asking import Asker
from kvnode.tracing import OpenSpan

_NAME_BYTES: Final = 4
_PLAIN_ERRORS: Final = {error.code: error for error in (DiskLow, KeyDeleted, KeyReused, Overloaded)}
#: Between two looks for newer layouts.
_LAYOUTS_EVERY_S: Final = 5.0
_QUORUM_ERRORS: Final = {error.code: error for error in (ReadTimeout, Unavailable, WriteTimeout)}


class ClusterClient:
    """``docservice.store.DocumentStore`` over the wire.

    Args:
        region: The one whose nodes are asked.
        zones: Of its nodes.
        addresses: (host, RPC port) of its nodes.
    """

    def __init__(
        self,
        *,
        cluster_id: str,
        secret: bytes,
        rings: Rings,
        region: str,
        zones: Mapping[NodeId, str],
        addresses: Mapping[NodeId, tuple[str, int]],
        clock: Clock,
        entropy: Entropy,
        log: Log,
    ) -> None:
        self._clock = clock
        self._log = log
        self._partitions = rings.partitions
        self._rings = rings = rings.copy()
        self._region = region
        self._transport = Transport(
            name=CLIENT_PREFIX + entropy.random_bytes(_NAME_BYTES).hex(),
            cluster_id=cluster_id,
            secret=secret,
            layouts=lambda: rings.versions,
            addresses=addresses,
            clock=clock,
            entropy=entropy,
            on_request=_refuse_request,
            on_peer_change=self._on_peer_change,
        )
        ring = rings.by_region[region]
        self._placement = Placement(ring, None, zones, self._transport.connected, {})
        self.peers: Peers = self._transport
        self._transport.dial_all()
        loop = asyncio.get_running_loop()
        self._following = loop.create_task(self._follow(), name="follow layouts")

    @property
    def ready(self) -> bool:
        """Whether most of the ring can be reached."""
        return self._placement.quorum_share(1) > 0.5

    def noting(self, span: OpenSpan) -> "ClusterClient":
        """The same for one call, what it asks nodes being parts of ``span``."""
        noted = copy(self)
        noted.peers = NotedPeers(self.peers, span)
        return noted

    def asker(self, timeout_s: float) -> Asker:
        """For questions of operators."""
        return Asker(self._transport, self._clock, timeout_s)

    async def close(self) -> None:
        """Say goodbye to every node."""
        self._following.cancel()
        await asyncio.gather(self._following, return_exceptions=True)
        await self._transport.close()

    def mint_partition(self) -> int | None:
        """Any partition is as near as the others."""
        return None

    async def create(
        self,
        document_id: bytes,
        record: Record,
        *,
        keyed: bool,
        write_quorum: int,
        sloppy: bool,
        deadline_s: float,
        each_region: bool = False,
    ) -> Stored:
        """See ``docservice.store.DocumentStore``."""
        encoded = encode(document_id, record)
        fields = [document_id, encoded, keyed, write_quorum, sloppy, each_region]
        return _stored(
            document_id, await self._call(Op.CREATE, document_id, fields, len(encoded), deadline_s)
        )

    async def read(
        self,
        document_id: bytes,
        *,
        read_quorum: int,
        sloppy: bool,
        deadline_s: float,
        seen: Sighting | None = None,
        each_region: bool = False,
    ) -> Fetched:
        """See ``docservice.store.DocumentStore``."""
        sighting = seen.fields if seen is not None else None
        fields = [document_id, read_quorum, sloppy, sighting, each_region]
        encoded, answered, required, copies = await self._call(
            Op.READ, document_id, fields, 0, deadline_s
        )
        record = decode(document_id, encoded) if encoded is not None else None
        return Fetched(record, answered, required, copies)

    async def delete(
        self,
        document_id: bytes,
        record: Record,
        *,
        write_quorum: int,
        sloppy: bool,
        deadline_s: float,
        each_region: bool = False,
    ) -> Stored:
        """See ``docservice.store.DocumentStore``."""
        encoded = encode(document_id, record)
        fields = [document_id, encoded, write_quorum, sloppy, each_region]
        return _stored(
            document_id, await self._call(Op.DELETE, document_id, fields, len(encoded), deadline_s)
        )

    async def _call(
        self, op: Op, document_id: bytes, fields: Fields, size_bytes: int, deadline_s: float
    ) -> Fields:
        """Ask the owners, one after the other, until one answers (``kvnode.rpc.inturn``).

        If one that was passed over may have carried out a write, a later one's "nothing was
        written" is no longer the whole truth.
        """
        partition = partition_of(document_id, self._partitions)
        near = [target.node for target in self._placement.read_plan(partition, sloppy=True)]
        nodes = dict.fromkeys([*near, *self._rings.nodes_of(self._region)])
        answer = await ask_in_turn(
            self.peers, self._clock, nodes, op, deadline_s, fields, size_bytes
        )
        found, maybe_applied = answer.outcome, answer.maybe_applied
        if not isinstance(found, Lost):
            return found
        if not answer.is_silence:
            error = _error_from(found)
            if maybe_applied and error.retryable and op != Op.READ:
                raise WriteTimeout(f"another node may have stored it, but here: {error}")
            raise error
        detail = "no owner of this document's partition answered"
        if op == Op.READ:
            raise (ReadTimeout if maybe_applied else Unavailable)(detail)
        raise (WriteTimeout if maybe_applied else Unavailable)(detail)

    async def _follow(self) -> None:
        """Ask one node after the other which layouts there are."""
        asker, turn = self.asker(_LAYOUTS_EVERY_S), 0
        while True:
            await asyncio.sleep(_LAYOUTS_EVERY_S)
            nodes = list(filter(self._transport.connected, self._rings.region_of))
            if not nodes:
                continue
            turn += 1
            node, own = nodes[turn % len(nodes)], self._rings.layouts[self._region]
            fields: Fields = [self._rings.versions, [], self._region, own.epoch, []]
            answer = await asker.send(node, Op.LAYOUT, fields)
            if not isinstance(answer, Lost):
                self._take(node, answer[1])

    def _take(self, node: NodeId, layouts: Sequence[bytes]) -> None:
        for encoded in layouts:
            try:
                layout = decode_layout(encoded)
            except ValueError as error:
                self._log.warning("layout.refused", peer=node, reason=str(error))
                continue
            known = self._rings.layouts.get(layout.region)
            if known is None or layout.order() <= known.order():
                continue
            self._rings.adopt(layout)
            if layout.region == self._region:
                at = {one.node_id: (one.host, one.rpc_port) for one in layout.members}
                self._transport.meet(at)
                self._placement.adopt(self._rings.by_region[layout.region], layout.zones)

    def _on_peer_change(self, peer: NodeId, connected: bool, reason: str) -> None:
        self._placement.refresh()
        event = "peer.connected" if connected else "peer.disconnected"
        self._log.info(event, peer=peer, reason=reason)


def _error_from(lost: Lost) -> StoreError:
    plain = _PLAIN_ERRORS.get(lost.code)
    if plain is not None:
        return plain(lost.detail)
    acked, required = (*lost.extra, 0, 0)[:2]
    return _QUORUM_ERRORS.get(lost.code, Unavailable)(lost.detail, acked=acked, required=required)


def _stored(document_id: bytes, fields: Fields) -> Stored:
    encoded, acked, required, copies, hints = fields
    return Stored(decode(document_id, encoded), acked, required, copies, hints)


def _refuse_request(_: Connection, peer: str, message: Message) -> None:
    msg = f"{peer} sent operation {message[0]} to a client"
    raise ProtocolError(msg)
