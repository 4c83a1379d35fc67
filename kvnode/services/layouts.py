"""How layouts travel, and who has done what: a node's part in agreeing on the next phase.

Rules
-----
1. What a node hears of a newer layout it takes over, on its disk, before it says that it knows it.
   It is told to every peer at once, and again whenever one shows that it knows less. A node does
   not talk with a peer of its region that knew more when it connected, before it knows that too:
   its disk may be an old copy, and a quorum of the owners of then is none now.
2. In each phase a member first *settles*: no request that it began in an earlier phase is under way
   any more. Requests have deadlines, so this is a matter of waiting. Then it does its part, and is
   *done*. What members have said is joined; it only grows within an epoch.
3. Who sees that all members are done makes the next layout (``cluster.ringchange.advanced``).
4. Only the first member begins a change, and only while all members are connected and know what it
   knows: so there is one change at a time, and it can begin at once.
5. A node that joins coordinates writes once every node of the other regions knows of it, for their
   watermarks say what all nodes here have coordinated (``kvnode.watermarks``). A change ends only
   when they know the layout it ends with but one; a region that is gone is not waited for.
"""

from collections.abc import Callable, Sequence
from enum import IntEnum
from functools import partial
from typing import Final

import msgspec

from cluster.ids import NodeId
from cluster.layout import Rings, Version
from cluster.ringchange import Layout, Phase, advanced, changed, decode_layout
from cluster.settings import NodeSettings
from kvnode.errors import Refused
from kvnode.log import Log
from kvnode.ports import Clock
from kvnode.replica import Replica
from kvnode.rpc.connection import Lost, Outcome
from kvnode.rpc.operations import Fields, Op
from kvnode.rpc.transport import Transport
from kvnode.services.loop import Work

#: A change is looked after this often, and what peers know.
INTERVAL_S: Final = 0.25
#: While nothing changes, peers are told this often what is known.
_REST_S: Final = 5.0
_TELL_WITHIN_S: Final = 5.0
#: What requests take longer than their deadlines.
_SETTLE_MARGIN_S: Final = 1.0


class Stage(IntEnum):
    """How far a member is in a phase. The numbers go over the wire."""

    SETTLED = 1
    DONE = 2


