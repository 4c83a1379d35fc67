"""From one ring to another while clients read and write: what changes when, and why it is safe.

A region's *layout* says who takes part and, while owners change, how far that has come. It is a
value: whoever sees that all members have done their part makes the next one, and everybody makes
the same. So there is no leader, and a change goes on wherever it was interrupted.

Rules
-----
1. A change moves at most one owner of each partition at a time, from *old* to *new* owners; larger
   ones are several steps. N is the same before and after.
2. Each step passes through four phases, an epoch each:

       phase    the new owner                   writes go to       W counts     reads ask
       FILL     is fenced and rebuilt           old and new        old          old
       LEVEL    compares with each old owner    old and new        W + 1        old
       SWITCH   answers                         old and new        W + 1        new
       RETIRE   (the old one gives what it      new                W            new
                 has to each new one, drops it)

   W + 1 acknowledgements of N + 1 holders are at least W of the old and W of the new ones.
3. A phase ends when every member has *settled* in it, so that no request which began in an earlier
   one is under way any more, and has done its part. So two requests that meet are never further
   apart than one phase, and any two neighbours' quorums meet (``tests/unit/test_ringchange.py``).
   The work of LEVEL and RETIRE begins when all have settled: nothing that it does not cover is
   acknowledged behind its back.
4. Every member must take part, those that leave included. So a change waits for one that is down;
   one whose disk is lost is replaced first.
5. Layouts are ordered by epoch, then digest. Only the first member begins a change, so two
   operators can't begin two at once.
6. Nothing is purged meanwhile (``kvnode.services.purge``): old and new owners have the same floors.

Source: Ongaro, "Consensus: Bridging Theory and Practice", 2014, section 4.1 (one server at a time,
so that majorities overlap); McKenney and Slingwine, "Read-Copy Update", PDCS 1998 (waiting until
all have passed a quiescent state); Cassandra's pending ranges (W + pending acknowledgements).
"""

import hashlib
from collections.abc import Container, Mapping, Sequence
from enum import IntEnum
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from cluster.claim import Candidate, claim
from cluster.ids import NodeId, PartitionId
from cluster.ring import Move, Owners, Ring
from cluster.settings import NodeSettings

_DIGEST_BYTES: Final = 8
_OWNERS: Final = ("old", "new", "target")
_Place = Annotated[int, Meta(ge=0)]
#: Bound on the members of one region, and so on the bytes of a layout.
MEMBERS_MAX: Final = 99


class Phase(IntEnum):
    """See rule 2. The numbers go over the wire and onto disks."""

    STABLE = 0
    FILL = 1
    LEVEL = 2
    SWITCH = 3
    RETIRE = 4


