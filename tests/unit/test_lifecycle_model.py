"""Three owners of a partition, and everything that can happen to copies on their way to them.

The replicas, their floors, trees and agreement are production code, on memory disks and a clock
moved by hand; messages are values that arrive when, where and as often as hypothesis likes.
"""

import contextlib
from typing import Final

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cluster.settings import LifecycleSettings
from kvnode.agreement import Agreement
from kvnode.codec import decode, encode
from kvnode.ending import Family, ending_of
from kvnode.errors import LateCopy
from kvnode.hashtree import Bucket, HashForest
from kvnode.record import NEVER_MS, Create, Record, Tombstone, merge
from kvnode.rpc.operations import FetchResult
from kvnode.storage.keys import RECORD_PREFIX, document_id_of
from kvnode.storage.memory import MemoryDisk, MemoryEngine
from tests.support.handcranked import HandCrankedLoop
from tests.support.replicas import new_replica

RETENTION_MS: Final = 3000
#: Of each of two clocks, half of the skew that is allowed for.
CLOCK_ERROR_S: Final = 1.0
LIFE: Final = LifecycleSettings(purge_bucket_s=1.0, clock_skew_max_s=2 * CLOCK_ERROR_S)
IDS: Final = [bytes(14) + bytes([0, tail]) for tail in range(3)]
OWNERS: Final = range(3)

owners = st.sampled_from(OWNERS)
documents = st.sampled_from(IDS)


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
        self.agreement = Agreement(self.replica)
        assert self.replica.restore(), "the stored trees add up"

    @property
    def records(self) -> dict[bytes, bytes]:
        """What was put last, durable or not."""
        latest = ((one, self.replica.records.latest(one)) for one in IDS)
        return {one: encoded for one, encoded in latest if encoded is not None}

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

    @initialize()
    def begin(self) -> None:
        """Something to work with."""
        self.create(IDS[0], 0, lives_s=None)

    # Clients and messages -----------------------------------------------------------------

    @precondition(lambda self: len(self.created) < len(IDS))
    @rule(document_id=documents, via=owners, lives_s=st.sampled_from([None, 1, 4]))
    def create(self, document_id: bytes, via: int, lives_s: int | None) -> None:
        """Once, as ids are unique."""
        if document_id in self.created:
            return
        self.created[document_id] = None
        now_ms = self.owners[via].clock.wall_ms()
        expires_at_ms = now_ms + lives_s * 1000 if lives_s else NEVER_MS
        create = Create(b"text", now_ms, expires_at_ms, document_id * 2)
        self.sent.append((document_id, Record(create=create)))

    @rule(document_id=documents, via=owners)
    def delete(self, document_id: bytes, via: int) -> None:
        """Any number of times; also what was never seen."""
        now_ms = self.owners[via].clock.wall_ms()
        tombstone = Tombstone(now_ms, now_ms + RETENTION_MS)
        self.sent.append((document_id, Record(tombstone=tombstone)))

    @rule(data=st.data(), to=owners, commits=st.booleans())
    def deliver(self, data: st.DataObject, to: int, commits: bool) -> None:
        """A write, a hint, a repair or a copy from a backup: late, doubled, in any order."""
        if self.sent:
            document_id, record = data.draw(st.sampled_from(self.sent))
            with contextlib.suppress(LateCopy):
                self.owners[to].replica.join(document_id, encode(document_id, record))
            if commits:
                self.loop.run_all()

    @rule(one=owners, other=owners)
    def level(self, one: int, other: int) -> None:
        """What ``kvnode.services.exchange`` does with two owners, none of them fenced."""
        pair = self.owners[one].replica, self.owners[other].replica
        for here, there in (pair, pair[::-1]):
            floor = here.lifecycle.floor(0)
            there.meet_floor(0, floor.bucket, floor.newest_deleted_ms)
        self.loop.run_all()
        for here, there in (pair, pair[::-1]):
            first_kept = here.lifecycle.floor(0).bucket
            for document_id in IDS:
                encoded = here.records.durable(document_id)
                if encoded is not None:
                    bucket = here.records.forest.bucket(document_id, ending_of(encoded))
                    if bucket.family is not Family.DELETED or bucket.number >= first_kept:
                        there.join(document_id, encoded, vouched=True)
        self.loop.run_all()

    # Time and crashes ---------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.5, 2.0, 7.0]))
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

    @rule(proposer=owners, told=st.lists(owners, max_size=3))
    def purge(self, proposer: int, told: list[int]) -> None:
        """As ``kvnode.services.purge``; whether all hear of the new floor is chance."""
        self.loop.run_all()
        leader = self.owners[proposer]
        proposal = leader.agreement.propose(0)
        if proposal is None or leader.agreement.own_veto(proposal) is not None:
            return
        for owner in self.owners:
            if owner is not leader and owner.agreement.promise(proposal) is not None:
                return
        self.loop.run_all()
        going = [
            document_id
            for document_id, encoded in leader.records.items()
            if (ending := ending_of(encoded)).family is Family.DELETED
            and ending.ends_at_ms // leader.replica.lifecycle.bucket_ms < proposal.bucket
        ]
        for owner in self.owners:
            held = owner.durable()
            assert all(one in held and held[one].tombstone for one in going), "purged without proof"
        self.purged.update(dict.fromkeys(going))
        leader.agreement.conclude(proposal)
        for one in told:
            fields = (proposal.bucket, proposal.newest_deleted_ms)
            self.owners[one].replica.meet_floor(0, *fields)

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
    def what_was_purged_does_not_come_back(self) -> None:
        """Whichever old copy arrives, and whoever is asked."""
        for owner in self.owners:
            for document_id in self.purged:
                result, encoded = owner.replica.fetch(document_id, None)
                if result is FetchResult.FOUND and encoded is not None:
                    assert decode(document_id, encoded).tombstone is not None

    @invariant()
    def nobody_is_fenced(self) -> None:
        """Every floor was promised by everybody."""
        assert not any(owner.replica.fenced[0] for owner in self.owners)

    def teardown(self) -> None:
        """Levelled pair by pair, and swept, all hold the same, at least what each had."""
        self.loop.run_all()
        for owner in self.owners:
            owner.clock.ahead_s = 0.0
        before = [owner.durable() for owner in self.owners]
        for _ in range(2):
            for one in OWNERS:
                for other in OWNERS:
                    self.level(one, other)
                    self.sweep(one)
        self.loop.run_all()
        first, *others = [owner.durable() for owner in self.owners]
        for held in others:
            assert held == first
        for had in before:
            for document_id, record in had.items():
                over = document_id in self.purged or _expires(record)
                if not over:
                    assert merge(first[document_id], record) is first[document_id]


def _expires(record: Record) -> bool:
    return record.create is not None and record.create.expires_at_ms != NEVER_MS


def _broken(error: BaseException) -> None:
    raise AssertionError("the memory engine has no failures") from error


Lives.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestLives = Lives.TestCase
