"""Asking several nodes the same, and waiting for all of them, with one deadline."""

import asyncio
from collections.abc import Iterable

from cluster.ids import NodeId
from kvnode.ports import Clock
from kvnode.rpc.connection import Outcome, settle
from kvnode.rpc.operations import Fields, Op
from kvnode.rpc.transport import Transport


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
