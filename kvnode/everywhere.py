"""Requests that need a quorum of the owners in each region: the level ``each_quorum``.

Rules
-----
1. A write is first an ordinary one in this region, and so in this node's outbox. Then one node of
   each other region writes it there: what is waited for here is shipped anyway, only later, and
   merging is idempotent. So whatever becomes of the rest, no region is left behind.
2. A region of which no node is connected makes a write "unavailable" before anything is stored.
   From then on a region that does not answer leaves the outcome unknown.
3. A read asks for a quorum in each region; the answer is the join. Absent is what every region says
   is absent. A tombstone settles it, whatever the others hold.
4. Under an idempotency key the owners elect the body in each region before it is stored in any, one
   region after the other in the cluster file's order: of two bodies that race, the one that loses
   in the first region takes no vote in the others. So of creates at this level under one key at
   most one body is ever acknowledged, in all regions.
5. Quorums of one region meet: a write at this level is seen by a quorum read in any region, and a
   read at this level sees the quorum writes of every region.
6. Stand-ins never count, and a copy that was put into quarantine does not either.
7. A region that an operator has said to be gone is none of "each".
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from cluster.ids import NodeId, partition_of
from cluster.layout import Rings
from kvnode.codec import decode, encode
from kvnode.errors import ReadTimeout, Unavailable, WriteTimeout
from kvnode.record import Record, merge
from kvnode.results import Fetched, Stored
from kvnode.rpc.connection import Lost
from kvnode.rpc.inturn import Peers, ask_in_turn
from kvnode.rpc.operations import Fields, Op
from kvnode.voting import Election

if TYPE_CHECKING:
    from kvnode.coordinator import Coordinator

_TIMEOUTS = ("timeout", ReadTimeout.code, WriteTimeout.code)


class _Share(msgspec.Struct, frozen=True):
    """One region's part of an answer."""

    region: str
    acked: int
    required: int
    copies: int = 0
    record: Record | None = None
    #: Why it is not enough; None: it is.
    lost: Lost | None = None

    def __str__(self) -> str:
        counts = f"{self.region} {self.acked} of {self.required}"
        return counts if self.lost is None else f"{counts} ({self.lost.detail})"


