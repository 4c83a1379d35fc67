"""Deciding about late copies: their document's owners are asked whether they know it.

Rules
-----
1. When an owner knows the document, the copy is joined with what that owner has: it was never
   purged, or it is known to be deleted. Only the join of both is stored: when it is below the purge
   floor here, that is nothing, where the copy alone would be a document that came back.
2. Only when every other owner says that it has nothing, and may say so, the copy is an orphan.
3. As long as one owner can't answer, nothing is decided, and the copy is asked about again. So it
   is when an operator has spoken of a region meanwhile: whose answers count may be others now.
"""

from collections.abc import Sequence
from functools import reduce
from typing import Final

from kvnode.codec import decode, encode
from kvnode.errors import StoreError
from kvnode.log import Log
from kvnode.quarantine import State, Suspect
from kvnode.record import merge
from kvnode.replica import Replica
from kvnode.rpc.connection import Lost, Outcome
from kvnode.rpc.operations import FetchResult
from kvnode.services.asking import CoOwners, is_absent
from kvnode.services.loop import Work

_UNIT: Final = 64


class Inquiry:
    """A service (``kvnode.services.loop``)."""

    name = "inquiry"

    def __init__(
        self,
        replica: Replica,
        owners: CoOwners,
        *,
        interval_s: float,
        log: Log,
    ) -> None:
        self.interval_s = interval_s
        self._replica = replica
        self._owners = owners
        self._log = log
        self._after = b""

    async def run_once(self) -> Work:
        """Ask about some of the copies in quarantine."""
        if not self._replica.quarantine.counts[State.ASKED]:
            return Work.IDLE
        suspects = self._replica.quarantine.suspects(self._after, _UNIT)
        self._after = suspects[-1].document_id if len(suspects) == _UNIT else b""
        asked = [suspect for suspect in suspects if suspect.state is State.ASKED]
        answers = [self._owners.fetch(suspect.document_id) for suspect in asked]
        orphans_before = self._replica.quarantine.counts[State.ORPHAN]
        spoken = self._replica.standing.changes
        floors = [self._replica.floor_of(suspect.document_id) for suspect in asked]
        for suspect, outcomes, floor in zip(asked, answers, floors, strict=True):
            told = [await outcome for outcome in outcomes.values()]
            purged = self._replica.floor_of(suspect.document_id) != floor
            if self._replica.standing.changes == spoken and not purged:
                self._decide(suspect, told)
        await self._replica.durable()
        if orphans := self._replica.quarantine.counts[State.ORPHAN] - orphans_before:
            self._log.warning("orphan.quarantined", orphans=orphans)
        return Work.BUSY if self._after else Work.IDLE

    def _decide(self, suspect: Suspect, outcomes: Sequence[Outcome]) -> None:
        answers = [outcome for outcome in outcomes if not isinstance(outcome, Lost)]
        known = [answer[1] for answer in answers if answer[0] == FetchResult.FOUND]
        try:
            if known:
                copies = [decode(suspect.document_id, one) for one in (suspect.encoded, *known)]
                joined = encode(suspect.document_id, reduce(merge, copies))
                self._replica.join(suspect.document_id, joined, vouched=True)
        except StoreError:
            return  # damaged, or fenced meanwhile: asked again
        if known:
            self._replica.quarantine.release(suspect)
        elif outcomes and all(map(is_absent, outcomes)):
            self._replica.quarantine.condemn(suspect)
