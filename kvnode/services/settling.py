"""What is owed to other regions is paid, and they are told how far this node's writes have come.

Rules
-----
1. Beyond its bound the outbox drops its oldest entries (``kvnode.outbox``, rule 5). A record that
   this node has no copy of is entrusted to an owner first.
2. A debt is paid when every owner of its partition in this region has compared it, since it was
   owed, with every owner there. Owners are asked again and again; each answers from what it has
   compared so far, and compares what is missing (``kvnode.services.antientropy``).
3. A node tells its watermarks only while it is sure of its disk, and each peer only once that has
   confirmed its boot: a disk that has lost its outbox must not tell that nothing is left to do.
4. Who is told answers with its time: regions don't gossip, and their clocks must be known too.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final

from cluster.ids import NodeId, partition_of
from cluster.layout import Rings
from cluster.preference import Target
from kvnode.log import Log
from kvnode.merging import Awaited, Merges
from kvnode.outbox import Entry, RegionDebt
from kvnode.ports import Clock
from kvnode.replica import Replica
from kvnode.rpc.connection import Lost, Outcome
from kvnode.rpc.operations import Fields, Op
from kvnode.rpc.transport import Transport
from kvnode.services.asking import Asker
from kvnode.services.levelling import Levelling
from kvnode.services.loop import Work

#: Ship intervals from one telling to the next.
TELLING_INTERVALS: Final = 5
#: Partitions that one request asks about.
_ASKED_MAX: Final = 512
#: Of the outbox, given up at once.
_SHED_BYTES: Final = 64 * 1024
_ENTRUST_TIMEOUT_S: Final = 5.0
_TELL_TIMEOUT_S: Final = 5.0


class Settling:
    """A service (``kvnode.services.loop``).

    Args:
        has_confirmed: Rule 3, of a peer in another region.
        hear_clock: Rule 4, with when the peer was told; see ``kvnode.services.gossip``.
    """

    name = "settling"

    def __init__(
        self,
        replica: Replica,
        rings: Rings,
        node: NodeId,
        *,
        interval_s: float,
        levelling: Levelling,
        has_confirmed: Callable[[NodeId], bool],
        asker: Asker,
        hear_clock: Callable[[NodeId, int, int], None],
        merges: Merges,
        transport: Transport,
        clock: Clock,
        log: Log,
    ) -> None:
        self.interval_s = interval_s
        self._replica = replica
        self._outbox = replica.outbox
        self._rings = rings
        self._node = node
        self._region = rings.region_of[node]
        self._levelling = levelling
        self._has_confirmed = has_confirmed
        self._asker = asker
        self._hear_clock = hear_clock
        self._merges = merges
        self._transport = transport
        self._clock = clock
        self._log = log
        #: By debt and owner, the owner's process and its count of comparisons when first asked.
        self._since: dict[tuple[int, NodeId], tuple[bytes, int]] = {}

    async def run_once(self) -> Work:
        """Make room; pay; tell."""
        self._outbox.trim()
        if self._outbox.overflowing and await self._shed():
            return Work.BUSY
        for region in self._outbox.regions:
            debts = self._outbox.owed(region)
            for first in range(0, len(debts), _ASKED_MAX):
                await self._pay(region, debts[first : first + _ASKED_MAX])
        await self._tell()
        return Work.IDLE

    # Rule 1 -------------------------------------------------------------------------------------

    async def _shed(self) -> bool:
        """Give up the oldest entries; whether any were."""
        entries = self._outbox.oldest(_SHED_BYTES)
        entrusted = await self._entrust([entry for entry in entries if entry.record is not None])
        for number, entry in enumerate(entries):
            if entry.record is not None and not entrusted[entry.sequence]:
                del entries[number:]
                break
        if not entries:
            return False
        self._outbox.drop(entries)
        await self._replica.durable()
        self._log.warning("outbox.overflowed", dropped=len(entries))
        return True

    async def _entrust(self, entries: Iterable[Entry]) -> dict[int, bool]:
        """Send whole records to owners in this region; which are durable there."""
        deadline_s = self._clock.monotonic_s() + _ENTRUST_TIMEOUT_S
        sent: dict[int, Awaited] = {}
        for entry in entries:
            assert entry.record is not None
            partition = partition_of(entry.document_id, self._rings.partitions)
            owners = self._rings.owners_in(self._region, partition)
            owner = next((one for one in owners if self._transport.connected(one)), owners[0])
            sender = sent[entry.sequence] = Awaited()
            self._merges.send(
                Target(owner), entry.document_id, entry.record, deadline_s, sender, patient=True
            )
        return {
            sequence: not isinstance(await sender.outcome, Lost)
            for sequence, sender in sent.items()
        }

    # Rule 2 -------------------------------------------------------------------------------------

    async def _pay(self, region: str, debts: Sequence[RegionDebt]) -> None:
        unpaid: dict[int, None] = {}
        asked: dict[NodeId, list[RegionDebt]] = {}
        for debt in debts:
            for owner in self._rings.owners_in(self._region, debt.partition):
                asked.setdefault(owner, []).append(debt)
        remote = [
            (owner, self._asker.send(owner, Op.LEVEL, self._question(region, owner, of)))
            for owner, of in asked.items()
            if owner != self._node
        ]
        if self._node in asked:
            rows = self._question(region, self._node, asked[self._node])[1]
            answer = [b"", *self._levelling.answer(region, rows)]
            self._take(self._node, asked[self._node], answer, unpaid)
        for owner, sent in remote:
            self._take(owner, asked[owner], await sent, unpaid)
        for debt in debts:
            if debt.number not in unpaid:
                self._outbox.repaid(debt)
                for owner in self._rings.owners_in(self._region, debt.partition):
                    del self._since[debt.number, owner]

    def _question(self, region: str, owner: NodeId, debts: Sequence[RegionDebt]) -> Fields:
        """The fields of LEVEL."""
        rows = []
        for debt in debts:
            _, since = self._since.get((debt.number, owner), (b"", None))
            rows.append([debt.partition, since])
        return [region, rows]

    def _take(
        self,
        owner: NodeId,
        debts: Sequence[RegionDebt],
        answer: Outcome,
        unpaid: dict[int, None],
    ) -> None:
        """Note what an owner has yet to compare; a process that is new there begins anew."""
        if isinstance(answer, Lost):
            unpaid.update((debt.number, None) for debt in debts)
            return
        process, count, done = answer
        for debt, one_done in zip(debts, done, strict=True):
            known = self._since.get((debt.number, owner))
            if known is None or known[0] != process:
                self._since[debt.number, owner] = (process, count)
            if known is None or known[0] != process or not one_done:
                unpaid[debt.number] = None

    # Rule 3 -------------------------------------------------------------------------------------

    async def _tell(self) -> None:
        watermarks: dict[NodeId, int] = {}
        for region in self._outbox.regions:
            confirmed = [peer for peer in self._rings.nodes_of(region) if self._has_confirmed(peer)]
            if confirmed:
                watermarks.update(dict.fromkeys(confirmed, self._outbox.tell(region)))
        await self._replica.durable()
        for peer, watermark_ms in watermarks.items():
            # Whoever misses it is told more the next time.
            told = partial(self._on_told, peer, self._clock.wall_ms())
            deadline_s = self._clock.monotonic_s() + _TELL_TIMEOUT_S
            self._transport.request(peer, Op.WATERMARK, deadline_s, [watermark_ms], 64, told)

    def _on_told(self, peer: NodeId, sent_ms: int, outcome: Outcome) -> None:
        """A node of another region has taken a watermark; it tells its time, as gossip would."""
        if not isinstance(outcome, Lost):
            (theirs_ms,) = outcome
            self._hear_clock(peer, sent_ms, theirs_ms)
