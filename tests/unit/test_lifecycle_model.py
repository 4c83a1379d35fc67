"""Three owners of a partition, and everything that can happen to copies on their way to them.

The replicas, their floors, trees and agreement are production code, on memory disks and a clock
moved by hand; messages are values that arrive when, where and as often as hypothesis likes. An
owner may be away for so long that the others purge without it.

``test_lifecycle_ablations`` takes safeguards out of it.
"""

import contextlib
from typing import Final

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cluster.ids import NodeId
from cluster.settings import LifecycleSettings
from kvnode.agreement import Agreement
from kvnode.codec import decode, encode
from kvnode.comparing import Comparing, Difference, Place
from kvnode.ending import Family, ending_of
from kvnode.errors import Fenced, LateCopy
from kvnode.hashtree import Bucket, HashForest, Span, tail_of
from kvnode.record import NEVER_MS, Create, Record, Tombstone, merge
from kvnode.replica import Replica
from kvnode.rpc.operations import FetchResult
from kvnode.storage.keys import RECORD_PREFIX, document_id_of
from kvnode.storage.memory import MemoryDisk, MemoryEngine
from tests.support.handcranked import HandCrankedLoop
from tests.support.replicas import new_replica
from tests.support.rings import rings_with

RETENTION_MS: Final = 3000
#: Of each of two clocks, half of the skew that is allowed for.
CLOCK_ERROR_S: Final = 1.0
LIFE: Final = LifecycleSettings(purge_bucket_s=1.0, clock_skew_max_s=2 * CLOCK_ERROR_S)
IDS: Final = [bytes(14) + bytes([0, tail]) for tail in range(5)]
OWNERS: Final = range(3)
#: After so long a silence an owner is not asked any more.
ABSENT_S: Final = RETENTION_MS / 1000 + 2 * LIFE.clock_skew_max_s

owners = st.sampled_from(OWNERS)
documents = st.sampled_from(IDS)
several = st.lists(owners, max_size=3, unique=True)


class Clock:
    """True time, and a bounded error."""

    def __init__(self, loop: HandCrankedLoop) -> None:
        self._loop = loop
        self.ahead_s = 0.0

    def wall_ms(self) -> int:
        """See ``kvnode.ports.Clock``."""
        return int((10 + self._loop.now_s + self.ahead_s) * 1000)

    def monotonic_s(self) -> float:
        """See ``kvnode.ports.Clock``."""
        return self._loop.now_s


class Owner:
    """A replica, from one start to the next."""

    def __init__(self, loop: HandCrankedLoop) -> None:
        self._loop = loop
        self.disk = MemoryDisk()
        self.clock = Clock(loop)
        self.start()

    def start(self) -> None:
        """What was not durable is gone."""
        engine = MemoryEngine(self.disk, self._loop.as_loop, failed=_broken)
        self.replica = new_replica(engine, self.clock, lifecycle=LIFE)
        self.agreement = Agreement(self.replica, rings_with({"": [(NodeId("a1"),)]}))
        assert self.replica.restore(), "the stored trees add up"

    @property
    def records(self) -> dict[bytes, bytes]:
        """What was put last, durable or not."""
        latest = ((one, self.replica.records.latest(one)) for one in IDS)
        return {one: encoded for one, encoded in latest if encoded is not None}

    @property
    def is_fenced(self) -> bool:
        """Whether it is to be rebuilt."""
        return self.replica.fenced[0]

    def meet_floor_of(self, other: "Owner") -> None:
        """As by a check-in, a comparison or an announcement."""
        floor = other.replica.lifecycle.floor(0)
        self.replica.meet_floor(0, floor.bucket, floor.newest_deleted_ms)

    def quarantined(self) -> list[bytes]:
        """Documents of which a copy is held back."""
        return [one.document_id for one in self.replica.quarantine.suspects(b"", len(IDS))]

    def durable(self) -> dict[bytes, Record]:
        """What a crash leaves."""
        return {
            document_id_of(key): decode(document_id_of(key), encoded)
            for key, encoded in self.disk.values.items()
            if key.startswith(RECORD_PREFIX)
        }