class Everywhere:
    """See the module's rules; acts for the coordinator of one node."""

    def __init__(self, coordinator: "Coordinator", rings: Rings, peers: Peers) -> None:
        self._coordinator = coordinator
        self._rings = rings
        self._peers = peers
        self._region = rings.region_of[coordinator.node]

    @property
    def _others(self) -> list[str]:
        """Rule 7."""
        return self._coordinator.replica.standing.others

    async def write(
        self, document_id: bytes, write_here: Callable[[], Awaitable[Stored]], deadline_s: float
    ) -> Stored:
        """Rules 1 and 2.

        Raises:
            Unavailable: nothing was written.
            WriteTimeout: some region may lack it yet.
        """
        unreachable = [one for one in self._others if not self._reachable(one, document_id)]
        if unreachable:
            regions = " and ".join(unreachable)
            required = sum(self._quorum(region, document_id) for region in unreachable)
            raise Unavailable(f"no node of region {regions} can be reached", required=required)
        here = await write_here()
        encoded = encode(document_id, here.record)
        fields, size_bytes = [document_id, encoded], len(encoded)
        own = _Share(self._region, here.acked, here.required, here.copies, here.record)
        others = await self._ask_all(Op.WRITE_HERE, document_id, fields, size_bytes, deadline_s)
        shares = [own, *others]
        if any(share.lost for share in others):
            raise WriteTimeout(f"on disk: {_told(shares)}", **_counts(shares))
        joined = here.record
        for share in others:
            assert share.record is not None
            joined = merge(joined, share.record)
        counts = _counts(shares)
        return Stored(joined, counts["acked"], counts["required"], _copies(shares), hints=0)

    async def read(
        self,
        document_id: bytes,
        read_here: Callable[[], Awaitable[Fetched]],
        required: int,
        deadline_s: float,
    ) -> Fetched:
        """Rule 3.

        Raises:
            Unavailable, ReadTimeout: a region can't say.
        """
        fields = [document_id, required, False, None]
        others = asyncio.ensure_future(
            self._ask_all(Op.READ_HERE, document_id, fields, 64, deadline_s)
        )
        shares = [await self._own(document_id, read_here), *await others]
        records = [share.record for share in shares if share.record is not None]
        settled = any(record.tombstone is not None for record in records)
        lost = [share.lost for share in shares if share.lost is not None]
        counts = _counts(shares)
        if lost and not settled:
            kind = ReadTimeout if any(one.code in _TIMEOUTS for one in lost) else Unavailable
            raise kind(f"answered: {_told(shares)}", **counts)
        joined = records[0] if records else None
        for record in records[1:]:
            joined = merge(joined, record) if joined is not None else record
        return Fetched(joined, counts["acked"], counts["required"], _copies(shares))

    async def elect(
        self, document_id: bytes, fingerprint: bytes, deadline_s: float
    ) -> Record | None:
        """Rule 4: None, or a record that a replica holds already.

        Raises:
            KeyReused, Unavailable: as ``kvnode.voting``.
        """
        for region in self._rings.by_region:
            if self._coordinator.replica.standing.is_gone(region):
                continue
            ring = self._rings.by_region[region]
            election = Election(self._coordinator, document_id, fingerprint, ring, deadline_s)
            election.start()
            held = await election.answer
            if held is not None:
                return held
        return None

    # One region ---------------------------------------------------------------------------------

    def _quorum(self, region: str, document_id: bytes) -> int:
        ring = self._rings.by_region[region]
        return len(ring.voters(partition_of(document_id, ring.partitions))) // 2 + 1

    def _reachable(self, region: str, document_id: bytes) -> list[NodeId]:
        """The nodes of a region that are connected, owners first: they need a hop less."""
        partition = partition_of(document_id, self._rings.partitions)
        nodes = self._rings.owners_first(region, partition)
        return [node for node in nodes if self._peers.connected(node)]

    async def _own(self, document_id: bytes, read_here: Callable[[], Awaitable[Fetched]]) -> _Share:
        try:
            here = await read_here()
        except Unavailable as error:
            required = error.required or self._quorum(self._region, document_id)
            lost = Lost(error.code, error.detail, sent=False)
            return _Share(self._region, error.acked, required, lost=lost)
        return _Share(self._region, here.answered, here.required, here.copies, here.record)

    async def _ask_all(
        self, op: Op, document_id: bytes, fields: Fields, size_bytes: int, deadline_s: float
    ) -> list[_Share]:
        """Ask all other regions at once."""
        asked = [
            self._ask(region, op, document_id, fields, size_bytes, deadline_s)
            for region in self._others
        ]
        return await asyncio.gather(*asked)

    async def _ask(
        self,
        region: str,
        op: Op,
        document_id: bytes,
        fields: Fields,
        size_bytes: int,
        deadline_s: float,
    ) -> _Share:
        nodes = self._reachable(region, document_id)
        clock = self._coordinator.clock
        answer = await ask_in_turn(self._peers, clock, nodes, op, deadline_s, fields, size_bytes)
        outcome = answer.outcome
        if isinstance(outcome, Lost):
            acked, required = (*outcome.extra, 0, 0)[:2]
            required = required or self._quorum(region, document_id)
            return _Share(region, acked, required, lost=outcome)
        encoded, acked, required, copies = outcome[:4]
        record = decode(document_id, encoded) if encoded is not None else None
        return _Share(region, acked, required, copies, record)


def _told(shares: Sequence[_Share]) -> str:
    return ", ".join(map(str, shares))


def _counts(shares: Sequence[_Share]) -> dict[str, int]:
    return {
        "acked": sum(share.acked for share in shares),
        "required": sum(share.required for share in shares),
    }


def _copies(shares: Sequence[_Share]) -> int:
    return sum(share.copies for share in shares)
