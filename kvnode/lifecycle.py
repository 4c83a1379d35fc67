"""What may be stored, what has ended, and how far each partition has been purged.

Rules
-----
1. What has ended is not stored again: an EXPIRING record whose bucket is over, or a DELETED one
   below its partition's floor, is answered as merged and left out. So a late copy of it can't make
   two replicas repair each other for ever.
2. An unknown copy that may be of a purged document (``kvnode.floors``, rule 4) is LATE. Only a
   co-owner that compares whole partitions can vouch for it, for then an owner knows it; and only
   for as long as both have the floor that they compared at, for later it may have been purged.
3. A deletion that comes when its owners have agreed on the floor above it was known to none of
   them: whoever had it was away. If the document lives on, it is deleted as of now, so that all
   hear of it before it is purged. If it is another life of its key, begun since, it is left alone.
   It is met where the document lives, or by an owner's live copy where the deletion is; so what a
   fenced partition has of deletions is kept until it was compared.
4. Comparisons leave out what is over: EXPIRING buckets by the clock of whoever compares, DELETED
   ones by the floor that both have. Removal keeps a clock's error behind.
"""

from enum import Enum, auto

from cluster.settings import LifecycleSettings
from kvnode.ending import Ending, Family, first_open
from kvnode.floors import Floor
from kvnode.ports import Clock
from kvnode.record import Record, Tombstone


class Admission(Enum):
    """What to do with a record that is not there yet."""

    STORE = auto()
    #: It has ended: nothing to do.
    OVER = auto()
    #: Its document may have been purged: ask its owners.
    LATE = auto()


class Lifecycle:
    """One node's view of all partitions it has to do with.

    Args:
        partitions: How many there are in the region's ring.
    """

    def __init__(self, clock: Clock, settings: LifecycleSettings, partitions: int) -> None:
        self._clock = clock
        self.bucket_ms = max(1, round(settings.purge_bucket_s * 1000))
        self.skew_ms = round(settings.clock_skew_max_s * 1000)
        self._retention_ms = round(settings.tombstone_retention_s * 1000)
        self._floors = [Floor()] * partitions
        #: No floor's ``newest_deleted_ms`` plus skew is above this: the first look is cheap.
        self._late_before_ms = -1

    def admit(self, partition: int, ending: Ending, *, vouched: bool) -> Admission:
        """Judge a record that is unknown here.

        Args:
            vouched: An owner that compared this partition with us has it.
        """
        if ending.family is Family.DELETED:
            below = ending.ends_at_ms // self.bucket_ms < self._floors[partition].bucket
            return Admission.OVER if below else Admission.STORE
        if ending.family is Family.EXPIRING and (
            ending.ends_at_ms // self.bucket_ms < self.first_kept()
        ):
            return Admission.OVER
        if (
            not vouched
            and ending.created_at_ms <= self._late_before_ms
            and ending.created_at_ms <= self._floors[partition].newest_deleted_ms + self.skew_ms
        ):
            return Admission.LATE
        return Admission.STORE

    def purged(self, partition: int, deleted: Record) -> bool:
        """Whether all owners have agreed to remove what ended so long ago, or were not asked."""
        assert deleted.tombstone is not None
        bucket = deleted.tombstone.delete_at_ms // self.bucket_ms
        return bucket < self._floors[partition].bucket

    def met_alive(self, partition: int, alive: Record, joined: Record) -> Record:
        """What becomes of a live record that is joined with a tombstone: see rule 3."""
        assert alive.create is not None
        assert joined.tombstone is not None
        tombstone = joined.tombstone
        if tombstone.delete_at_ms // self.bucket_ms >= self._floors[partition].promised:
            return joined
        if tombstone.deleted_at_ms + self.skew_ms < alive.create.created_at_ms:
            return alive
        delete_at_ms = self._clock.wall_ms() + self._retention_ms
        return Record(joined.create, Tombstone(tombstone.deleted_at_ms, delete_at_ms))

    def first_compared_expiring(self) -> int:
        """First bucket of EXPIRING records that a comparison started now takes in."""
        return first_open(self._clock.wall_ms(), self.bucket_ms)

    def first_kept(self) -> int:
        """First bucket that is not over yet for whoever removes: a clock's error is waited for."""
        return first_open(self.surely_past_ms(), self.bucket_ms)

    def surely_past_ms(self) -> int:
        """A time that every node's clock has passed."""
        return self._clock.wall_ms() - self.skew_ms

    def floor(self, partition: int) -> Floor:
        """How far a partition has been purged."""
        return self._floors[partition]

    def set_floor(self, partition: int, floor: Floor) -> None:
        """Take over a floor that is stored, or being stored."""
        self._floors[partition] = floor
        if floor.bucket:
            late_before_ms = floor.newest_deleted_ms + self.skew_ms
            self._late_before_ms = max(self._late_before_ms, late_before_ms)
