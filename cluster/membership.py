"""Who is up, as far as this node can know: gossip with suspicion and refutation.

Every member counts heartbeats and gossips what it knows of all. A node that hears no new
heartbeat of a peer for too long suspects it and says so; a suspicion names the last heartbeat
that was heard, so it reads "nothing came after this one".

Rules
-----
1. What is known of a member is ordered by (incarnation, heartbeat, status), and the greater
   wins: knowledge is a join-semilattice, so messages may be late, lost, doubled and reordered.
   What else a member shows, its ring's epoch, changes only with its heartbeat.
2. Status comes after heartbeat: at one heartbeat DEAD beats SUSPECT beats ALIVE, and any newer
   heartbeat beats them all. A suspicion spreads only among nodes to which nothing newer is
   known, so a node that was cut off for an hour and suspects everybody harms nobody when it is
   back.
3. Only a member itself raises its heartbeat. Hearing itself doubted, it does so at once: the
   heartbeat is its refutation. (SWIM refutes with the incarnation; here that is the number of
   boots, kept on disk, and a counter in memory that only grows within one boot is at hand.)
4. A restart raises the incarnation, and so outbids every heartbeat of the life before.
5. A judge that slept judges nobody: if judgements are late by several intervals it was this
   process that stood still, and the pause is taken off every silence.
6. Members are those of the layout in use. News of others is passed over: nobody could reach them.

One exchange: A sends ``digest()``; B answers with ``news_for`` it and its own digest; A receives
the news and sends ``news_for`` B's digest.

Source: Das, Gupta, Motivala, "SWIM", DSN 2002, section 4.2 (suspicion, incarnation); van Renesse
et al., "Efficient Reconciliation and Flow Control for Anti-Entropy Protocols", LADIS 2008
(digests of version counters).
"""

from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from cluster.detector import Detector
from cluster.ids import NodeId

#: Bound on the rows of one message.
MEMBERS_MAX: Final = 1024
#: Suspected at this phi: wrong once in 10 ** 8 intervals that the detector's model describes.
PHI_SUSPECT: Final = 8.0
#: A suspect is dead after this many intervals of silence.
DEAD_INTERVALS: Final = 30.0
#: Judgements that are further apart than this were held up by a pause of this process.
PAUSE_INTERVALS: Final = 5.0
PAUSE_S: Final = 0.5

#: With 1 the heartbeats of a large region arrive so unevenly that healthy peers are suspected;
#: with 3, 30 nodes that lose every tenth message don't suspect one another.
PEERS_PER_ROUND: Final = 3

_Name = Annotated[NodeId, Meta(min_length=1, max_length=64)]
_Count = Annotated[int, Meta(ge=0, lt=1 << 62)]


class Status(IntEnum):
    """Ranks of doubt: at one heartbeat the greater wins. The numbers go over the wire."""

    ALIVE = 0
    SUSPECT = 1
    DEAD = 2


class Version(msgspec.Struct, frozen=True, gc=False, array_like=True, forbid_unknown_fields=True):
    """A row of a digest: how recent the sender's knowledge of a member is."""

    node: _Name
    #: Number of the member's boots; 0 when nothing was ever heard of it.
    incarnation: _Count
    #: Grows within an incarnation.
    heartbeat: _Count
    status: Status

    def order(self) -> tuple[int, int, int]:
        """Greater wins."""
        return self.incarnation, self.heartbeat, self.status


class Member(Version, frozen=True, gc=False, array_like=True, forbid_unknown_fields=True):
    """A row of news: all that is known of a member."""

    #: Epoch of the ring that the member uses; 0 before its first beat.
    ring_epoch: _Count


_Digest = Annotated[tuple[Version, ...], Meta(max_length=MEMBERS_MAX)]
_News = Annotated[tuple[Member, ...], Meta(max_length=MEMBERS_MAX)]


class MemberChanged(msgspec.Struct, frozen=True, gc=False):
    """A verdict changed; ``silent_s`` is how long nothing new had been heard of the member."""

    node: NodeId
    before: Status
    after: Status
    silent_s: float


