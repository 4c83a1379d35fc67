"""Hinted handoff: what a node missed is delivered when it is back.

Rules
-----
1. A hint is deleted only after its target has acknowledged it as durable, and only if it is still
   the hint that was sent.
2. Delivery stays below a rate, and a target that fails is left alone for a while, doubling.
3. A hint whose window has passed, or whose bytes are damaged here, is dropped and counted.

Source: DeCandia et al., "Dynamo", SOSP 2007, section 4.6.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import msgspec

from cluster.ids import DocumentId, NodeId
from cluster.preference import Target
from kvnode.codec import verify
from kvnode.errors import CorruptRecord
from kvnode.hints import Fate, decode_hint
from kvnode.log import Log
from kvnode.merging import MergeSender
from kvnode.ports import Clock
from kvnode.replica import Replica
from kvnode.rpc.connection import Lost
from kvnode.services.budget import Budget
from kvnode.services.loop import Work

BATCH_HINTS: Final = 128
DELIVERY_TIMEOUT_S: Final = 5.0
BACKOFF_MIN_S: Final = 0.5
BACKOFF_MAX_S: Final = 60.0


class _Backoff(msgspec.Struct):
    wait_s: float
    until_s: float


class _Delivery:
    """One hint on its way (``kvnode.merging.Sender``)."""

    def __init__(self, document_id: DocumentId, value: bytes) -> None:
        self.document_id = document_id
        self.value = value
        self.outcome: asyncio.Future[bytes | Lost | None] = (
            asyncio.get_running_loop().create_future()
        )

    def on_sent(self, target: Target, held: bytes | Lost | None) -> None:  # noqa: ARG002
        """Whoever waits may have been cancelled."""
        if not self.outcome.done():
            self.outcome.set_result(held)


class Handoff:
    """A service (``kvnode.services.loop``)."""

    name = "handoff"

    def __init__(
        self,
        replica: Replica,
        merges: MergeSender,
        *,
        interval_s: float,
        budget: Budget,
        is_up: Callable[[NodeId], bool],
        clock: Clock,
        log: Log,
    ) -> None:
        self.interval_s = interval_s
        self._replica = replica
        self._merges = merges
        self._budget = budget
        self._is_up = is_up
        self._clock = clock
        self._log = log
        self._backoffs: dict[NodeId, _Backoff] = {}

    def peer_returned(self, node: NodeId) -> None:
        """A peer connected: what made it fail before is likely over."""
        self._backoffs.pop(node, None)

    async def run_once(self) -> Work:
        """Deliver to each target that is up, within this interval's share of the rate."""
        budget_bytes = self._budget.allowed_bytes(self.name, self._clock.monotonic_s())
        for target, _ in self._replica.hints.targets():
            backoff = self._backoffs.get(target)
            if backoff is not None and self._clock.monotonic_s() < backoff.until_s:
                continue
            while budget_bytes > 0:
                batch = self._replica.hinted_for(target, BATCH_HINTS)
                batch = await self._deliverable(target, batch)
                if not batch or not self._is_up(target):
                    break
                sent_bytes = sum(len(value) for _, value in batch)
                budget_bytes -= sent_bytes
                self._budget.spend(self.name, sent_bytes)
                if not await self._deliver(target, batch):
                    break
        return Work.IDLE if budget_bytes > 0 else Work.THROTTLED

    async def _deliverable(
        self, target: NodeId, batch: list[tuple[DocumentId, bytes]]
    ) -> list[tuple[DocumentId, bytes]]:
        """The batch without what rule 3 drops."""
        kept: list[tuple[DocumentId, bytes]] = []
        dropped: dict[Fate, int] = {}
        for document_id, value in batch:
            fate = self._undeliverable(document_id, value)
            if fate is None:
                kept.append((document_id, value))
            else:
                self._replica.release(target, document_id, value, fate)
                dropped[fate] = dropped.get(fate, 0) + 1
        if dropped:
            await self._replica.durable()
        for reason, count in dropped.items():
            self._log.warning("hint.dropped", reason=reason, target=target, hints=count)
        return kept

    def _undeliverable(self, document_id: DocumentId, value: bytes) -> Fate | None:
        held_at_ms, record = decode_hint(value)
        if self._replica.hints.expired(held_at_ms, self._clock.wall_ms()):
            return "expired"
        try:
            # Here, for the target's "corrupt record" may as well mean the copy that it has itself.
            verify(document_id, record)
        except CorruptRecord:
            return "corrupt"
        return None

    async def _deliver(self, target: NodeId, batch: list[tuple[DocumentId, bytes]]) -> bool:
        """Send a batch; release what was acknowledged. False when something was not."""
        deadline_s = self._clock.monotonic_s() + DELIVERY_TIMEOUT_S
        sent: list[_Delivery] = []
        for document_id, value in batch:
            delivery = _Delivery(document_id, value)
            sent.append(delivery)
            _, record = decode_hint(value)
            self._merges.send(
                Target(target), document_id, record, deadline_s, delivery, patient=True
            )
        lost: Lost | None = None
        delivered_count = 0
        for delivery in sent:
            found = await delivery.outcome
            if not isinstance(found, Lost):
                self._replica.release(target, delivery.document_id, delivery.value, "delivered")
                delivered_count += 1
            else:
                lost = found
        await self._replica.durable()
        if delivered_count:
            self._log.info("hint.delivered", target=target, hints=delivered_count)
        if lost is not None:
            self._back_off(target, lost)
        else:
            self._backoffs.pop(target, None)
        return lost is None

    def _back_off(self, target: NodeId, lost: Lost) -> None:
        before = self._backoffs.get(target)
        wait_s = BACKOFF_MIN_S if before is None else min(BACKOFF_MAX_S, before.wait_s * 2)
        self._backoffs[target] = _Backoff(wait_s, self._clock.monotonic_s() + wait_s)
        self._log.info("handoff.postponed", target=target, reason=lost.code, wait_s=wait_s)
