"""Asking the other regions: before a miss is told as absence, and for what a client has seen.

Rules
-----
1. A document that another region may have created, and whose create may not be here yet, is not
   absent because nobody here has it. The time in its id tells: by a region's watermark
   (``kvnode.watermarks``) everything is here that was coordinated there before.
2. An id is minted before its create is coordinated: by at most a request's time, on a clock that is
   wrong by at most what the cluster allows for. Both are taken off the watermark.
3. Each region that is in question is asked, all at once, and the first that has it is enough. If
   none has it, one that can't be asked makes the answer "unavailable": repeating it will help.
4. An id from an idempotency key has no time, and nobody else is asked. Whoever creates under a key
   and reads in another region must bring a session token, or wait for the watermark.
5. What a client has seen and this region has not is asked for in the region in which it was seen;
   only if that one has less too, or does not answer, in all others. Less than what was seen is an
   answer only if it is the word of every region; while one can't be asked it is "unavailable".
6. An owner is asked first, which reads its own disk; after one that is silent, the next.
7. A region that an operator has said to be gone is not asked: what only it had is lost. A client
   that has seen it there still gets nothing less (``docservice.documents``).
"""

import asyncio
from collections.abc import Sequence
from copy import copy
from typing import Final, Protocol

import msgspec

from cluster.ids import NodeId, partition_of
from cluster.layout import Rings
from kvnode.codec import decode
from kvnode.errors import ReadTimeout, Unavailable
from kvnode.ports import Clock
from kvnode.record import Sighting, merge, region_tag
from kvnode.results import Fetched
from kvnode.rpc.connection import Lost
from kvnode.rpc.inturn import Peers, ask_in_turn
from kvnode.rpc.operations import Fields, Op
from kvnode.standing import Standing
from kvnode.watermarks import Watermarks

_TIME_ORDERED: Final = 7
_TIMEOUTS: Final = ("timeout", ReadTimeout.code)
#: Of the time that is left, for whoever is asked before others are.
_FIRST_SHARE: Final = 0.6


class ReadHere(Protocol):
    """A read of this region's owners only: ``Coordinator.read_here``, at a request's level."""

    async def __call__(
        self, document_id: bytes, *, deadline_s: float, seen: Sighting | None
    ) -> Fetched:
        """See ``docservice.store.DocumentStore.read``."""


