"""Anti-entropy: each node compares each of its partitions with each co-owner, round after round.

Rules
-----
1. A round compares all partitions shared with one peer, some at a time, and then rests for the
   interval. It is complete when no difference was left; its time is that of its beginning.
2. A peer that is down, or lost on the way, is tried again after a pause that doubles.
3. Fenced partitions come first (``kvnode.services.rebuild``).
4. A partition that lost hints (``kvnode.hints``) is compared with their target before its turn; so
   is one that another region is owed (``kvnode.services.levelling``), or that is being moved
   (``kvnode.services.moving``).
5. Co-owners in other regions are peers as well; they are compared with less often.

Source: DeCandia et al., "Dynamo", SOSP 2007, section 4.7.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from cluster.ids import NodeId
from cluster.layout import Rings
from kvnode.hints import Debt
from kvnode.jobs import Job, Jobs, JobState
from kvnode.log import Log
from kvnode.merging import Merges
from kvnode.ports import Clock, Entropy
from kvnode.replica import Replica
from kvnode.services.asking import Asker
from kvnode.services.budget import Budget
from kvnode.services.exchange import Exchange, Outcomes, PeerLost
from kvnode.services.levelling import Levelling
from kvnode.services.loop import Work
from kvnode.services.moving import Moving
from kvnode.services.rebuild import Rebuild

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
    interval_s: float
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
        rings: Rings,
        node: NodeId,
        *,
        rebuild: Rebuild,
        levelling: Levelling,
        moving: Moving,
        asker: Asker,
        merges: Merges,
        round_interval_s: float,
        region_interval_s: float,
        budget: Budget,
        is_up: Callable[[NodeId], bool],
        jobs: Jobs,
        clock: Clock,
        entropy: Entropy,
        log: Log,
    ) -> None:
        self._replica = replica
        self._rings = rings
        self._node = node
        self._rebuild = rebuild
        self._levelling = levelling
        self._moving = moving
        self._asker = asker
        self._merges = merges
        self._round_interval_s = round_interval_s
        self._region_interval_s = region_interval_s
        self._budget = budget
        self._is_up = is_up
        self._jobs = jobs
        self._clock = clock
        self._log = log
        # Not all at once after a restart of the whole cluster.
        self._first_share = entropy.uniform(0.0, 1.0)
        self.rounds: dict[NodeId, Round] = {}
        self.totals = Outcomes()
        #: The repair that an operator asked for last, and the peers it has yet to finish with.
        self._repair: Job | None = None
        self._repairing: dict[NodeId, None] = {}
        self._before_repair = Outcomes()
        self.review()

    def review(self) -> None:
        """Owners have changed: rounds that are under way go on with what is still shared."""
        shared: dict[NodeId, list[int]] = {peer: [] for peer in self._moving.peers}
        for partition in self._rings.partitions_of(self._node):
            for peer in self._rings.owners(partition):
                if peer != self._node:
                    shared.setdefault(peer, []).append(partition)
        now_s = self._clock.monotonic_s()
        rounds = {}
        for peer, partitions in sorted(shared.items()):
            interval_s = self._interval_s(peer)
            first_s = now_s + self._first_share * interval_s
            before = self.rounds.get(peer)
            round_ = before or Round((), interval_s, first_s, deque(), {})
            round_.shared = tuple(partitions)
            kept = frozenset(partitions)
            round_.left = deque(one for one in round_.left if one in kept)
            rounds[peer] = round_
        self.rounds = rounds
        for peer in [one for one in self._repairing if one not in rounds]:
            del self._repairing[peer]

    def _interval_s(self, peer: NodeId) -> float:
        region_of = self._rings.region_of
        same = region_of[peer] == region_of[self._node]
        return self._round_interval_s if same else self._region_interval_s

    def repair_now(self) -> Job:
        """Begin a round with every peer as soon as there is time for it.

        A repair that is under way begins again, for what was written since counts too.
        """
        now_s = self._clock.monotonic_s()
        for peer in self._counted():
            round_ = self.rounds[peer]
            round_.left.clear()
            round_.due_s = round_.retry_s = now_s
            self._repairing[peer] = None
        if self._repair is None or self._repair.state is not JobState.RUNNING:
            total = sum(len(self.rounds[peer].shared) for peer in self._repairing)
            self._repair = self._jobs.begin("repair", total, self._repairing.clear)
            self._before_repair = msgspec.structs.replace(self.totals)
        self._report_repair(self._repair)
        return self._repair

    def _counted(self) -> list[NodeId]:
        """The peers that partitions are shared with and whose region is not gone."""
        region_of, is_gone = self._rings.region_of, self._replica.standing.is_gone
        return [
            peer
            for peer, round_ in self.rounds.items()
            if round_.shared and not is_gone(region_of[peer])
        ]

    def _report_repair(self, job: Job) -> None:
        counted = self._counted()
        for peer in [one for one in self._repairing if one not in counted]:
            del self._repairing[peer]
        left = sum(
            len(self.rounds[peer].left) or len(self.rounds[peer].shared) for peer in self._repairing
        )
        job.done = job.total - left
        job.detail = {
            "peers": list(self._repairing),
            "pushed": self.totals.pushed - self._before_repair.pushed,
            "pulled": self.totals.pulled - self._before_repair.pulled,
        }
        if not self._repairing and job.state is JobState.RUNNING:
            self._jobs.end(job)

    async def run_once(self) -> Work:
        """Compare some partitions with one peer."""
        now_s = self._clock.monotonic_s()
        if not self._budget.allowed_bytes(self.name, now_s):
            return Work.THROTTLED
        for peer, round_ in list(self.rounds.items()):
            if not self._is_up(peer) or now_s < round_.retry_s:
                continue
            fenced = self._rebuild.next_from(peer, round_.shared, _UNIT_PARTITIONS, now_s)
            owed = [debt for debt in self._replica.hints.owed() if self._can_repay(debt, peer)]
            wanted = self._levelling.wanted(peer, _UNIT_PARTITIONS)
            wanted = wanted or self._moving.wanted(peer, _UNIT_PARTITIONS)
            if fenced:
                exchange = await self._compare(peer, round_, fenced)
                self._rebuild.put_back(peer, exchange.unfinished)
            elif owed:
                await self._repay(peer, round_, owed[:_UNIT_PARTITIONS])
            elif wanted:
                await self._compare_early(peer, round_, wanted)
            elif round_.left or (round_.shared and round_.due_s <= now_s):
                await self._go_on(peer, round_)
            else:
                continue
            if self._repair is not None:
                self._report_repair(self._repair)
            # The others have their turn first when this one is called again.
            if peer in self.rounds:
                self.rounds[peer] = self.rounds.pop(peer)
            return Work.BUSY
        return Work.IDLE

    def _can_repay(self, debt: Debt, peer: NodeId) -> bool:
        return debt.target == peer and debt.partition in self.rounds[peer].shared

    async def _repay(self, peer: NodeId, round_: Round, debts: Sequence[Debt]) -> None:
        """Compare what hints were lost of, before its turn; see rule 4."""
        complete = await self._compare_early(peer, round_, [debt.partition for debt in debts])
        for debt in debts:
            if debt.partition in complete:
                self._replica.hint_store.repaid(debt)

    async def _compare_early(
        self, peer: NodeId, round_: Round, partitions: Sequence[int]
    ) -> list[int]:
        """Compare some partitions before their turn; which are level now."""
        exchange = await self._compare(peer, round_, partitions)
        if not exchange.complete:  # it is fenced itself, say, and has nothing to compare
            pause_s = self._clock.monotonic_s() + _BACKOFF_MIN_S
            round_.retry_s = max(round_.retry_s, pause_s)
        return exchange.complete

    async def _go_on(self, peer: NodeId, round_: Round) -> None:
        if not round_.left:
            round_.left.extend(round_.shared)
            round_.tries.clear()
            round_.started_ms = self._clock.wall_ms()
        unit = [round_.left.popleft() for _ in range(min(_UNIT_PARTITIONS, len(round_.left)))]
        exchange = await self._compare(peer, round_, unit)
        if round_.retry_s > self._clock.monotonic_s():
            return  # it was lost
        round_.left.extendleft(reversed(exchange.unfinished))
        for partition in unit:
            if partition not in exchange.complete and partition not in exchange.unfinished:
                round_.tries[partition] = tries = round_.tries.get(partition, 0) + 1
                if tries < _TRIES:
                    round_.left.append(partition)
        if not round_.left:
            self._repairing.pop(peer, None)
            round_.due_s = self._clock.monotonic_s() + round_.interval_s
            if all(tries < _TRIES for tries in round_.tries.values()):
                round_.complete_ms = round_.started_ms

    async def _compare(self, peer: NodeId, round_: Round, partitions: Sequence[int]) -> Exchange:
        """Compare some partitions; when the peer is lost, leave it alone for a while."""
        exchange = Exchange(
            self._replica,
            self._asker,
            self._merges,
            self._clock,
            peer,
            lambda size_bytes: self._budget.spend(self.name, size_bytes),
            lambda: self._budget.allowed_bytes(self.name, self._clock.monotonic_s()),
        )
        number, begun = self._levelling.begins(), self._rebuild.begun
        epoch = self._moving.epoch
        try:
            first_expiring = self._replica.lifecycle.first_compared_expiring()
            await exchange.run(partitions, first_expiring)
            round_.backoff_s = _BACKOFF_MIN_S
        except PeerLost as lost:
            round_.left.clear()
            round_.retry_s = round_.due_s = self._clock.monotonic_s() + round_.backoff_s
            round_.backoff_s = min(_BACKOFF_MAX_S, 2 * round_.backoff_s)
            self._log.info("antientropy.postponed", peer=peer, reason=str(lost))
        self._add(peer, exchange.outcomes)
        self._levelling.ended(peer, number, exchange.complete)
        self._moving.ended(peer, epoch, exchange.complete)
        if self._rebuild.begun != begun:
            return exchange
        for partition in exchange.fenced_there:
            self._rebuild.asked(partition, peer, compared=False)
        for partition in exchange.complete:
            self._rebuild.asked(partition, peer, compared=True)
        return exchange

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