class Layout(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who takes part in a region, and who owns what.

    Raises:
        ValueError: when the fields contradict each other (decoding reports it as
            ``msgspec.ValidationError``).
    """

    region: str
    #: Grows with each phase; 1 is that of a new cluster.
    epoch: Annotated[int, Meta(ge=1, lt=1 << 62)]
    phase: Phase
    copies: Annotated[int, Meta(ge=1)]
    members: Annotated[tuple[NodeSettings, ...], Meta(min_length=1, max_length=MEMBERS_MAX)]
    #: Before this step and after it; the same when it is STABLE.
    old: Owners
    new: Owners
    #: Where the change ends, after some more steps.
    target: Owners
    #: Members that were none when the change began, and those that are none when it has ended.
    joining: tuple[NodeId, ...] = ()
    leaving: tuple[NodeId, ...] = ()

    def __post_init__(self) -> None:
        ids = frozenset(self.ids)
        if len(ids) != len(self.members):
            raise ValueError(f"a member of region {self.region} is named twice")
        if not len(self.old) == len(self.new) == len(self.target):
            raise ValueError("owners of different numbers of partitions")
        for owners in (self.old, self.new, self.target):
            for partition, own in enumerate(owners):
                if not ids.issuperset(own):
                    raise ValueError(f"an owner of partition {partition} is no member")
        if self.phase is Phase.STABLE and self.old != self.new:
            raise ValueError("a stable layout has one set of owners")

    @property
    def ids(self) -> tuple[NodeId, ...]:
        """The members' names, in the order in which they joined."""
        return tuple(member.node_id for member in self.members)

    @property
    def zones(self) -> dict[NodeId, str]:
        """Of every member."""
        return {member.node_id: member.zone for member in self.members}

    @property
    def partitions(self) -> int:
        """The same in every layout of a cluster."""
        return len(self.new)

    @property
    def is_stable(self) -> bool:
        """Whether no change is under way."""
        return self.phase is Phase.STABLE

    def order(self) -> tuple[int, bytes]:
        """Rule 5: the greater wins."""
        return self.epoch, self.digest()

    def digest(self) -> bytes:
        """8 bytes that differ when owners, members or the phase do, the same on every node.

        Not with where a member is reached: that each node's own cluster file may say better.
        """
        told = (self.region, self.epoch, self.phase, self.copies, self.ids, self.joining)
        owners = (self.leaving, self.old, self.new, self.target)
        encoded = msgspec.msgpack.encode((told, owners))
        return hashlib.blake2b(encoded, digest_size=_DIGEST_BYTES).digest()

    def encode(self) -> bytes:
        """On the wire and on disk: owners are places in ``members``."""
        places = {node: place for place, node in enumerate(self.ids)}

        def placed(owners: Owners) -> list[list[int]]:
            return [[places[node] for node in own] for own in owners]

        plain = msgspec.to_builtins(self)
        plain |= {name: placed(getattr(self, name)) for name in _OWNERS}
        return msgspec.msgpack.encode(plain)

    def gained_by(self, node: NodeId) -> tuple[PartitionId, ...]:
        """Partitions that this step brings to a node."""
        return _differing(self.new, self.old, node)

    def lost_by(self, node: NodeId) -> tuple[PartitionId, ...]:
        """Partitions that this step takes from a node."""
        return _differing(self.old, self.new, node)

    def moves_left(self) -> int:
        """Replicas that are still to be moved, those of this step included."""
        counted = self.old if self.phase in (Phase.FILL, Phase.LEVEL) else self.new
        pairs = zip(counted, self.target, strict=True)
        return sum(len(frozenset(target) - frozenset(own)) for own, target in pairs)

    def ring(self) -> Ring:
        """Who owns what in this phase, as requests need it."""
        if self.phase in (Phase.STABLE, Phase.RETIRE):
            return Ring(self.epoch, self.partitions, self.copies, self.new)
        filling, switched = self.phase is Phase.FILL, self.phase is Phase.SWITCH
        holders: list[tuple[NodeId, ...]] = []
        moves: dict[int, Move] = {}
        for partition, (old, new) in enumerate(zip(self.old, self.new, strict=True)):
            gained = tuple(node for node in new if node not in old)
            if not gained:
                holders.append(new if switched else old)
                continue
            readers = new if switched else old
            holders.append((*readers, *(n for n in (*old, *new) if n not in readers)))
            moves[partition] = Move(readers, gained if filling else ())
        return Ring(self.epoch, self.partitions, self.copies, tuple(holders), moves)


def _differing(here: Owners, there: Owners, node: NodeId) -> tuple[PartitionId, ...]:
    """Partitions that a node owns here and not there."""
    return tuple(
        PartitionId(partition)
        for partition, (own, others) in enumerate(zip(here, there, strict=True))
        if node in own and node not in others
    )


def decode_layout(encoded: bytes) -> Layout:
    """The inverse of ``Layout.encode``. Raises ValueError for what it can't have made."""
    plain = msgspec.msgpack.decode(encoded, type=dict[str, Any])
    ids = [member["id"] for member in msgspec.convert(plain.get("members"), list[dict[str, Any]])]
    for name in _OWNERS:
        owners = msgspec.convert(plain.get(name), list[list[_Place]])
        if any(place >= len(ids) for own in owners for place in own):
            raise ValueError("an owner is no member")
        plain[name] = [[ids[place] for place in own] for own in owners]
    return msgspec.convert(plain, Layout)


def first_layout(
    region: str, members: Sequence[NodeSettings], partitions: int, copies: int
) -> Layout:
    """That of a new cluster."""
    owners = claim([_candidate(member) for member in members], partitions, copies)
    return Layout(region, 1, Phase.STABLE, copies, tuple(members), owners, owners, owners)


def changed(
    layout: Layout,
    *,
    add: Sequence[NodeSettings] = (),
    remove: Sequence[NodeId] = (),
    weights: Mapping[NodeId, float] | None = None,
) -> Layout:
    """The first layout of a change, its first step included.

    Raises:
        ValueError: what is wanted can't be done, in words for an operator.
    """
    if not layout.is_stable:
        raise ValueError(f"region {layout.region} is being changed: wait until that has ended")
    wanted = dict(weights or {})
    for node in (*remove, *wanted):
        if node not in layout.ids:
            raise ValueError(f"{node} is no member of region {layout.region}")
    members = [
        msgspec.structs.replace(one, weight=wanted.get(one.node_id, one.weight))
        for one in layout.members
    ]
    for newcomer in add:
        if newcomer.node_id in layout.ids:
            raise ValueError(f"{newcomer.id} is a member of region {layout.region} already")
        if newcomer.region != layout.region:
            raise ValueError(f"{newcomer.id} is of region {newcomer.region}, not {layout.region}")
        members.append(newcomer)
    if len(members) > MEMBERS_MAX:
        raise ValueError(f"a region has at most {MEMBERS_MAX} nodes, those that leave included")
    staying = [_candidate(one) for one in members if one.node_id not in remove]
    if len(staying) < layout.copies:
        raise ValueError(
            f"{len(staying)} nodes would be left in region {layout.region}, "
            f"which keeps {layout.copies} copies of each document"
        )
    target = claim(staying, layout.partitions, layout.copies, layout.new)
    begun = msgspec.structs.replace(
        layout,
        members=tuple(members),
        target=target,
        joining=tuple(node.node_id for node in add),
        leaving=tuple(dict.fromkeys(remove)),
    )
    first = _next_step(begun)
    if first.is_stable and begun.leaving:  # it owns nothing, and may have hints and an outbox
        return msgspec.structs.replace(begun, epoch=begun.epoch + 1, phase=Phase.RETIRE)
    return first


def advanced(layout: Layout, done: Container[NodeId]) -> Layout | None:
    """The next phase; None while it is stable or some member has yet to do its part."""
    if layout.is_stable or not all(node in done for node in layout.ids):
        return None
    if layout.phase is Phase.RETIRE:
        return _next_step(layout)
    return msgspec.structs.replace(layout, epoch=layout.epoch + 1, phase=Phase(layout.phase + 1))


def _next_step(layout: Layout) -> Layout:
    """From owners that nothing is moved between to the next ones, or to the end."""
    if all(map(_same_owners, layout.new, layout.target)):
        staying = tuple(one for one in layout.members if one.node_id not in layout.leaving)
        return msgspec.structs.replace(
            layout,
            epoch=layout.epoch + 1,
            phase=Phase.STABLE,
            members=staying,
            old=layout.target,
            new=layout.target,
            joining=(),
            leaving=(),
        )
    new = tuple(map(_one_moved, layout.new, layout.target))
    return msgspec.structs.replace(
        layout, epoch=layout.epoch + 1, phase=Phase.FILL, old=layout.new, new=new
    )


def _same_owners(one: Sequence[NodeId], other: Sequence[NodeId]) -> bool:
    return frozenset(one) == frozenset(other)


def _one_moved(own: tuple[NodeId, ...], target: tuple[NodeId, ...]) -> tuple[NodeId, ...]:
    """The owners with one replaced, in its place; the target itself once only the order differs."""
    gained = next((node for node in target if node not in own), None)
    if gained is None:
        return target
    lost = next(node for node in own if node not in target)
    return tuple(gained if node == lost else node for node in own)


def _candidate(node: NodeSettings) -> Candidate:
    return Candidate(node.node_id, node.zone, node.host, node.weight)
