"""Membership on the wire: an exchange of digests with a few peers per interval.

The knowledge and its rules are ``cluster.membership``'s; this file moves it and reports changes.
"""

from collections.abc import Callable, Iterable
from functools import partial

from cluster.ids import NodeId
from cluster.membership import (
    MemberChanged,
    Membership,
    Status,
    choose_peers,
    digest_from_wire,
    news_from_wire,
    to_wire,
)
from kvnode.log import Log
from kvnode.ports import Clock, Entropy
from kvnode.rpc.connection import Lost, Outcome
from kvnode.rpc.operations import Fields, Op
from kvnode.rpc.transport import Transport
from kvnode.services.loop import Work
from kvnode.skew import ClockSkews

_EVENTS = {
    Status.ALIVE: "member.revived",
    Status.SUSPECT: "member.suspected",
    Status.DEAD: "member.declared_dead",
}


class Gossip:
    """A service (``kvnode.services.loop``), and the answers to its peers.

    Args:
        skew_told_s: Peers' clocks that are further from this node's than this are told of.
        on_change: Called when a member's status changed.
    """

    name = "gossip"

    def __init__(
        self,
        membership: Membership,
        *,
        interval_s: float,
        ring_epoch: Callable[[], int],
        skew_told_s: float,
        clock: Clock,
        entropy: Entropy,
        log: Log,
        on_change: Callable[[], None],
    ) -> None:
        self.membership = membership
        self.skews = ClockSkews()
        self._skew_told_s = skew_told_s
        #: Peers whose clock was told to be far from this node's.
        self._far: dict[NodeId, None] = {}
        self.interval_s = interval_s
        self._ring_epoch = ring_epoch
        self._clock = clock
        self._entropy = entropy
        self._log = log
        self._on_change = on_change
        self._transport: Transport | None = None

    def attach(self, transport: Transport) -> None:
        """Transport and gossip need each other: the transport comes second."""
        self._transport = transport

    async def run_once(self) -> Work:
        """Beat, judge the silent, and gossip with a few peers, now and then also a doubted one."""
        membership = self.membership
        membership.beat(self._ring_epoch())
        self._report(membership.judge(self._clock.monotonic_s()))
        peers = [member for member in membership.members() if member.node != membership.node]
        for node in choose_peers(peers, self._entropy.uniform(0.0, 1.0)):
            self._exchange_with(node)
        return Work.IDLE

    def peer_connected(self, peer: NodeId) -> None:
        """Gossip with it at once, or it may yet be doubted for the silence that has just ended."""
        self._exchange_with(peer)

    def answer(self, digest: object) -> Fields:
        """[news, own digest, own time] for a peer's digest. Raises ValueError for what is none."""
        theirs = digest_from_wire(digest)
        news, own = self.membership.news_for(theirs), self.membership.digest()
        return [to_wire(news), to_wire(own), self._clock.wall_ms()]

    def receive(self, news: object) -> None:
        """Join a peer's news. Raises ValueError for what is none."""
        self._report(self.membership.receive(news_from_wire(news), self._clock.monotonic_s()))

    def _exchange_with(self, node: NodeId) -> None:
        assert self._transport is not None
        digest = to_wire(self.membership.digest())
        self._transport.request(
            node,
            Op.GOSSIP,
            self._clock.monotonic_s() + self.interval_s,
            [digest],
            64 * len(digest),
            partial(self._on_answer, node, self._clock.wall_ms()),
        )

    def _on_answer(self, node: NodeId, sent_ms: int, outcome: Outcome) -> None:
        if isinstance(outcome, Lost):
            return  # its silence is what the detector judges
        try:
            news, digest, wall_ms = outcome
            self.receive(news)
            theirs = digest_from_wire(digest)
            self.hear_clock(node, sent_ms, wall_ms)
        except (TypeError, ValueError) as error:
            self._log.warning("gossip.refused", peer=node, reason=str(error))
            return
        missing = to_wire(self.membership.news_for(theirs))
        if missing and self._transport is not None:
            deadline_s = self._clock.monotonic_s() + self.interval_s
            self._transport.request(
                node, Op.NEWS, deadline_s, [missing], 64 * len(missing), _ignore
            )

    def hear_clock(self, node: NodeId, sent_ms: int, theirs_ms: int) -> None:
        """A peer has just told its time, asked at ``sent_ms`` on this node's clock."""
        self.skews.observe(node, sent_ms, self._clock.wall_ms(), theirs_ms)
        self._tell_skews()

    def _tell_skews(self) -> None:
        """Once when a peer's clock gets far from this node's, and once when it is near again."""
        far = dict(self.skews.beyond(self._skew_told_s))
        for peer, skew in far.items():
            if peer not in self._far:
                ahead_s, error_s = round(skew.ahead_s, 3), round(skew.error_s, 3)
                self._log.warning("clock.diverged", peer=peer, ahead_s=ahead_s, error_s=error_s)
        for peer in self._far:
            if peer not in far:
                self._log.info("clock.converged", peer=peer)
        self._far = dict.fromkeys(far)

    def _report(self, changes: Iterable[MemberChanged]) -> None:
        changed = False
        for change in changes:
            changed = True
            event = _EVENTS[change.after]
            level = self._log.info if change.after is Status.ALIVE else self._log.warning
            level(
                event,
                member=change.node,
                before=change.before.name.lower(),
                silent_s=round(change.silent_s, 3),
            )
        if changed:
            self._on_change()


def _ignore(_: Outcome) -> None:
    """News that got lost travels again with the next exchange."""
