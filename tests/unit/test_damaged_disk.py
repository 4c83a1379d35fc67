"""A replica on a disk that is damaged in places, or nearly full."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvnode.codec import encode
from kvnode.ending import Family, ending_of
from kvnode.errors import DamagedBlock, DiskLow
from kvnode.record import Create, Record, Tombstone
from kvnode.replica import Replica
from kvnode.rpc.operations import FetchResult
from kvnode.storage.keys import ENDING_PREFIX, document_id_of, record_key
from kvnode.storage.memory import MemoryDisk, MemoryEngine
from tests.support.handcranked import HandCrankedLoop
from tests.support.replicas import new_replica

LIVE = Record(Create(b"x", 1, 0, b"c" * 32))
LATER = 10**15
DELETED = Record(tombstone=Tombstone(2, LATER))
EXPIRING = Record(Create(b"x", 1, LATER, b"c" * 32))
STATES = st.sampled_from([LIVE, EXPIRING, DELETED])
#: Not of UUID version 7: whether one is absent is known from the index of stored ids alone.
IDS = [b"%016d" % number for number in range(12)]


class Life:
    """A replica from one start to the next."""

    def __init__(self) -> None:
        self.disk = MemoryDisk()
        self.restart()

    def restart(self) -> None:
        """Only what is on the disk is left."""
        self.loop = HandCrankedLoop()
        engine = MemoryEngine(self.disk, self.loop.as_loop, failed=_raise)
        self.replica: Replica = new_replica(engine, self.loop)
        self.replica.restore()

    def join(self, document_id: bytes, record: Record, *, vouched: bool = False) -> None:
        """Durable on return."""
        self.replica.join(document_id, encode(document_id, record), vouched=vouched)
        self.loop.run_all()

    def damage(self, document_id: bytes) -> None:
        """Flip a bit of the last byte."""
        encoded = bytearray(self.disk.values[record_key(document_id)])
        encoded[-1] ^= 1
        self.disk.apply({record_key(document_id): bytes(encoded)})

    def indexed(self) -> list[bytes]:
        """Whose endings are on the disk."""
        rows = [key for key in self.disk.values if key.startswith(ENDING_PREFIX)]
        return sorted(map(document_id_of, rows))

    def fetch(self, document_id: bytes) -> FetchResult:
        """What it says of a document."""
        return self.replica.fetch(document_id, None)[0]


def _raise(error: BaseException) -> None:
    raise error


@given(stored=st.sets(st.sampled_from(IDS)), damaged=st.sets(st.sampled_from(IDS)))
@settings(deadline=None)
def test_what_may_be_where_the_disk_can_not_be_read_is_never_said_to_be_absent(
    stored: set[bytes], damaged: set[bytes]
) -> None:
    """The index of stored ids answers without the disk, so it must know what it has not seen."""
    life = Life()
    for document_id in sorted(stored):
        life.join(document_id, LIVE)
    life.restart()
    life.disk.damaged = {record_key(document_id) for document_id in damaged & stored}
    while life.replica.records.index_some(2):
        pass
    for document_id in IDS:
        if document_id in damaged & stored:
            assert life.fetch(document_id) is FetchResult.UNKNOWN
            with pytest.raises(DamagedBlock):
                life.join(document_id, LIVE)
        else:
            expected = FetchResult.FOUND if document_id in stored else FetchResult.ABSENT
            assert life.fetch(document_id) is expected


def test_a_replica_that_is_low_on_disk_takes_no_new_document_and_every_delete() -> None:
    """Whoever coordinates: its own clients get 507, those of others must not fill it either."""
    life = Life()
    life.join(IDS[0], LIVE)
    life.replica.disk_low = True
    with pytest.raises(DiskLow):
        life.join(IDS[1], LIVE)
    assert life.fetch(IDS[1]) is FetchResult.ABSENT
    life.join(IDS[0], LIVE)  # it has it already
    for document_id in IDS[:2]:
        life.join(document_id, DELETED)
        assert life.fetch(document_id) is FetchResult.FOUND
    life.join(IDS[2], LIVE, vouched=True)  # it lacks what the co-owners have
    assert life.fetch(IDS[2]) is FetchResult.FOUND
    life.replica.disk_low = False
    life.join(IDS[3], LIVE)


@given(was=STATES)
@settings(deadline=None)
def test_a_damaged_record_that_has_ended_goes_by_what_the_index_says(was: Record) -> None:
    """Its own bytes can not, and once the others have purged theirs nobody has a sound copy."""
    life = Life()
    life.join(IDS[0], was)
    life.damage(IDS[0])
    ends = ending_of(encode(IDS[0], was)).family is not Family.LASTING
    assert bool(life.indexed()) == ends
    for bucket in list(life.replica.records.forest.all_buckets()):
        for document_id, _ in life.replica.records.in_bucket(bucket, b"", len(IDS)):
            assert life.replica.remove_ended(document_id, bucket, expiring=LATER, deleted=LATER)
    life.loop.run_all()
    assert (record_key(IDS[0]) in life.disk.values) != ends
    assert life.replica.records.count == (0 if ends else 1)
    assert (life.replica.records.deleted_count, life.indexed()) == (0, [])


@given(was=STATES, becomes=STATES, others=st.lists(STATES, max_size=3))
@settings(deadline=None)
def test_deletions_are_counted_and_endings_indexed_once_whatever_a_damaged_record_was(
    was: Record, becomes: Record, others: list[Record]
) -> None:
    """A count that has lost one can fall below zero: that is no number to store."""
    life = Life()
    records = dict(zip(IDS[1:], others, strict=False))
    for document_id, record in records.items():
        life.join(document_id, record)
    life.join(IDS[0], was)
    life.damage(IDS[0])
    life.join(IDS[0], becomes, vouched=True)
    records[IDS[0]] = becomes
    families = {one: ending_of(encode(one, record)).family for one, record in records.items()}
    deleted_count = sum(family is Family.DELETED for family in families.values())
    assert life.replica.records.deleted_count == deleted_count
    ending = sorted(one for one, family in families.items() if family is not Family.LASTING)
    assert life.indexed() == ending
    for bucket in list(life.replica.records.forest.all_buckets()):
        for document_id, _ in life.replica.records.in_bucket(bucket, b"", len(IDS)):
            life.replica.remove_ended(document_id, bucket, expiring=LATER, deleted=LATER)
    life.loop.run_all()
    assert (life.replica.records.deleted_count, life.indexed()) == (0, [])
    assert life.replica.records.count == len(records) - len(ending)
