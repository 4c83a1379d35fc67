"""What a node does with a request from another region, or about one; see ``kvnode.handlers``."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from cluster.ids import NodeId
from kvnode.batching import RECORDS_MAX, pairs_of, unpack
from kvnode.coordinator import Coordinator
from kvnode.errors import StoreError
from kvnode.partings import Partings
from kvnode.results import Stored
from kvnode.rpc.connection import Answers
from kvnode.rpc.operations import Fields
from kvnode.services.levelling import Levelling
from kvnode.watermarks import Watermarks

#: Fields of an answer, and about how large they are.
_Answer = tuple[Fields, int]


class Known(msgspec.Struct):
    """What one node knows of regions."""

    levelling: Levelling
    watermarks: Watermarks
    partings: Partings
    #: Of this start of the node.
    boot_id: bytes


class RegionHandlers:
    """See ``kvnode.services.shipping`` and ``settling``, which ask.

    Args:
        start: Has a request answered when an operation has ended.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        known: Known,
        start: Callable[[Answers, int, Coroutine[Any, Any, _Answer]], None],
    ) -> None:
        self._coordinator = coordinator
        self._known = known
        self._start = start

    def ship(self, connection: Answers, request_id: int, timeout_s: float, fields: Fields) -> None:
        """Answered when every record is on a majority of its owners here."""
        codec, batch = fields
        pairs = pairs_of(unpack(codec, batch), RECORDS_MAX)
        deadline_s = self._coordinator.clock.monotonic_s() + timeout_s
        self._start(connection, request_id, self._take_in(pairs, deadline_s))

    async def _take_in(self, pairs: list[tuple[bytes, bytes]], deadline_s: float) -> _Answer:
        """Store a batch; its first failure is that of the whole, once all have ended."""
        writes: list[asyncio.Future[Stored]] = []
        failures: list[StoreError] = []
        for document_id, encoded in pairs:
            try:
                writes.append(self._coordinator.take_in(document_id, encoded, deadline_s))
            except StoreError as error:
                failures.append(error)
        for write in writes:
            try:
                await write
            except StoreError as error:
                failures.append(error)
        if failures:
            raise failures[0]
        return [], 0

    def watermark(self, connection: Answers, request_id: int, _: float, fields: Fields) -> None:
        """A node of another region has told how far its writes are here."""
        peer, watermark_ms = fields
        if not isinstance(watermark_ms, int):
            raise TypeError("not a time")
        self._known.watermarks.take(NodeId(peer), watermark_ms)
        connection.reply(request_id, [self._coordinator.clock.wall_ms()], 9)

    def standing(self, connection: Answers, request_id: int, _: float, fields: Fields) -> None:
        """A node has told what operators have said of regions."""
        peer, rows = fields
        self._known.partings.heard(NodeId(peer), rows)
        connection.reply(request_id, [], 0)

    def level(self, connection: Answers, request_id: int, _: float, fields: Fields) -> None:
        """A node of this region owes another one comparisons that this node has to make."""
        region, rows = fields
        answer = [self._known.boot_id, *self._known.levelling.answer(region, rows)]
        connection.reply(request_id, answer, 2 * len(rows))
