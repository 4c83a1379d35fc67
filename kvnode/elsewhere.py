"""Asking the other regions before a miss is told as absence.

Rules
-----
1. A document that another region may have created, and whose create may not be here yet, is not
   absent because nobody here has it. The time in its id tells: by a region's watermark
   (``kvnode.watermarks``) everything is here that was coordinated there before.
2. An id is minted before its create is coordinated: by at most a request's time, on a clock that is
   wrong by at most what the cluster allows for. Both are taken off the watermark.
3. Each region that is in question is asked, all at once. One that can't be asked makes the answer
   "unavailable": repeating it will help.
4. An id from an idempotency key has no time, and nobody else is asked. Whoever creates under a key
   and reads in another region must bring a session token, or wait for the watermark: what a token
   shows and nobody here has is asked for elsewhere.
"""

import asyncio
from collections.abc import Sequence

from cluster.ids import NodeId
from cluster.layout import Rings
from kvnode.codec import decode
from kvnode.errors import ReadTimeout, Unavailable
from kvnode.ports import Clock
from kvnode.results import Fetched
from kvnode.rpc.connection import Lost, Outcome, settle
from kvnode.rpc.operations import Op
from kvnode.rpc.transport import Transport
from kvnode.watermarks import Watermarks

_TIME_ORDERED = 7


class Elsewhere:
    """See the module's rules.

    Args:
        slack_ms: Rule 2.
    """

    def __init__(
        self,
        rings: Rings,
        node: NodeId,
        watermarks: Watermarks,
        transport: Transport,
        clock: Clock,
        slack_ms: int,
    ) -> None:
        self.regions = rings.other_regions(node)
        self._nodes = {region: rings.nodes_of(region) for region in self.regions}
        self._watermarks = watermarks
        self._transport = transport
        self._clock = clock
        self._slack_ms = slack_ms
        #: Misses that other regions were asked about, and documents found so.
        self.asked_count = 0
        self.found_count = 0

    def in_question(self, document_id: bytes) -> list[str]:
        """The regions that may have created a document which is not here yet."""
        if document_id[6] >> 4 != _TIME_ORDERED:
            return []
        coordinated_ms = int.from_bytes(document_id[:6], "big") + self._slack_ms
        return [region for region in self._nodes if self._watermarks.of(region) <= coordinated_ms]

    async def read(
        self, regions: Sequence[str], document_id: bytes, required: int, deadline_s: float
    ) -> Fetched | None:
        """What the first of them has that has anything; None: none of them has.

        Raises:
            Unavailable, ReadTimeout: one of them can't be asked, or does not answer, and no other
                has it.
        """
        self.asked_count += 1
        asked = [self._ask(region, document_id, required, deadline_s) for region in regions]
        lost: tuple[str, Lost] | None = None
        found: Fetched | None = None
        for region, future in zip(regions, asked, strict=True):
            answer = await future
            if isinstance(answer, Lost):
                lost = lost or (region, answer)
            elif found is None and answer[0] is not None:
                found = Fetched(decode(document_id, answer[0]), *answer[1:])
        if found is not None:
            self.found_count += 1
        elif lost is not None:
            region, why = lost
            kind = ReadTimeout if why.code in ("timeout", ReadTimeout.code) else Unavailable
            raise kind(f"region {region} may have it and can't be asked: {why.detail}")
        return found

    def _ask(
        self, region: str, document_id: bytes, required: int, deadline_s: float
    ) -> "asyncio.Future[Outcome]":
        nodes = self._nodes[region]
        node = next(filter(self._transport.connected, nodes), nodes[0])
        outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        fields = [document_id, required, False, None]
        self._transport.request(node, Op.READ_HERE, deadline_s, fields, 64, settle(outcome))
        return outcome