class _Counts(msgspec.Struct):
    """Shared by a node's Elsewhere and what is made of it."""

    asked: int = 0
    found: int = 0


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
        standing: Standing,
        peers: Peers,
        clock: Clock,
        slack_ms: int,
    ) -> None:
        self._standing = standing
        self._tags = {region: region_tag(region) for region in rings.other_regions(node)}
        self._rings = rings
        self._watermarks = watermarks
        self.peers = peers
        self._clock = clock
        self._slack_ms = slack_ms
        self._counts = _Counts()

    @property
    def asked_count(self) -> int:
        """Reads that other regions were asked about."""
        return self._counts.asked

    @property
    def found_count(self) -> int:
        """Documents found so."""
        return self._counts.found

    def through(self, peers: Peers) -> "Elsewhere":
        """The same, reaching other nodes in another way: for a traced request."""
        other = copy(self)
        other.peers = peers
        return other

    @property
    def regions(self) -> list[str]:
        """The other ones; see rule 7."""
        return self._standing.others

    def in_question(self, document_id: bytes) -> list[str]:
        """The regions that may have created a document which is not here yet."""
        if document_id[6] >> 4 != _TIME_ORDERED:
            return []
        coordinated_ms = int.from_bytes(document_id[:6], "big") + self._slack_ms
        return [region for region in self.regions if self._watermarks.of(region) <= coordinated_ms]

    async def read(
        self, regions: Sequence[str], document_id: bytes, required: int, deadline_s: float
    ) -> Fetched | None:
        """What any of them has (rule 3); None: none of them has it.

        Raises:
            Unavailable, ReadTimeout: one of them can't be asked, or does not answer, and no other
                has it.
        """
        self._counts.asked += 1
        found, lost = await self._ask(regions, document_id, None, required, deadline_s)
        if found is not None:
            self._counts.found += 1
        elif lost is not None:
            raise lost
        return found

    async def read_seen(
        self,
        document_id: bytes,
        seen: Sighting,
        read_here: ReadHere,
        required: int,
        deadline_s: float,
    ) -> Fetched:
        """What shows what was seen, from here if it is here, else from wherever it is (rule 5).

        Raises:
            Unavailable, ReadTimeout: some region can't say, and no other has it.
        """
        joined: Fetched | None = None
        lost: Unavailable | None = None
        here_until_s = self._first_until_s(deadline_s)
        try:
            joined = await read_here(document_id, deadline_s=here_until_s, seen=seen)
        except Unavailable as error:
            lost = error
        else:
            if seen.is_in(joined.record):
                return joined
        self._counts.asked += 1
        named = [region for region in self.regions if self._tags[region] == seen.region]
        others = [region for region in self.regions if region not in named]
        rounds = [regions for regions in (named, others) if regions]
        for regions in rounds:
            last = regions is rounds[-1]
            until_s = deadline_s if last else self._first_until_s(deadline_s)
            found, unable = await self._ask(regions, document_id, seen, required, until_s)
            lost = lost or unable
            if found is None:
                continue
            joined = _join(joined, found)
            if seen.is_in(joined.record):
                self._counts.found += 1
                return joined
        if lost is not None:
            raise lost
        assert joined is not None
        return joined

    def _first_until_s(self, deadline_s: float) -> float:
        """Until when to wait for one answer, so that time is left to ask others."""
        now_s = self._clock.monotonic_s()
        return now_s + (deadline_s - now_s) * _FIRST_SHARE

    async def _ask(
        self,
        regions: Sequence[str],
        document_id: bytes,
        seen: Sighting | None,
        required: int,
        deadline_s: float,
    ) -> tuple[Fetched | None, Unavailable | None]:
        """What they have, all asked at once until it is enough, and why one of them can't say."""
        fields = [document_id, required, False, seen.fields if seen is not None else None]
        asked = [
            asyncio.ensure_future(self._ask_one(region, document_id, fields, deadline_s))
            for region in regions
        ]
        found: Fetched | None = None
        lost: Unavailable | None = None
        for earliest in asyncio.as_completed(asked):
            answer = await earliest
            if isinstance(answer, Unavailable):
                lost = lost or answer
            elif answer.record is not None:
                found = _join(found, answer)
                if seen is None or seen.is_in(found.record):
                    break
        for task in asked:
            task.cancel()
        return found, lost

    async def _ask_one(
        self, region: str, document_id: bytes, fields: Fields, deadline_s: float
    ) -> Fetched | Unavailable:
        nodes = self._rings.owners_first(region, partition_of(document_id, self._rings.partitions))
        connected = filter(self.peers.connected, nodes)
        answer = await ask_in_turn(
            self.peers, self._clock, connected, Op.READ_HERE, deadline_s, fields, 64
        )
        outcome = answer.outcome
        if isinstance(outcome, Lost):
            kind = ReadTimeout if outcome.code in _TIMEOUTS else Unavailable
            return kind(f"region {region} may have it and can't be asked: {outcome.detail}")
        encoded, *counts = outcome
        return Fetched(decode(document_id, encoded) if encoded is not None else None, *counts)


def _join(one: Fetched | None, other: Fetched) -> Fetched:
    """What two regions have between them, with the counts of the one that adds to it."""
    if one is None or one.record is None or other.record is None:
        return one if one is not None and other.record is None else other
    joined = merge(one.record, other.record)
    return one if joined is one.record else msgspec.structs.replace(other, record=joined)
