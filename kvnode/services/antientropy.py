"""Anti-entropy: each node compares each of its partitions with each co-owner, round after round.

Rules
-----
1. A round compares all partitions shared with one peer, some at a time, and then rests for the
   interval. It is complete when no difference was left; its time is that of its beginning.
2. A peer that is down, or lost on the way, is tried again after a pause that doubles.
3. Fenced partitions come first and wait for nothing. A partition is rebuilt once it was compared
   with every co-owner that is up, and at least one; then its fence falls. Co-owners that are fenced
   themselves have nothing to give, and are not waited for: two of them would wait for each other.
4. A partition that lost hints (``kvnode.hints``) is compared with their target before its turn.

Source: DeCandia et al., "Dynamo", SOSP 2007, section 4.7.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from cluster.ids import NodeId, PartitionId
from cluster.ring import Ring
from kvnode.hints import Debt
from kvnode.log import Log
from kvnode.merging import MergeSender
from kvnode.ports import Clock, Entropy
from kvnode.replica import Replica
from kvnode.services.asking import Asker
from kvnode.services.budget import Budget
from kvnode.services.exchange import Exchange, Outcomes, PeerLost
from kvnode.services.loop import Work

#: Partitions of one unit of work.
_UNIT_PARTITIONS: Final = 16
#: How often a partition is looked at again within a round: what was written meanwhile differs.
_TRIES: Final = 3
_BACKOFF_MIN_S: Final = 0.5
_BACKOFF_MAX_S: Final = 60.0
#: How often the service looks for what is due.
_LOOK_S: Final = 0.25


class Round(msgspec.Struct):
    """Comparing with one peer."""

    shared: tuple[int, ...]
    due_s: float
    left: deque[int]
    tries: dict[int, int]
    started_ms: int = 0
    backoff_s: float = _BACKOFF_MIN_S
    #: A peer that was lost is left alone until then.
    retry_s: float = 0.0
    #: Beginning of the last complete round, unix time; 0: there was none.
    complete_ms: int = 0

    @property
    def under_way(self) -> bool:
        """Whether some partitions of this round are still to be compared."""
        return bool(self.left)


class AntiEntropy:
    """A service (``kvnode.services.loop``)."""

    name = "anti-entropy"
    interval_s = _LOOK_S

    def __init__(
        self,
        replica: Replica,
        ring: Ring,
        node: NodeId,
        *,
        asker: Asker,
        merges: MergeSender,
        round_interval_s: float,
        budget: Budget,
        is_up: Callable[[NodeId], bool],
        clock: Clock,
        entropy: Entropy,
        log: Log,
    ) -> None:
        self._replica = replica
        self._ring = ring
        self._node = node
        self._asker = asker
        self._merges = merges
        self._round_interval_s = round_interval_s
        self._budget = budget
        self._is_up = is_up
        self._clock = clock
        self._log = log
        self.rounds = self._plan(entropy)
        self.totals = Outcomes()
        #: Of each fenced partition, its co-owners that have answered since, and whether that was a
        #: comparison, or they were fenced.
        self._rebuilt_from: dict[int, dict[NodeId, bool]] = {}

    def _plan(self, entropy: Entropy) -> dict[NodeId, Round]:
        shared: dict[NodeId, list[int]] = {}
        for partition in self._ring.partitions_of(self._node):
            for peer in self._ring.primaries(partition):
                if peer != self._node:
                    shared.setdefault(peer, []).append(partition)
        # Not all at once after a restart of the whole cluster.
        first_s = self._clock.monotonic_s() + entropy.uniform(0.0, self._round_interval_s)
        return {
            peer: Round(tuple(partitions), first_s, deque(), {})
            for peer, partitions in sorted(shared.items())
        }

    def repair_now(self) -> dict[str, Any]:
        """Begin a round with every peer as soon as there is time for it; what was begun."""
        for round_ in self.rounds.values():
            round_.due_s = self._clock.monotonic_s()
        partitions = sum(len(round_.shared) for round_ in self.rounds.values())
        return {"peers": list(self.rounds), "partitions": partitions}

    def fenced_partitions(self) -> list[PartitionId]:
        """Own partitions that are to be rebuilt."""
        owned = self._ring.partitions_of(self._node)
        return [partition for partition in owned if self._replica.fenced[partition]]

    async def run_once(self) -> Work:
        """Compare some partitions with one peer."""
        now_s = self._clock.monotonic_s()
        if not self._budget.allowed_bytes(self.name, now_s):
            return Work.THROTTLED
        fenced = self.fenced_partitions()
        for peer, round_ in self.rounds.items():
            missing = [one for one in fenced if self._rebuilds_from(one, peer)]
            owed = [debt for debt in self._replica.hints.owed() if self._can_repay(debt, peer)]
            due = missing or owed or round_.left or round_.due_s <= now_s
            if not self._is_up(peer) or now_s < round_.retry_s or not due:
                continue
            if missing:
                await self._hurry(peer, round_, missing[:_UNIT_PARTITIONS])
            elif owed:
                await self._repay(peer, round_, owed[:_UNIT_PARTITIONS])
            else:
                await self._go_on(peer, round_)
            # The others have their turn first when this one is called again.
            self.rounds = {**self.rounds, peer: self.rounds.pop(peer)}
            return Work.BUSY
        return Work.IDLE

    def _rebuilds_from(self, partition: PartitionId, peer: NodeId) -> bool:
        sources = self._rebuilt_from.get(partition, {})
        return peer in self._ring.primaries(partition) and not sources.get(peer)

    def _can_repay(self, debt: Debt, peer: NodeId) -> bool:
        return debt.target == peer and debt.partition in self.rounds[peer].shared

    async def _repay(self, peer: NodeId, round_: Round, debts: Sequence[Debt]) -> None:
        """Compare what hints were lost of, before its turn; see rule 4."""
        complete = await self._hurry(peer, round_, [debt.partition for debt in debts])
        for debt in debts:
            if debt.partition in complete:
                self._replica.hint_store.repaid(debt)

    async def _hurry(self, peer: NodeId, round_: Round, partitions: Sequence[int]) -> list[int]:
        """Compare out of turn: those that are level now. After a pause again, when none could be.

        A peer that is fenced itself has nothing to give, and says so at once.
        """
        complete = await self._compare(peer, round_, partitions)
        if not complete:
            round_.retry_s = max(round_.retry_s, self._clock.monotonic_s() + _BACKOFF_MIN_S)
        return complete or []

    async def _go_on(self, peer: NodeId, round_: Round) -> None:
        if not round_.left:
            round_.left.extend(round_.shared)
            round_.tries.clear()
            round_.started_ms = self._clock.wall_ms()
        unit = [round_.left.popleft() for _ in range(min(_UNIT_PARTITIONS, len(round_.left)))]
        complete = await self._compare(peer, round_, unit)
        if complete is None:
            return
        for partition in unit:
            tries = round_.tries.get(partition, 0) + 1
            if partition not in complete:
                round_.tries[partition] = tries
                if tries < _TRIES:
                    round_.left.append(partition)
        if not round_.left:
            round_.due_s = self._clock.monotonic_s() + self._round_interval_s
            if all(tries < _TRIES for tries in round_.tries.values()):
                round_.complete_ms = round_.started_ms

    async def _compare(
        self, peer: NodeId, round_: Round, partitions: Sequence[int]
    ) -> list[int] | None:
        """The partitions that are level now; None when the peer was lost."""
        exchange = Exchange(
            self._replica,
            self._asker,
            self._merges,
            self._clock,
            peer,
            lambda size_bytes: self._budget.spend(self.name, size_bytes),
        )
        complete: list[int] | None = None
        try:
            first_expiring = self._replica.lifecycle.first_compared_expiring()
            complete = await exchange.run(partitions, first_expiring)
            round_.backoff_s = _BACKOFF_MIN_S
        except PeerLost as lost:
            round_.left.clear()
            round_.retry_s = round_.due_s = self._clock.monotonic_s() + round_.backoff_s
            round_.backoff_s = min(_BACKOFF_MAX_S, 2 * round_.backoff_s)
            self._log.info("antientropy.postponed", peer=peer, reason=str(lost))
        self._add(peer, exchange.outcomes)
        for partition in complete or ():
            self._heard(PartitionId(partition), peer, compared=True)
        for partition in exchange.peer_fenced:
            self._heard(PartitionId(partition), peer, compared=False)
        return complete

    def _add(self, peer: NodeId, outcomes: Outcomes) -> None:
        for field in Outcomes.__struct_fields__:
            setattr(self.totals, field, getattr(self.totals, field) + getattr(outcomes, field))
        if outcomes.pushed or outcomes.pulled or outcomes.quarantined:
            self._log.info(
                "replica.repaired",
                peer=peer,
                pushed=outcomes.pushed,
                pulled=outcomes.pulled,
                quarantined=outcomes.quarantined,
            )

    def _heard(self, partition: PartitionId, peer: NodeId, *, compared: bool) -> None:
        """What a co-owner had to say about a partition that is fenced here; see rule 3."""
        if not self._replica.fenced[partition]:
            return
        sources = self._rebuilt_from.setdefault(partition, {})
        sources[peer] = compared
        if not any(sources.values()):
            return
        others = [one for one in self._ring.primaries(partition) if one != self._node]
        if all(one in sources for one in others if self._is_up(one)):
            del self._rebuilt_from[partition]
            floor = self._replica.lifecycle.floor(partition)
            self._replica.set_floor(partition, msgspec.structs.replace(floor, fenced=False))
            if not self.fenced_partitions():
                self._log.info("node.rebuilt")
