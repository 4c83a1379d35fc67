"""Asking other nodes on behalf of background services, with one deadline for all answers."""

import asyncio
from collections.abc import Iterable

from cluster.ids import NodeId, partition_of
from cluster.layout import Rings
from kvnode.ports import Clock
from kvnode.rpc.connection import Lost, Outcome, settle
from kvnode.rpc.operations import FetchResult, Fields, Op
from kvnode.rpc.transport import Transport
from kvnode.standing import Standing


class Asker:
    """For background services.

    Args:
        timeout_s: From the request to the last answer.
    """

    def __init__(self, transport: Transport, clock: Clock, timeout_s: float = 5.0) -> None:
        self._transport = transport
        self._clock = clock
        self._timeout_s = timeout_s

    def send(
        self, node: NodeId, op: Op, fields: Fields, size_bytes: int = 64
    ) -> "asyncio.Future[Outcome]":
        """Ask one node; the future gets its answer, or why there is none."""
        outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        deadline_s = self._clock.monotonic_s() + self._timeout_s
        self._transport.request(node, op, deadline_s, fields, size_bytes, settle(outcome))
        return outcome

    async def ask_all(
        self, nodes: Iterable[NodeId], op: Op, fields: Fields
    ) -> list[tuple[NodeId, Outcome]]:
        """Ask all at once; their answers in the order of the nodes."""
        sent = [(node, self.send(node, op, fields)) for node in nodes]
        return [(node, await outcome) for node, outcome in sent]


class CoOwners:
    """The other owners of this node's documents, in every region that is not gone."""

    def __init__(self, asker: Asker, rings: Rings, node: NodeId, standing: Standing) -> None:
        self._asker = asker
        self._standing = standing
        self._rings = rings
        self.node = node

    def fetch(self, document_id: bytes) -> "dict[NodeId, asyncio.Future[Outcome]]":
        """Ask each of them what it has of a document."""
        owners = self._rings.owners(partition_of(document_id, self._rings.partitions))
        return {
            owner: self._asker.send(owner, Op.FETCH, [document_id, None])
            for owner in owners
            if owner != self.node and not self._standing.is_gone(self._rings.region_of[owner])
        }


def is_absent(answer: Outcome) -> bool:
    """Whether an owner says that it has nothing, and can vouch for it."""
    return not isinstance(answer, Lost) and answer[0] == FetchResult.ABSENT