class Lives(RuleBasedStateMachine):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = HandCrankedLoop()
        self.owners = [Owner(self.loop) for _ in OWNERS]
        #: Every copy that was ever sent; each may arrive again at any time.
        self.sent: list[tuple[bytes, Record]] = []
        self.created: dict[bytes, None] = {}
        #: Documents that the owners have agreed to purge.
        self.purged: dict[bytes, None] = {}
        #: What each owner had on disk when that was last looked at.
        self.held: list[dict[bytes, Record]] = [{} for _ in OWNERS]
        #: When each owner was last heard of by the others.
        self.heard_s = [0.0 for _ in OWNERS]
        #: Owners that the others have purged without, and which of them are still cut off.
        self.left_out: dict[int, None] = {}
        self.away: dict[int, None] = {}

    @initialize()
    def begin(self) -> None:
        """Something to work with."""
        self.create(IDS[0], 0, lives_s=None, to=[0, 1, 2])

    # Clients and messages -----------------------------------------------------------------

    @precondition(lambda self: len(self.created) < len(IDS))
    @rule(document_id=documents, via=owners, lives_s=st.sampled_from([None, 1, 4]), to=several)
    def create(self, document_id: bytes, via: int, lives_s: int | None, to: list[int]) -> None:
        """Once, as ids are unique."""
        if document_id in self.created:
            return
        self.created[document_id] = None
        now_ms = self.owners[via].clock.wall_ms()
        expires_at_ms = now_ms + lives_s * 1000 if lives_s else NEVER_MS
        create = Create(b"text", now_ms, expires_at_ms, document_id * 2)
        self._send(document_id, Record(create=create), to)

    @rule(data=st.data(), via=owners, to=several)
    def delete(self, data: st.DataObject, via: int, to: list[int]) -> None:
        """Any number of times; also where it was never seen."""
        document_id = data.draw(st.sampled_from(list(self.created)))
        now_ms = self.owners[via].clock.wall_ms()
        tombstone = Tombstone(now_ms, now_ms + RETENTION_MS)
        self._send(document_id, Record(tombstone=tombstone), to)

    @rule(data=st.data(), to=several, commits=st.booleans())
    def deliver(self, data: st.DataObject, to: list[int], commits: bool) -> None:
        """A write, a hint, a repair or a copy from a backup: late, doubled, in any order.

        Tombstones come before their time is over: whoever holds one for another vetoes its purge.
        """
        now_ms = (10 + self.loop.now_s + 2 * CLOCK_ERROR_S) * 1000
        some = [
            (document_id, record)
            for document_id, record in self.sent
            if record.tombstone is None or now_ms < record.tombstone.delete_at_ms
        ]
        if some:
            self._arrive(*data.draw(st.sampled_from(some)), to)
            if commits:
                self.loop.run_all()

    def _send(self, document_id: bytes, record: Record, to: list[int]) -> None:
        self.sent.append((document_id, record))
        self._arrive(document_id, record, to)

    def _arrive(self, document_id: bytes, record: Record, to: list[int]) -> None:
        for one in to:
            with contextlib.suppress(LateCopy, Fenced):
                self.owners[one].replica.join(document_id, encode(document_id, record))

    @rule(one=owners, other=owners)
    def level(self, one: int, other: int) -> None:
        """As ``kvnode.services.exchange``, begun by each of the two."""
        if one == other or one in self.away or other in self.away:
            return
        for here, there in ((one, other), (other, one)):
            self.heard_s[here] = self.loop.now_s
            self.owners[here].meet_floor_of(self.owners[there])
        self.loop.run_all()
        for here, there in ((one, other), (other, one)):
            _exchange(self.owners[here].replica, self.owners[there].replica)
            self.loop.run_all()

    @rule(without=st.none() | owners)
    def level_all(self, without: int | None) -> None:
        """A round of everybody with everybody, or almost."""
        for one in OWNERS:
            for other in range(one):
                if without not in (one, other):
                    self.level(one, other)

    # Time and crashes ---------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.5, 2.0, 9.0]))
    def wait(self, seconds: float) -> None:
        """Everybody's clock goes on."""
        self.loop.run_until(self.loop.now_s + seconds)

    @rule(owner=owners, ahead_s=st.floats(-CLOCK_ERROR_S, CLOCK_ERROR_S))
    def step_clock(self, owner: int, ahead_s: float) -> None:
        """Forward or back, within the error that is allowed for."""
        self.owners[owner].clock.ahead_s = ahead_s

    @rule(owner=owners)
    def crash(self, owner: int) -> None:
        """What was on its way to the disk never gets there."""
        self.loop.timers.clear()
        for each in self.owners:  # their commits were among the timers
            each.start()

    # The end ------------------------------------------------------------------------------

    @rule(proposer=owners, told=several, without=st.none() | owners)
    def purge(self, proposer: int, told: list[int], without: int | None) -> None:
        """As ``kvnode.services.purge``; whether all hear of the new floor is chance."""
        if without is not None and self.loop.now_s - self.heard_s[without] <= ABSENT_S:
            without = None
        asked = [one for one in OWNERS if one not in self.away and one != without]
        if proposer not in asked or len(asked) < 2:
            return
        self.loop.run_all()
        leader = self.owners[proposer]
        proposal = leader.agreement.propose(0)
        if proposal is None or leader.agreement.own_veto(proposal) is not None:
            return
        for one in asked:
            self.heard_s[one] = self.loop.now_s
            if one != proposer and self.owners[one].agreement.promise(proposal) is not None:
                return
        self.loop.run_all()
        going = [
            document_id
            for document_id, encoded in leader.records.items()
            if (ending := ending_of(encoded)).family is Family.DELETED
            and ending.ends_at_ms // leader.replica.lifecycle.bucket_ms < proposal.bucket
        ]
        for one in asked:
            held = self.owners[one].durable()
            assert all(id_ in held and held[id_].tombstone for id_ in going), "purged without proof"
        self.purged.update(dict.fromkeys(going))
        leader.agreement.conclude(proposal)
        for one in told:
            if one in asked:
                self.owners[one].meet_floor_of(leader)
        if without is not None:
            self.away[without] = self.left_out[without] = None

    @rule(proposer=owners, told=several, without=st.none() | owners, levelled=st.booleans())
    def month(self, proposer: int, told: list[int], without: int | None, levelled: bool) -> None:
        """What makes a purge, in one step: by chance alone it seldom comes together."""
        self.wait(9.0)
        if levelled:
            self.level_all(without)
        self.purge(proposer, told, without)
        for one in OWNERS:
            self.sweep(one)
        self.loop.run_all()

    @rule(data=st.data(), told=several, without=owners)
    def month_without(self, data: st.DataObject, told: list[int], without: int) -> None:
        """Dark data: a document is deleted and purged while one of its owners is away."""
        others = [one for one in OWNERS if one != without]
        self.delete(data, others[0], others)
        self.month(others[0], told, without, levelled=True)

    @precondition(lambda self: self.away)
    @rule()
    def come_back(self) -> None:
        """As ``kvnode.services.checkin``: before anything else, it hears of the floors."""
        for one in self.away:
            for other in OWNERS:
                if other not in self.away:
                    self.owners[one].meet_floor_of(self.owners[other])
        self.away.clear()

    @precondition(lambda self: any(owner.is_fenced for owner in self.owners))
    @rule()
    def rebuild(self) -> None:
        """As ``kvnode.services.rebuild``: from those that are not fenced."""
        for one in OWNERS:
            sound = [other for other in OWNERS if not self.owners[other].is_fenced]
            sound = [other for other in sound if other not in self.away]
            if self.owners[one].is_fenced and one not in self.away and sound:
                for other in sound:
                    self.level(one, other)
                self.owners[one].replica.set_fenced(0, False)
                self.loop.run_all()
                self.left_out.pop(one, None)

    @rule(owner=owners)
    def sweep(self, owner: int) -> None:
        """As ``kvnode.services.sweep``."""
        replica = self.owners[owner].replica
        expiring, deleted = replica.lifecycle.first_kept(), replica.lifecycle.floor(0).bucket
        for family, first in ((Family.EXPIRING, expiring), (Family.DELETED, deleted)):
            for number in replica.records.forest.before(family, 0, first):
                bucket = Bucket(family, 0, number)
                for document_id, _ in replica.records.in_bucket(bucket, b"", len(IDS)):
                    replica.remove_ended(document_id, bucket, expiring=expiring, deleted=deleted)

    # What always holds --------------------------------------------------------------------

    @invariant()
    def trees_are_those_of_the_records(self) -> None:
        """Kept in step, they are what they would be if made anew; and tell records apart."""
        for owner in self.owners:
            forest = owner.replica.records.forest
            anew = HashForest(forest.partitions, forest.bucket_ms)
            for document_id, encoded in owner.records.items():
                anew.toggle(document_id, encoded, ending_of(encoded))
            assert (anew.total, anew.root(0, 0, 0)) == (forest.total, forest.root(0, 0, 0))
            assert owner.replica.records.count == len(owner.records)
        first, *others = self.owners
        for owner in others:
            roots = [each.replica.records.forest.root(0, 0, 0) for each in (first, owner)]
            assert (first.records == owner.records) == (roots[0] == roots[1])

    @invariant()
    def what_an_owner_has_only_grows(self) -> None:
        """Until its document is over, or the owner was left out and knows no better."""
        for one, owner in enumerate(self.owners):
            before, self.held[one] = self.held[one], owner.durable()
            held_back = owner.quarantined()
            for document_id, record in before.items():
                over = document_id in self.purged or _expires(record) or document_id in held_back
                if not over and one not in self.left_out:
                    held = self.held[one].get(document_id)
                    assert held is not None, "lost"
                    assert merge(held, record) is held, "forgotten"

    @invariant()
    def what_was_purged_does_not_come_back(self) -> None:
        """Whichever old copy arrives, and whoever is asked that is not cut off."""
        present = [owner for one, owner in enumerate(self.owners) if one not in self.away]
        for owner in present:
            for document_id in self.purged:
                result, encoded = owner.replica.fetch(document_id, None)
                if result is FetchResult.FOUND and encoded is not None:
                    assert decode(document_id, encoded).tombstone is not None

    @invariant()
    def who_was_asked_is_not_fenced(self) -> None:
        """Every floor was promised by everybody who was asked."""
        fenced = [one for one, owner in enumerate(self.owners) if owner.is_fenced]
        assert all(one in self.left_out for one in fenced), f"{fenced}, not {self.left_out}"

    def teardown(self) -> None:
        """Rebuilt, levelled and swept, all hold the same, at least what each had."""
        self.loop.run_all()
        for owner in self.owners:
            owner.clock.ahead_s = 0.0
        self.come_back()
        sound = [owner for one, owner in enumerate(self.owners) if one not in self.left_out]
        before = [owner.durable() for owner in sound]
        for _ in range(3):
            self.rebuild()
            self.level_all(without=None)
            for one in OWNERS:
                self.sweep(one)
            self.loop.run_all()
        self.what_was_purged_does_not_come_back()
        assert not any(owner.is_fenced for owner in self.owners)
        first, *others = [owner.durable() for owner in self.owners]
        for held in others:
            assert held == first
        held_back = [document_id for owner in self.owners for document_id in owner.quarantined()]
        for had in before:
            for document_id, record in had.items():
                over = document_id in self.purged or _expires(record)
                if not over and document_id not in held_back:
                    assert merge(first[document_id], record) is first[document_id]


