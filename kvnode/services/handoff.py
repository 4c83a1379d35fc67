"""Hinted handoff: what a node missed is delivered when it is back.

Rules
-----
1. A hint is deleted only after its target has acknowledged it as durable, and only if it is still
   the hint that was sent. A copy that the target has put into quarantine is durable there as well.
2. Targets don't wait for each other: each has its own batch under way, and all share the budget.
3. Hints are taken in rounds: the next batch begins behind the last one, so hints that a target
   refuses hold up no others. A batch of which nothing arrived makes the target be left alone for
   a while, doubling until something does.
4. A hint whose bytes are damaged here is dropped and counted. So is one whose window has passed,
   once an owner has its document (``kvnode.services.overdue``). Targets that are down get a round
   for this when the oldest of their hints is that old. A hint whose target is no owner any more is
   delivered to one that is, and when owners have changed all are looked through for such hints.

Source: DeCandia et al., "Dynamo", SOSP 2007, section 4.6.
"""

import asyncio
from collections.abc import Callable
from math import inf
from typing import Final

import msgspec

from cluster.ids import DocumentId, NodeId
from cluster.preference import Target
from kvnode.codec import verify
from kvnode.errors import CorruptRecord, LateCopy
from kvnode.hints import Loss, decode_hint
from kvnode.log import Log
from kvnode.merging import Awaited, Merges
from kvnode.ports import Clock
from kvnode.replica import Replica
from kvnode.rpc.connection import Lost
from kvnode.services.budget import Budget
from kvnode.services.loop import Work
from kvnode.services.overdue import Hint, Overdue

BATCH_HINTS: Final = 128
DELIVERY_TIMEOUT_S: Final = 5.0
BACKOFF_MIN_S: Final = 0.5
BACKOFF_MAX_S: Final = 60.0


class _Lane(msgspec.Struct):
    """How the delivery to one target goes."""

    #: The next batch begins behind this id; empty between two rounds.
    after: bytes = b""
    wait_s: float = 0.0
    left_alone_until_s: float = -inf
    under_way: asyncio.Task[None] | None = None
    #: Owners may have changed since the last round began, or a hint had nowhere to go.
    review: bool = True
    #: Hints whose window has passed and whose documents another owner must have first.
    overdue: list[Hint] = []


class _Delivery(Awaited):
    """One hint on its way."""

    def __init__(self, document_id: DocumentId, value: bytes) -> None:
        super().__init__()
        self.document_id = document_id
        self.value = value


