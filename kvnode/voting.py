"""Which of two bodies under one idempotency key becomes the document: write-once votes.

Asked for only by keyed creates with W above half of N (the strong mode). The lattice alone would
choose the earlier of two creates, and a body that one replica took, and nobody acknowledged, could
then displace an acknowledged one. So no body is stored before it has won.

Rules
-----
1. A replica votes for the first body that it is asked about, durably, and never changes its vote.
2. Only primaries vote. A majority of the N primaries elects.
3. When all N have voted and none has a majority, the votes, which can't change any more, elect by
   a fixed rule: most votes, then the smaller fingerprint. Everybody who sees them all agrees.
   Not while the partition is moved: one who votes then was not asked before.
4. Otherwise the election is open: "unavailable", nothing stored, and the same request may be
   repeated.

At most one body is ever elected per key, so at most one is stored.

Source: the acceptor's promise of Lamport, "Paxos Made Simple" (2001), with one ballot only: a key's
body, unlike a register, is chosen once.
"""

import asyncio
from collections import Counter
from enum import Enum, auto
from typing import TYPE_CHECKING

from cluster.ids import partition_of
from cluster.ring import Ring
from kvnode.codec import decode
from kvnode.errors import CorruptRecord, KeyReused, StoreError, Unavailable
from kvnode.record import Record
from kvnode.rpc.connection import Lost, Outcome
from kvnode.rpc.operations import Op

if TYPE_CHECKING:
    from kvnode.coordinator import Coordinator


class Claim(Enum):
    """How a body stands."""

    OPEN = auto()
    WON = auto()
    LOST = auto()


def judge(fingerprint: bytes, votes: list[bytes], voters: int, *, moving: bool = False) -> Claim:
    """How ``fingerprint`` stands, by the votes known so far of ``voters`` replicas."""
    counts = Counter(votes)
    majority = voters // 2 + 1
    for candidate, count in counts.items():
        if count >= majority:
            return Claim.WON if candidate == fingerprint else Claim.LOST
    if len(votes) < voters or moving:
        return Claim.OPEN
    elected = min(counts, key=lambda candidate: (-counts[candidate], candidate))
    return Claim.WON if elected == fingerprint else Claim.LOST


class Election:
    """One coordinator's round of votes.

    ``answer`` becomes None (this body won) or the record that a replica holds already, or raises
    KeyReused or Unavailable.
    """

    def __init__(
        self,
        coordinator: "Coordinator",
        document_id: bytes,
        fingerprint: bytes,
        ring: Ring,
        deadline_s: float,
    ) -> None:
        partition = partition_of(document_id, ring.partitions)
        self._coordinator = coordinator
        self._document_id = document_id
        self._fingerprint = fingerprint
        self._voters = ring.voters(partition)
        self._moving = partition in ring.moves
        self._votes: list[bytes] = []
        self._open_count = len(self._voters)
        #: See ``kvnode.sweep.Expiring``.
        self.deadline_s = deadline_s
        self._sweep_number = coordinator.sweep.add(self)
        self.answer: asyncio.Future[Record | None] = coordinator.loop.create_future()

    def start(self) -> None:
        """Ask every primary that counts for its vote, this node included."""
        for node in self._voters:
            if node == self._coordinator.node:
                try:
                    self._coordinator.replica.vote(
                        self._document_id, self._fingerprint, self._on_vote
                    )
                except StoreError as error:
                    lost = Lost(error.code, str(error), sent=False)
                    self._coordinator.loop.call_soon(self._on_outcome, lost)
            else:
                fields = [self._document_id, self._fingerprint]
                self._coordinator.request(
                    node, Op.VOTE, self.deadline_s, fields, 0, self._on_outcome
                )

    def expire(self) -> None:
        """The deadline has passed (see ``kvnode.sweep``)."""
        self._undecided("no answer in time")

    def _on_outcome(self, outcome: Outcome) -> None:
        if isinstance(outcome, Lost):
            self._open_count -= 1
            self._progress()
        else:
            self._on_vote(outcome[0], outcome[1])

    def _on_vote(self, voted: bytes, held: bytes | None) -> None:
        self._open_count -= 1
        self._votes.append(voted)
        if held is not None and not self.answer.done():
            try:
                self.answer.set_result(decode(self._document_id, held))
            except CorruptRecord:
                self._votes.pop()
        self._progress()

    def _progress(self) -> None:
        if not self.answer.done():
            voters = len(self._voters)
            claim = judge(self._fingerprint, self._votes, voters, moving=self._moving)
            if claim is Claim.WON:
                self.answer.set_result(None)
            elif claim is Claim.LOST:
                self._coordinator.counts.key_conflicts += 1
                msg = "this key was used with another body"
                self.answer.set_exception(KeyReused(msg))
            elif self._open_count == 0:
                self._undecided("too few replicas could vote")
        if self._open_count == 0:
            self._coordinator.sweep.pop(self._sweep_number)

    def _undecided(self, why: str) -> None:
        if not self.answer.done():
            voters = len(self._voters)
            detail = f"{len(self._votes)} of {voters} replicas voted on this key's body: {why}"
            required = voters // 2 + 1
            self.answer.set_exception(
                Unavailable(detail, acked=len(self._votes), required=required)
            )