def _exchange(here: Replica, there: Replica) -> None:
    """What the first of two owners does, when it compares all places of the partition."""
    push, pull = not here.fenced[0], not there.fenced[0]
    if not (push or pull):
        return
    ours, theirs = Comparing(here), Comparing(there)
    first_expiring = here.lifecycle.first_compared_expiring()
    leaves: list[Place] = [Span(tail_of(document_id), 1) for document_id in IDS]
    buckets = ours.buckets(0, first_expiring) | theirs.buckets(0, first_expiring)
    found = Difference()
    for place in [*leaves, *buckets]:
        pages = ours.within(place, b"", None), theirs.page(place, b"")
        found.add(*pages, push=push, pull=pull)
    for document_id, encoded in found.push.items():
        held = there.join(document_id, encoded, vouched=True)
        if held is not None and pull:
            here.join(document_id, held, vouched=True)
    for document_id in found.aside:
        here.set_aside_late(document_id)
    for document_id in found.pull:
        result, known = there.fetch(document_id, None)
        if result is FetchResult.FOUND and known is not None:
            here.join(document_id, known, vouched=True)


def _expires(record: Record) -> bool:
    return record.create is not None and record.create.expires_at_ms != NEVER_MS


def _broken(error: BaseException) -> None:
    raise AssertionError("the memory engine has no failures") from error


Lives.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestLives = Lives.TestCase
