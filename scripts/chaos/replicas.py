"""Looking at each copy of a document, as the nodes look at each other's.

It speaks the nodes' protocol, as a document service does, but asks replicas and not coordinators:
so it sees what one disk says, without the repair that a read brings.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from cluster.ids import DocumentId, NodeId, partition_of
from cluster.layout import Rings
from cluster.settings import ClusterSettings
from kvnode.codec import decode
from kvnode.record import NEVER_MS, Record
from kvnode.rpc.connection import Connection, Lost, Outcome, settle
from kvnode.rpc.frames import Message, ProtocolError
from kvnode.rpc.operations import FetchResult, Op
from kvnode.rpc.transport import CLIENT_PREFIX, Transport
from kvnode.system import SystemClock, SystemEntropy

_WITHIN_S: Final = 3.0
#: Documents that are asked for together: more would hold up clients and proxies beside them.
_AT_ONCE: Final = 50
_ENTROPY_BYTES: Final = 4
#: Of an owner that can't be asked or does not vouch.
UNKNOWN: Final = "unknown"

Copy = Record | str | None


class Replicas:
    """Connections to every node, made in the background."""

    def __init__(self, settings: ClusterSettings, secret: bytes, rings: Rings) -> None:
        self._rings = rings
        self._clock, entropy = SystemClock(), SystemEntropy()
        self._transport = Transport(
            name=CLIENT_PREFIX + entropy.random_bytes(_ENTROPY_BYTES).hex(),
            cluster_id=settings.cluster_id,
            secret=secret,
            layouts=lambda: rings.versions,
            addresses={node.node_id: (node.host, node.rpc_port) for node in settings.node},
            clock=self._clock,
            entropy=entropy,
            on_request=_refuse_request,
            on_peer_change=lambda *_: None,
        )
        self._transport.dial_all()

    async def close(self) -> None:
        """Hang up."""
        await self._transport.close()

    def owners(self, document_id: DocumentId) -> list[NodeId]:
        """Where its copies belong, in all regions."""
        return self._rings.owners(partition_of(document_id, self._rings.partitions))

    async def copies(
        self, documents: Sequence[DocumentId], nodes_of: Callable[[DocumentId], Iterable[NodeId]]
    ) -> list[list[Copy]]:
        """What these nodes have of each of these documents."""
        found: list[list[Copy]] = []
        for start in range(0, len(documents), _AT_ONCE):
            found += await asyncio.gather(
                *(
                    self._fetch_all(one, nodes_of(one))
                    for one in documents[start : start + _AT_ONCE]
                )
            )
        return found

    async def differing(self, documents: Sequence[DocumentId]) -> list[DocumentId]:
        """Documents of which two owners would say different things, or one nothing."""
        found = await self.copies(documents, self.owners)
        now_ms = self._clock.wall_ms()
        return [one for one, held in zip(documents, found, strict=True) if not agree(held, now_ms)]

    async def _fetch_all(self, document_id: DocumentId, nodes: Iterable[NodeId]) -> list[Copy]:
        return await asyncio.gather(*(self._fetch(node, document_id) for node in nodes))

    async def _fetch(self, node: NodeId, document_id: DocumentId) -> Copy:
        outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        deadline_s = self._clock.monotonic_s() + _WITHIN_S
        fields = [document_id, None]
        self._transport.request(node, Op.FETCH, deadline_s, fields, 0, settle(outcome))
        found = await outcome
        if isinstance(found, Lost) or found[0] == FetchResult.UNKNOWN:
            return UNKNOWN
        return decode(document_id, found[1]) if found[1] is not None else None


def agree(held: Sequence[Copy], now_ms: int) -> bool:
    """Whether all owners would say the same of a document, given what each has of it.

    Once it has expired they do, and once it is deleted they do if all that have anything know it.
    """
    if UNKNOWN in held:
        return False
    records = [record for record in held if isinstance(record, Record)]
    for record in records:
        expires_at_ms = record.create.expires_at_ms if record.create is not None else NEVER_MS
        if NEVER_MS != expires_at_ms <= now_ms:
            return True
    if any(record.tombstone is not None for record in records):
        return all(record.tombstone is not None for record in records)
    return len({record.create for record in records}) <= 1 and len(records) in (0, len(held))


def _refuse_request(_: Connection, peer: str, message: Message) -> None:
    msg = f"{peer} sent operation {message[0]} to a client"
    raise ProtocolError(msg)