class _Told(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The fields of LAYOUT, in both directions."""

    versions: tuple[Version, ...]
    #: Layouts that the other side seems to lack.
    layouts: tuple[bytes, ...]
    #: Which layout of which region the stages are of.
    region: str
    epoch: int
    stages: tuple[tuple[NodeId, Stage], ...]


class Layouts:
    """A service (``kvnode.services.loop``), and the answers to its peers.

    Args:
        settle_s: How long a request can be under way.
        adopted: Called with each newer layout once ``rings`` has it, in the stretch of code that
            puts it on the disk.
        is_done: Whether this node has done its part of its region's phase.
        allow: Told whether writes may begin on this node; see rule 5.
    """

    name = "layouts"
    interval_s = INTERVAL_S

    def __init__(
        self,
        replica: Replica,
        rings: Rings,
        node: NodeId,
        *,
        settle_s: float,
        adopted: Callable[[Layout, Layout], None],
        is_done: Callable[[], bool],
        allow: Callable[[bool], None],
        transport: Transport,
        clock: Clock,
        log: Log,
    ) -> None:
        self._replica = replica
        self._rings = rings
        self._node = node
        self._region = rings.region_of[node]
        self._standing = replica.standing
        self._settle_s = settle_s + _SETTLE_MARGIN_S
        self._adopted = adopted
        self._is_done = is_done
        self._allow = allow
        #: What may be told: it is on the disk.
        self._versions = rings.versions
        self._transport = transport
        self._clock = clock
        self._log = log
        self._since_s = clock.monotonic_s()
        self._told_s = -_REST_S
        self._stages: dict[NodeId, Stage] = {}
        #: Of each peer, what it knew when it connected.
        self._linked: dict[NodeId, dict[str, int]] = {}
        #: With which epoch this node became a member, or was one at its start.
        self._member_since = self.own.epoch
        #: Of each peer, by region, the epoch that it was heard to know.
        self._known: dict[NodeId, dict[str, int]] = {}

    @property
    def versions(self) -> list[Version]:
        """What this node says that it knows."""
        return self._versions

    @property
    def own(self) -> Layout:
        """Of this node's region."""
        return self._rings.layouts[self._region]

    @property
    def is_member(self) -> bool:
        """Whether this node takes part."""
        return self._node in self.own.ids

    @property
    def takes_part(self) -> bool:
        """Whether writes may begin on this node; see rule 5, and ``kvnode.services.moving``."""
        layout = self.own
        if self._node in layout.leaving:
            return layout.phase is not Phase.RETIRE or layout.new != layout.target
        if self._node in layout.joining:
            return not self._unaware_of(self._member_since)
        return self.is_member

    @property
    def phase_s(self) -> float:
        """How long the present phase has lasted, or this node has run if that is shorter."""
        return self._clock.monotonic_s() - self._since_s

    def all_settled(self) -> bool:
        """Whether no request of an earlier phase is under way in this region."""
        return all(node in self._stages for node in self.own.ids)

    def waits_for(self) -> dict[NodeId, str]:
        """Which members hold the phase up, and with what; empty while nothing changes."""
        layout = self.own
        if layout.is_stable:
            return {}
        settled = self.all_settled()
        return {
            node: "to finish what it is working on" if settled else "to settle"
            for node in layout.ids
            if self._stages.get(node, 0) < (Stage.DONE if settled else Stage.SETTLED)
        }

    def unaware(self) -> list[NodeId]:
        """Nodes of other regions that are not known to know this region's layout."""
        return self._unaware_of(self.own.epoch)

    def _unaware_of(self, epoch: int) -> list[NodeId]:
        return [
            node
            for region in self._standing.others
            for node in self._rings.nodes_of(region)
            if self._known.get(node, {}).get(self._region, 0) < epoch
        ]

    # Operators ----------------------------------------------------------------------------------

    def begin(self, layout: Layout) -> None:
        """Take over the first layout of a change; see rule 4.

        Raises:
            Refused: it can't begin here, or not now.
        """
        own, first = self.own, self.own.ids[0]
        if self._node != first:
            raise Refused(f"changes of region {self._region} begin at {first}: ask that one")
        behind = [
            node
            for node in own.ids
            if node != self._node
            and (
                not self._transport.connected(node)
                or self._known.get(node, {}).get(self._region) != own.epoch
            )
        ]
        if behind:
            raise Refused(
                f"{', '.join(behind)}: not connected, or not up to date; a change of owners needs "
                "every member (`stele replace` brings back one whose disk is lost)"
            )
        if layout.epoch != own.epoch + 1:
            raise Refused("the layout has changed since this was planned: plan it again")
        self._adopt(layout)

    def planned(
        self,
        *,
        add: Sequence[NodeSettings] = (),
        remove: Sequence[NodeId] = (),
        weights: dict[NodeId, float] | None = None,
    ) -> Layout:
        """What ``begin`` would take. Raises Refused when it can't be done at all."""
        try:
            return changed(self.own, add=add, remove=remove, weights=weights)
        except ValueError as error:
            raise Refused(str(error)) from error

    # The service --------------------------------------------------------------------------------

    async def run_once(self) -> Work:
        """Settle, look whether this node's part is done, go on, and tell."""
        now_s = self._clock.monotonic_s()
        layout = self.own
        if not layout.is_stable and self._node in layout.ids:
            self._look(now_s)
        self._allow(self.takes_part)
        if not self.own.is_stable or now_s - self._told_s >= _REST_S:
            self.tell()
        return Work.IDLE

    def _look(self, now_s: float) -> None:
        before = self._stages.get(self._node)
        if before is None and now_s - self._since_s >= self._settle_s:
            self._stages[self._node] = Stage.SETTLED
        elif before is Stage.SETTLED and self.all_settled() and self._is_done():
            known = self.own.phase is not Phase.RETIRE or not self.unaware()
            if known:
                self._stages[self._node] = Stage.DONE
        self._advance()

    def _advance(self) -> None:
        done = [node for node, stage in self._stages.items() if stage is Stage.DONE]
        layout = advanced(self.own, done)
        if layout is not None:
            self._adopt(layout)

    # Telling and hearing ------------------------------------------------------------------------

    def linked(self, peer: NodeId, versions: Sequence[Version]) -> None:
        """There is a new connection to a peer."""
        self._linked[peer] = {region: epoch for region, epoch, _ in versions}

    def may_talk(self, peer: NodeId) -> bool:
        """Whether this node knows what a peer of its region knew when it connected; see rule 1."""
        if self._rings.region_of[peer] != self._region:
            return True
        return self._linked.get(peer, {}).get(self._region, 0) <= self.own.epoch

    def peer_connected(self, peer: NodeId) -> None:
        """Tell a peer what it lacks, and see what it knows."""
        self._send(peer, self._lacking(self._linked[peer]))

    def tell(self) -> None:
        """Show all peers what is known here, and what they are not known to know."""
        self._told_s = self._clock.monotonic_s()
        for peer in self._rings.region_of:
            if peer != self._node and self._transport.connected(peer):
                self._send(peer, self._lacking(self._known.get(peer, {})))

    def hear(self, peer: NodeId, fields: Fields) -> tuple[Fields, int]:
        """Answer a peer. Raises ValueError for what is no such request."""
        told = self._take(peer, fields)
        lacking = self._lacking({region: epoch for region, epoch, _ in told.versions})
        return self._fields(lacking), _size(lacking)

    def _send(self, peer: NodeId, layouts: Sequence[Layout]) -> None:
        deadline_s = self._clock.monotonic_s() + _TELL_WITHIN_S
        on_answer = partial(self._on_answer, peer)
        fields, size_bytes = self._fields(layouts), _size(layouts)
        self._transport.request(peer, Op.LAYOUT, deadline_s, fields, size_bytes, on_answer)

    def _on_answer(self, peer: NodeId, outcome: Outcome) -> None:
        if isinstance(outcome, Lost):
            return  # it is told again
        try:
            self._take(peer, outcome)
        except ValueError as error:
            self._log.warning("layout.refused", peer=peer, reason=str(error))

    def _take(self, peer: NodeId, fields: Fields) -> _Told:
        told = msgspec.convert(fields, _Told)
        for encoded in told.layouts:
            self._hear_of(decode_layout(encoded))
        if peer in self._rings.region_of:  # and no client
            self._known[peer] = {region: epoch for region, epoch, _ in told.versions}
        own = self.own
        if (told.region, told.epoch) == (self._region, own.epoch):
            for node, stage in told.stages:
                if node in own.ids:
                    self._stages[node] = max(stage, self._stages.get(node, stage))
        return told

    def _hear_of(self, layout: Layout) -> None:
        known = self._rings.layouts.get(layout.region)
        if known is None or layout.partitions != known.partitions:
            raise ValueError("a layout of another cluster")
        if layout.order() > known.order():
            self._adopt(layout)

    def _lacking(self, epochs: dict[str, int]) -> list[Layout]:
        return [
            layout
            for region, layout in self._rings.layouts.items()
            if epochs.get(region, 0) < layout.epoch > 1
        ]

    def _fields(self, layouts: Sequence[Layout]) -> Fields:
        stages = [[node, int(stage)] for node, stage in sorted(self._stages.items())]
        versions = [list(version) for version in self._versions]
        encoded = [layout.encode() for layout in layouts]
        return [versions, encoded, self._region, self.own.epoch, stages]

    # inside

    def _adopt(self, layout: Layout) -> None:
        before = self._rings.layouts[layout.region]
        self._rings.adopt(layout)
        self._replica.layout_store.put(layout)
        if layout.region == self._region:
            self._stages.clear()
            self._since_s = self._clock.monotonic_s()
            if self._node not in before.ids:
                self._member_since = layout.epoch
        self._log.info(
            "layout.changed",
            region=layout.region,
            epoch=layout.epoch,
            phase=layout.phase.name.lower(),
            moves_left=layout.moves_left(),
        )
        self._adopted(before, layout)
        self._allow(self.takes_part)
        self._transport.review()
        self._replica.when_durable(self._now_durable, patient=False)

    def _now_durable(self) -> None:
        self._versions = self._rings.versions
        self.tell()


def _size(layouts: Sequence[Layout]) -> int:
    return 256 + sum(16 * layout.copies * layout.partitions for layout in layouts)