class Handoff:
    """A service (``kvnode.services.loop``)."""

    name = "handoff"

    def __init__(
        self,
        replica: Replica,
        merges: Merges,
        overdue: Overdue,
        *,
        interval_s: float,
        budget: Budget,
        is_up: Callable[[NodeId], bool],
        clock: Clock,
        log: Log,
    ) -> None:
        self.interval_s = interval_s
        self._replica = replica
        self._hints = replica.hint_store
        self._overdue = overdue
        self._merges = merges
        self._budget = budget
        self._is_up = is_up
        self._clock = clock
        self._log = log
        self._lanes: dict[NodeId, _Lane] = {}
        #: Who is served first: the one behind the one that was served last.
        self._served: NodeId | None = None
        self._give_up_s = inf

    def peer_returned(self, node: NodeId) -> None:
        """A peer connected: what made it fail before is likely over."""
        lane = self._lanes.get(node)
        if lane is not None:
            lane.wait_s, lane.left_alone_until_s = 0.0, -inf

    def review(self) -> None:
        """Owners have changed: a target may be none of some hints' documents any more."""
        for lane in self._lanes.values():
            lane.review = True

    def left_alone_s(self, target: NodeId) -> float:
        """For how long nothing will be sent to a target that has failed; 0 when it has not."""
        lane = self._lanes.get(target)
        return max(0.0, lane.left_alone_until_s - self._clock.monotonic_s()) if lane else 0.0

    async def run_once(self) -> Work:
        """Give each target that can take one a batch, then wait for the first to be through."""
        work = self._begin_batches()
        under_way = {
            target: lane.under_way for target, lane in self._lanes.items() if lane.under_way
        }
        if not under_way:
            return work
        await asyncio.wait(
            under_way.values(), timeout=self.interval_s, return_when=asyncio.FIRST_COMPLETED
        )
        for target, task in under_way.items():
            if task.done():
                self._lanes[target].under_way = None
                task.result()  # a bug in it ends the node
        return Work.BUSY

    async def hand_on(self, within_s: float) -> None:
        """This node leaves: deliver what can be delivered by then; the rest stays on its disk."""
        self._give_up_s = self._clock.monotonic_s() + within_s
        while self._clock.monotonic_s() < self._give_up_s:
            work = await self.run_once()
            if work is Work.IDLE:
                return
            if work is Work.THROTTLED:
                await asyncio.sleep(self.interval_s / 10)
        under_way = [lane.under_way for lane in self._lanes.values() if lane.under_way]
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)

    # One batch ----------------------------------------------------------------------------------

    def _begin_batches(self) -> Work:
        work = Work.IDLE
        left_bytes = self._budget.allowed_bytes(self.name, self._clock.monotonic_s())
        ready = [target for target in self._in_turn() if self._ready(target)]
        for number, target in enumerate(ready):
            lane = self._lanes[target]
            sends = self._may_send(target)
            if sends and left_bytes <= 0:
                work = Work.THROTTLED if work is Work.IDLE else work
                continue
            share_bytes = max(1, left_bytes // (len(ready) - number)) if sends else 0
            batch = self._next_batch(target, share_bytes)
            work = Work.BUSY if batch or lane.after else work
            overdue, lane.overdue = lane.overdue, []
            if (sends and batch) or overdue:
                batch = batch if sends else []
                size_bytes = sum(len(value) for _, value in [*batch, *overdue])
                self._budget.spend(self.name, size_bytes)
                left_bytes -= size_bytes
                self._served = target
                lane.under_way = asyncio.get_running_loop().create_task(
                    self._work(target, batch, overdue), name=f"handoff to {target}"
                )
        return work

    def _in_turn(self) -> list[NodeId]:
        targets = [target for target, _ in self._hints.book.targets()]
        for target in targets:
            self._lanes.setdefault(target, _Lane())
        behind = targets.index(self._served) + 1 if self._served in targets else 0
        return targets[behind:] + targets[:behind]

    def _may_send(self, target: NodeId) -> bool:
        alone_until_s = self._lanes[target].left_alone_until_s
        return self._clock.monotonic_s() >= alone_until_s and self._is_up(target)

    def _ready(self, target: NodeId) -> bool:
        """Whether a batch can be sent, or must at least be looked at for rule 4."""
        lane = self._lanes[target]
        if lane.under_way is not None:
            return False
        if self._may_send(target):
            return True
        if lane.review or not self._overdue.is_member(target):
            return self._clock.monotonic_s() >= lane.left_alone_until_s
        # A round that its target's death has cut short is ended: all ages must be known.
        cut_short = bool(lane.after) and not self._is_up(target)
        return cut_short or self._hints.book.round_due(target, self._clock.wall_ms())

    def _next_batch(self, target: NodeId, share_bytes: int) -> list[Hint]:
        """The next hints of the target's round, without those that rule 4 drops.

        Args:
            share_bytes: Where to cut the batch, behind its first hint; 0 when it is not sent.
        """
        lane, book, now_ms = self._lanes[target], self._hints.book, self._clock.wall_ms()
        if not lane.after:
            lane.review = False
            book.round_begins(target, now_ms)
        batch: list[Hint] = []
        batch_bytes = 0
        dropped: dict[Loss, int] = {}
        found = self._hints.behind(target, lane.after, BATCH_HINTS)
        for document_id, value in found:
            if share_bytes and batch_bytes >= share_bytes:
                break
            lane.after = document_id
            loss = self._loss(document_id, value, now_ms)
            if loss is None and self._overdue.is_moved(target, document_id):
                if self._overdue.is_here((document_id, value)):
                    self._hints.release(target, document_id, value, "delivered")
                else:
                    book.seen(target, decode_hint(value)[0])
                    lane.overdue.append((document_id, value))
            elif loss == "expired" and not self._overdue.is_here((document_id, value)):
                book.put_off(target, now_ms)
                lane.overdue.append((document_id, value))
            elif loss is None:
                book.seen(target, decode_hint(value)[0])
                batch.append((document_id, value))
                batch_bytes += len(value)
            elif self._hints.release(target, document_id, value, loss):
                dropped[loss] = dropped.get(loss, 0) + 1
        else:
            if len(found) < BATCH_HINTS:
                lane.after = b""
        for reason, count in dropped.items():
            self._log.warning("hint.dropped", reason=reason, target=target, hints=count)
        return batch

    def _loss(self, document_id: DocumentId, value: bytes, now_ms: int) -> Loss | None:
        held_at_ms, record = decode_hint(value)
        if self._hints.book.expired(held_at_ms, now_ms):
            return "expired"
        try:
            # Here, for the target's "corrupt record" may as well mean the copy that it has itself.
            verify(document_id, record)
        except CorruptRecord:
            return "corrupt"
        return None

    async def _work(self, target: NodeId, batch: list[Hint], overdue: list[Hint]) -> None:
        if batch:
            await self._deliver(target, batch)
        if overdue:
            deadline_s = min(self._clock.monotonic_s() + DELIVERY_TIMEOUT_S, self._give_up_s)
            lane = self._lanes[target]
            moved = any(self._overdue.is_moved(target, one) for one, _ in overdue)
            if await self._overdue.entrust(target, overdue, deadline_s):
                lane.wait_s = 0.0
            elif moved:
                lane.review = True
                self._leave_alone(lane)

    async def _deliver(self, target: NodeId, batch: list[Hint]) -> None:
        """Send a batch; release what was acknowledged."""
        deadline_s = min(self._clock.monotonic_s() + DELIVERY_TIMEOUT_S, self._give_up_s)
        sent = [_Delivery(document_id, value) for document_id, value in batch]
        for delivery in sent:
            _, record = decode_hint(delivery.value)
            self._merges.send(
                Target(target), delivery.document_id, record, deadline_s, delivery, patient=True
            )
        lost: Lost | None = None
        delivered_count = 0
        for delivery in sent:
            held = await delivery.outcome
            if isinstance(held, Lost) and held.code != LateCopy.code:
                lost = held
            else:
                self._hints.release(target, delivery.document_id, delivery.value, "delivered")
                delivered_count += 1
        await self._replica.durable()
        lane = self._lanes[target]
        if delivered_count:
            self._log.info("hint.delivered", target=target, hints=delivered_count)
            lane.wait_s = 0.0
        elif lost is not None:
            self._leave_alone(lane)
            self._log.info("handoff.postponed", target=target, reason=lost.code, wait_s=lane.wait_s)

    def _leave_alone(self, lane: _Lane) -> None:
        lane.wait_s = min(BACKOFF_MAX_S, max(BACKOFF_MIN_S, lane.wait_s * 2))
        lane.left_alone_until_s = self._clock.monotonic_s() + lane.wait_s