class Membership:
    """One node's knowledge of all members, itself included.

    ``now_s`` is a reading of a monotonic clock in every method that takes it.
    """

    def __init__(
        self,
        node: NodeId,
        incarnation: int,
        peers: Iterable[NodeId],
        *,
        interval_s: float,
        now_s: float,
    ) -> None:
        """Know nothing yet: peers count as alive until their silence says otherwise.

        Args:
            incarnation: How often this node has booted; at least 1.
            peers: The other members.
            interval_s: How often every member beats and gossips.
        """
        assert incarnation >= 1
        self.node = node
        self._interval_s = interval_s
        self._judged_s = now_s
        self._members = {
            peer: Member(peer, 0, 0, Status.ALIVE, 0) for peer in sorted(peers) if peer != node
        }
        self._detectors = {peer: Detector(interval_s, now_s) for peer in self._members}
        self._members[node] = Member(node, incarnation, 0, Status.ALIVE, 0)
        self._up = frozenset(self._members)

    @property
    def up(self) -> frozenset[NodeId]:
        """The members that are neither suspected nor dead; always this node. For ``in`` only."""
        return self._up

    def members(self) -> tuple[Member, ...]:
        """All that is known, by node id."""
        return tuple(self._members[node] for node in sorted(self._members))

    def own(self) -> Member:
        """This node as it shows itself.

        Its incarnation is above the one given at the start when peers remember a later boot:
        this node's directory is an old copy.
        """
        return self._members[self.node]

    def silent_s(self, node: NodeId, now_s: float) -> float:
        """How long nothing new was heard of a member; 0 for this node itself."""
        return 0.0 if node == self.node else self._detectors[node].silent_s(now_s)

    def review(self, nodes: Sequence[NodeId], now_s: float) -> None:
        """There are other members: new ones count as alive until their silence says otherwise."""
        self._members = {
            node: self._members.get(node, Member(node, 0, 0, Status.ALIVE, 0))
            for node in sorted({*nodes, self.node})
        }
        self._detectors = {
            peer: self._detectors.get(peer) or Detector(self._interval_s, now_s)
            for peer in self._members
            if peer != self.node
        }
        self._count_up()

    def beat(self, ring_epoch: int) -> None:
        """Once per interval: show a new heartbeat, and the epoch of the ring in use."""
        own = self.own()
        self._members[self.node] = msgspec.structs.replace(
            own, heartbeat=own.heartbeat + 1, ring_epoch=ring_epoch
        )

    def digest(self) -> tuple[Version, ...]:
        """What to show a peer so that it can tell what is missing here."""
        return tuple(
            Version(known.node, known.incarnation, known.heartbeat, known.status)
            for known in self.members()
        )

    def news_for(self, digest: Iterable[Version]) -> tuple[Member, ...]:
        """The members of which more is known here than by the sender of ``digest``."""
        theirs = {row.node: row.order() for row in digest}
        return tuple(
            known
            for known in self.members()
            if known.node not in theirs or known.order() > theirs[known.node]
        )

    def receive(self, news: Iterable[Member], now_s: float) -> list[MemberChanged]:
        """Join news into what is known; doubts about this node are refuted at once."""
        changes: list[MemberChanged] = []
        for row in news:
            known = self._members.get(row.node)
            if known is None or row.order() <= known.order():
                continue
            if row.node == self.node:
                self._members[self.node] = msgspec.structs.replace(
                    known, incarnation=row.incarnation, heartbeat=row.heartbeat + 1
                )
                continue
            detector = self._detectors[row.node]
            silent_s = detector.silent_s(now_s)
            if (row.incarnation, row.heartbeat) > (known.incarnation, known.heartbeat):
                detector.heard(now_s)
            changes += self._replace(row, silent_s)
        return changes

    def judge(self, now_s: float) -> list[MemberChanged]:
        """Once per interval, after receiving: doubt the peers that were silent for too long."""
        since_s = now_s - self._judged_s
        self._judged_s = now_s
        if since_s > max(PAUSE_S, PAUSE_INTERVALS * self._interval_s):
            for detector in self._detectors.values():
                detector.excuse(since_s, now_s)
        changes: list[MemberChanged] = []
        for peer, detector in self._detectors.items():
            if detector.phi(now_s) < PHI_SUSPECT:
                continue
            silent_s = detector.silent_s(now_s)
            dead = silent_s >= DEAD_INTERVALS * self._interval_s
            status = Status.DEAD if dead else Status.SUSPECT
            known = self._members[peer]
            if status > known.status:
                changes += self._replace(msgspec.structs.replace(known, status=status), silent_s)
        return changes

    def _replace(self, member: Member, silent_s: float) -> list[MemberChanged]:
        before, after = self._members[member.node].status, member.status
        self._members[member.node] = member
        if before == after:
            return []
        self._count_up()
        return [MemberChanged(member.node, before, after, silent_s)]

    def _count_up(self) -> None:
        self._up = frozenset(
            node for node, known in self._members.items() if known.status is Status.ALIVE
        )


def choose_peers(peers: Sequence[Member], random: float) -> tuple[NodeId, ...]:
    """Whom to gossip with in this round: some that are alive, now and then one that is not.

    A node that everybody took for dead would never learn of it if nobody spoke to it: the two
    halves of a healed cluster would stay apart for ever. A round is as likely to try one of the
    doubted as makes each of them hear from one of those alive per round.

    Args:
        peers: All members but the chooser.
        random: Uniform in [0, 1).
    """
    alive = [peer.node for peer in peers if peer.status is Status.ALIVE]
    doubted = [peer.node for peer in peers if peer.status is not Status.ALIVE]
    choosers = len(alive) + 1
    chosen: list[NodeId] = []
    while alive and len(chosen) < PEERS_PER_ROUND:
        place = random * len(alive)
        chosen.append(alive.pop(int(place)))
        random = place % 1.0  # what a choice leaves over is uniform again
    place = random * max(choosers, len(doubted))
    if place < len(doubted):
        chosen.append(doubted[int(place)])
    return tuple(chosen)


def to_wire(rows: Sequence[Version]) -> tuple[tuple[str | int, ...], ...]:
    """A digest or news in plain types: (node, incarnation, heartbeat, status[, ring epoch])."""
    plain: tuple[tuple[str | int, ...], ...] = msgspec.to_builtins(tuple(rows))
    return plain


def digest_from_wire(raw: object) -> tuple[Version, ...]:
    """The inverse of ``to_wire``. Raises ValueError for anything that it can't have made."""
    return msgspec.convert(raw, _Digest)


def news_from_wire(raw: object) -> tuple[Member, ...]:
    """The inverse of ``to_wire``. Raises ValueError for anything that it can't have made."""
    return msgspec.convert(raw, _News)
