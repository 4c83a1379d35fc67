"""What must hold at every commit of every disk, whatever happens around it.

Rules
-----
1. A replica's record only grows (I5): what it says after a commit is the join with what it said
   before. It disappears only when it has expired, into quarantine, or when it is deleted and every
   owner has its tombstone, or has purged it already (I6).
2. A hint that leaves a disk is covered by what its target has on disk (I15), in quarantine or not,
   or its record has expired, or it was given up for its age, and an owner has it (I1), or for its
   damage; then the same batch says that its target is owed a comparison, if the holder is an owner.
3. A vote never changes, or two bodies could both be elected (I9).
4. A record is stored only by owners of its partition (I19).
5. A disk that was wiped or put back to an old copy is fenced once its node has found its peers
   (I22).
6. When a client hears of a write, as many distinct nodes have it on disk as it is told, and as
   many of them as replicas (I18). A hint that was too old the moment after it was acknowledged
   counts.
7. What a node tells another region is true (I20): of every write that it has logged before that
   time, a majority of the owners there has all that the log's batch had, or it has ended.

8. A node's disk that hears that its own region has gone, or is back, is fenced in the same batch,
   and nothing is purged without a region before the disk of every other node has that word (I22).

What is found is kept, not raised: the process that commits would be the one to stumble.
"""

from collections.abc import Callable, Mapping
from math import inf
from typing import Final

import msgspec

from cluster.ids import DocumentId, NodeId, partition_of
from cluster.layout import Rings
from cluster.ringchange import Layout, decode_layout
from cluster.settings import ClusterSettings
from kvnode.boots import decode_boots
from kvnode.floors import decode_floor
from kvnode.hints import decode_hint
from kvnode.outbox import CURSOR, ENTRY
from kvnode.record import NEVER_MS, Record, merge
from kvnode.storage.commit import Changes
from kvnode.storage.keys import (
    boot_key,
    debt_key,
    document_id_of,
    floor_key,
    hint_key,
    hint_target_of,
    layout_key,
    own_boot_key,
    quarantine_key,
    record_key,
)
from scripts.checker.evidence import Bounds, Violation
from scripts.checker.history import Kind, Operation
from tests.simulation.atlas import Atlas, covers, readable
from tests.simulation.disk import SimDisk
from tests.simulation.machine import WALL_AHEAD_S
from tests.simulation.ports import START_MS
from tests.simulation.spoken import Spoken

#: Deadlines are looked at every 50 ms, by the coordinator and by the client's own process; a
#: machine's clock drifts, too.
BOUNDS: Final = Bounds(copies=3, clock_error_s=WALL_AHEAD_S + 0.1, late_s=0.12, start_ms=START_MS)


class Commit(msgspec.Struct):
    """What one commit did to one document on one machine."""

    at_s: float
    machine: str
    #: Whether it changed the machine's record, not a hint.
    is_record: bool
    #: Whether nothing is left of it.
    removed: bool
    what: str


class DiskWatch:
    """Looks at every commit.

    Args:
        region_of: Of every machine.
        disks: Of every node, by name.
        wall_ms: What the wall clock of every node has shown, by name: what is carried out now may
            have been decided before the clock was moved back.
        true_s: Virtual time.
    """

    def __init__(
        self,
        rings: Rings,
        region_of: Mapping[str, str],
        settings: ClusterSettings,
        disks: Mapping[str, SimDisk],
        wall_ms: Mapping[str, Callable[[], int]],
        true_s: Callable[[], float],
    ) -> None:
        self.violations: list[Violation] = []
        lifecycle = settings.lifecycle
        life_s = max(lifecycle.tombstone_retention_s, lifecycle.clock_skew_max_s)
        self.bounds = msgspec.structs.replace(BOUNDS, region_of=region_of, life_s=life_s)
        #: Contents that were ever durable anywhere, and documents that had a tombstone.
        self.contents: dict[bytes, DocumentId] = {}
        self.deleted: dict[DocumentId, None] = {}
        #: Deleted documents that have left disks, and which; and when the first did.
        self.purged: dict[DocumentId, list[str]] = {}
        #: The same, with disks on which they were deleted once more.
        self._ever_purged: dict[DocumentId, dict[str, None]] = {}
        self.gone_s: dict[bytes, float] = {}
        #: From when on keys of deleted documents were free again.
        self.purged_s: dict[bytes, float] = {}
        self._retention_s = lifecycle.tombstone_retention_s
        #: Every copy is known at every moment; nothing has to be taken for granted.
        self.level_s = inf
        #: When documents with a time to live end.
        self.expires_ms: dict[bytes, int] = {}
        self.atlas = Atlas(disks, true_s)
        #: Machines whose disk was replaced and that have no fence for it on disk yet; since when.
        self.undoubted: dict[str, float] = {}
        #: Commits by document, oldest first.
        self.commits: dict[DocumentId, list[Commit]] = {}
        #: When and where hints went for their age, by document and whether it is deleted there.
        self._given_up: dict[tuple[DocumentId, bool], list[tuple[float, str]]] = {}
        self._rings = rings
        self._first_layouts = dict(rings.layouts)
        #: Each layout from the moment on at which it was the newest of its region on any disk.
        self.layouts: list[tuple[float, Layout]] = []
        self.spoken = Spoken(rings, region_of, self.atlas, disks, true_s)
        #: Logged writes that a region has not been told of yet: by node and region, when, the
        #: document, and what was on the node's disk of it.
        self._untold: dict[tuple[str, str], list[tuple[int, DocumentId, Record | None]]] = {}
        self._window_ms = int(settings.hints.window_s * 1000)
        self._bucket_ms = int(settings.lifecycle.purge_bucket_s * 1000)
        self._disks = disks
        self._wall_ms = wall_ms
        self._true_s = true_s

    def committed(self, disk: SimDisk, changes: Changes) -> None:
        """Judge a commit just before it reaches the disk."""
        for key, value in changes.items():
            before = disk.values.get(key)
            match key[:1]:
                case b"r":
                    document_id = document_id_of(key)
                    aside = changes.get(quarantine_key(document_id))
                    if before and aside and aside.endswith(before):
                        self._note(disk, document_id, "quarantined record", None)
                        before = None
                    if before or value:
                        self._record_changed(disk, document_id, before, value)
                case b"h":
                    self._hint_changed(disk, key, before, changes)
                case b"f" if value is not None and decode_floor(value).fenced:
                    self.atlas.is_told(disk.name)
                    self.undoubted.pop(disk.name, None)
                case b"w" if value is not None:
                    self._logged(disk, value, changes)
                case b"a" if value is not None:
                    self._told(disk, key[1:].decode(), value)
                case b"g" if value is not None:
                    fault = self.spoken.heard(disk.name, key, value, changes)
                    if fault:
                        self._violated("I22", fault, None)
                case b"k" if value is not None:
                    layout = decode_layout(value)
                    if layout.order() > self._rings.layouts[layout.region].order():
                        self._rings.adopt(layout)
                        self.layouts.append((self._true_s(), layout))
                case b"v" if before is not None and before != value:
                    self._violated("I9", f"a vote changed on {disk.name}", document_id_of(key))

    def _record_changed(
        self, disk: SimDisk, document_id: DocumentId, before: bytes | None, after: bytes | None
    ) -> None:
        new = readable(document_id, after)
        self._note(disk, document_id, "record", new)
        if new is None:
            old = readable(document_id, before)
            if disk.name not in self._owners(document_id):
                self._handed_over(disk, document_id, old)
                return
            if old is None or old.tombstone is not None:
                self._purged(disk, document_id)
            elif not self._expired(disk, old):
                self._violated("I5", f"{disk.name} lost its record {describe(old)}", document_id)
            return
        if disk.name not in (*self._owners(document_id), *self._owners_by(disk, document_id)):
            self._violated("I19", f"{disk.name} stores what it does not own", document_id)
        if disk.name in self.purged.get(document_id, ()):
            self.purged[document_id].remove(disk.name)  # deleted once more
        old = readable(document_id, before)
        if old is None or merge(new, old) is new:
            return
        another_life = new.tombstone is None and self.below_floor(disk, document_id, old)
        if old.tombstone is not None and (new.create is None or another_life):
            self._purged(disk, document_id)  # and deleted once more, or begun anew, in one batch
        elif new.create is not None or not self._expired(disk, old):  # or expired, and deleted
            self._violated("I5", f"{disk.name} forgot {describe(old)}", document_id)

    def _owners(self, document_id: bytes) -> list[NodeId]:
        return self._rings.owners(partition_of(document_id, self._rings.partitions))

    def _owners_by(self, disk: SimDisk, document_id: DocumentId) -> tuple[NodeId, ...]:
        """Who owns a document by the layout that a node knows."""
        region = self._rings.region_of[NodeId(disk.name)]
        encoded = disk.values.get(layout_key(region))
        layout = decode_layout(encoded) if encoded is not None else self._first_layouts[region]
        return layout.ring().primaries(partition_of(document_id, layout.partitions))

    def _handed_over(self, disk: SimDisk, document_id: DocumentId, old: Record | None) -> None:
        """Judge that what a node no longer owns leaves its disk."""
        partition = partition_of(document_id, self._rings.partitions)
        encoded = disk.values.get(floor_key(partition))
        if old is None:
            return
        what = f"{disk.name} gave up {describe(old)}"
        if encoded is not None and decode_floor(encoded).fenced:
            if not self._is_with_an_owner(document_id, old):
                self._violated("I23", f"{what}, and no owner has it", document_id)
            return
        region = self._rings.region_of[NodeId(disk.name)]
        owners = self._rings.owners_in(region, partition)
        missing = [owner for owner in owners if not self._has_all(owner, document_id, old)]
        if missing:
            self._violated("I23", f"{what}, and {missing} lack it", document_id)

    def _logged(self, disk: SimDisk, value: bytes, changes: Changes) -> None:
        """A write is in the outbox, with its record or in one batch with it."""
        _, coordinated_ms, raw_id = ENTRY.unpack_from(value)
        document_id, key = DocumentId(raw_id), record_key(raw_id)
        encoded = value[ENTRY.size :] or changes.get(key, disk.values.get(key))
        record = readable(document_id, encoded)  # None: it has ended, and is stored nowhere
        for region in self._rings.other_regions(NodeId(disk.name)):
            untold = self._untold.setdefault((disk.name, region), [])
            untold.append((coordinated_ms, document_id, record))

    def _told(self, disk: SimDisk, region: str, value: bytes) -> None:
        """Judge that a region is about to be told how far a node has come."""
        *_, told_ms = CURSOR.unpack(value)
        untold = self._untold.get((disk.name, region), [])
        self._untold[disk.name, region] = [entry for entry in untold if entry[0] >= told_ms]
        for coordinated_ms, document_id, record in untold:
            if coordinated_ms >= told_ms or record is None or document_id in self.atlas.lost:
                continue
            partition = partition_of(document_id, self._rings.partitions)
            owners = self._rings.by_region[region].readers(partition)
            missing = [owner for owner in owners if not self._has_all(owner, document_id, record)]
            if not self._purged_before(document_id, coordinated_ms):
                # What was given up with its region may be purged before the log says so, and
                # deleted once more.
                purged = self._ever_purged.get(document_id, {})
                missing = [owner for owner in missing if owner not in purged]
            if 2 * len(missing) >= len(owners):
                what = f"{disk.name} says that {missing} are beyond {told_ms}, and they lack"
                logged = f"{describe(record)}, logged at {coordinated_ms}"
                self._violated("I20", f"{what} {logged}", document_id)

    def _has_all(self, owner: str, document_id: DocumentId, wanted: Record) -> bool:
        """Whether an owner has a record, or has had it, or it has ended there."""
        disk = self._disks[owner]
        return (
            covers(readable(document_id, disk.values.get(record_key(document_id))), wanted)
            or quarantine_key(document_id) in disk.values
            or owner in self.purged.get(document_id, ())
            or self._excused(owner, document_id)
            or self._expired(disk, wanted)
            or self.below_floor(disk, document_id, wanted)
        )

    def _expired(self, disk: SimDisk, record: Record) -> bool:
        expires_at_ms = record.create.expires_at_ms if record.create is not None else 0
        return 0 < expires_at_ms <= self._wall_ms[disk.name]()

    def _purged(self, disk: SimDisk, document_id: DocumentId) -> None:
        """Judge that a deleted record leaves a disk."""
        self.purged.setdefault(document_id, []).append(disk.name)
        self._ever_purged.setdefault(document_id, {})[disk.name] = None
        self.gone_s.setdefault(document_id, self._true_s())
        # Who stayed away was neither told of the deletion nor asked: what it creates under the key,
        # once the deletion is old enough to be purged, is another life.
        away = any(self.atlas.was_ever_away(owner) for owner in self._owners(document_id))
        self.purged_s.setdefault(document_id, self._true_s() - away * self._retention_s)
        held = readable(document_id, disk.values.get(record_key(document_id)))
        for region, unaware in self.spoken.unaware().items():
            if held is not None and not self._promised_in(region, document_id, held):
                what = f"{disk.name} purges without region {region}, and {unaware} know nothing"
                self._violated("I22", what, document_id)
        if self._excused(disk.name, document_id):
            return  # it takes over what the others have agreed to
        purged = held
        for owner in self._owners(document_id):
            if owner in self.purged[document_id] or self._excused(owner, document_id):
                continue
            if self._came_later(owner, document_id, purged):
                continue
            encoded = self._disks[owner].values.get(record_key(document_id))
            held = readable(document_id, encoded)
            if held is None and encoded is not None:
                continue  # damaged since; what takes its place is an owner's
            if held is None or held.tombstone is None:
                what = f"{disk.name} purges what is deleted, but {owner} has {describe(held)}"
                self._violated("I6", what, document_id)

    def _came_later(self, owner: NodeId, document_id: DocumentId, held: Record | None) -> bool:
        """Whether an owner that was none before has yet to get all, or got it without the purged.

        What was agreed before a change is carried out during it, and after it.
        """
        partition = partition_of(document_id, self._rings.partitions)
        disk = self._disks[owner]
        encoded = disk.values.get(floor_key(partition))
        if not any(partition in layout.gained_by(owner) for _, layout in self.layouts):
            return False
        if owner in self._rings.by_region[self._rings.region_of[owner]].filling(partition):
            return True
        fenced = encoded is not None and decode_floor(encoded).fenced
        return fenced or (held is not None and self.below_floor(disk, document_id, held))

    def _promised_in(self, region: str, document_id: DocumentId, record: Record) -> bool:
        """Whether a region's owners have promised that a deletion may be purged."""
        assert record.tombstone is not None
        partition = partition_of(document_id, self._rings.partitions)
        bucket = record.tombstone.delete_at_ms // self._bucket_ms
        disks = [self._disks[owner] for owner in self._rings.owners_in(region, partition)]
        floors = [disk.values.get(floor_key(partition)) for disk in disks]
        return all(floor and decode_floor(floor).promised > bucket for floor in floors)

    def below_floor(self, disk: SimDisk, document_id: DocumentId, record: Record) -> bool:
        """Whether a deletion is of a time that a disk's owner has agreed to purge."""
        encoded = disk.values.get(floor_key(partition_of(document_id, self._rings.partitions)))
        if encoded is None or record.tombstone is None:
            return False
        return record.tombstone.delete_at_ms // self._bucket_ms < decode_floor(encoded).bucket

    def _purged_before(self, document_id: DocumentId, at_ms: int) -> bool:
        """Whether a document had been purged when a clock said this."""
        gone_s = self.gone_s.get(document_id, inf)
        return at_ms > START_MS + 1000 * (gone_s + BOUNDS.clock_error_s)

    def _excused(self, owner: str, document_id: DocumentId) -> bool:
        """Whether an owner was not asked about a purge, or has lost the answer with its disk."""
        return self.atlas.was_ever_away(owner) or self.atlas.was_struck(owner, document_id)

    def _hint_changed(
        self, disk: SimDisk, key: bytes, before: bytes | None, changes: Changes
    ) -> None:
        target, document_id = hint_target_of(key), document_id_of(key)
        after = changes[key]
        new = readable(document_id, after and decode_hint(after)[1])
        self._note(disk, document_id, f"hint for {target}", new)
        if before is None:
            return
        held_at_ms, encoded = decode_hint(before)
        old = readable(document_id, encoded)
        stored = readable(document_id, self._disks[target].values.get(record_key(document_id)))
        if old is not None and (covers(new, old) or covers(stored, old)):
            return
        what = f"{disk.name} dropped its hint {describe(old)}"
        if target not in self._owners(document_id):
            if old is not None and not self._is_with_an_owner(document_id, old):
                self._violated("I23", f"{what} for one that owns nothing now", document_id)
            return
        too_old = self._wall_ms[disk.name]() - held_at_ms > self._window_ms
        if quarantine_key(document_id) in self._disks[target].values or (
            old is not None and self._expired(self._disks[target], old)
        ):
            return
        if old is not None and self.below_floor(self._disks[target], document_id, old):
            return
        if target in self.purged.get(document_id, ()) and not self._purged_before(
            document_id, held_at_ms
        ):
            return  # the target has had it, deleted: its answer was long under way
        if too_old:
            if old is not None and not self._is_with_an_owner(document_id, old):
                self._violated("I1", f"{what} for its age, and no owner has it", document_id)
            for deleted in (False, True):
                if _has(document_id, encoded, deleted=deleted):
                    gone = self._given_up.setdefault((document_id, deleted), [])
                    gone.append((self._true_s(), disk.name))
        elif old is not None:
            what = f"{what}, but {target} has {describe(stored)}"
            self._violated("I15", what, document_id)
        partition = partition_of(document_id, self._rings.partitions)
        ring = self._rings.by_region[self._rings.region_of[NodeId(disk.name)]]
        if disk.name not in ring.voters(partition):
            return  # who gains the partition is yet to hear of it, or is given all
        debt = debt_key(target, partition)
        # What is over by this clock is compared no more: a debt for it may be paid in this batch.
        over = old is not None and self._expired(disk, old)
        if changes.get(debt, disk.values.get(debt)) is None and not over:
            self._violated("I15", f"{what}, and says nowhere that it is lost", document_id)

    def _is_with_an_owner(self, document_id: DocumentId, wanted: Record) -> bool:
        """Whether an owner has a record on disk, or had it on a disk that was taken away."""
        for owner in self._owners(document_id):
            values = self._disks[owner].values
            held = readable(document_id, values.get(record_key(document_id)))
            if covers(held, wanted) or quarantine_key(document_id) in values:
                return True
            if self._excused(owner, document_id):
                return True
        return self._expired(self._disks[owner], wanted)

    def _note(
        self, disk: SimDisk, document_id: DocumentId, what: str, record: Record | None
    ) -> None:
        says = f"{what} {describe(record)}"
        is_record = what.endswith("record")
        commit = Commit(self._true_s(), disk.name, is_record, record is None, says)
        self.commits.setdefault(document_id, []).append(commit)
        if record is not None and record.create is not None:
            self.contents[record.create.content] = document_id
            if record.create.expires_at_ms != NEVER_MS:
                self.expires_ms[document_id] = record.create.expires_at_ms
        if record is not None and record.tombstone is not None:
            self.deleted[document_id] = None

    def forget(self, machine: str, values: Mapping[bytes, bytes]) -> None:
        """A machine's disk is about to be wiped or replaced: what it had is gone.

        Args:
            values: What it holds from then on.
        """
        self.atlas.destroys(machine)
        self.spoken.forget(machine, values)
        if self._rings.partitions_of(NodeId(machine)) and self._is_behind(machine, values):
            self.undoubted[machine] = self._true_s()
        for commits in self.commits.values():
            commits[:] = [commit for commit in commits if commit.machine != machine]

    def _is_behind(self, machine: str, values: Mapping[bytes, bytes]) -> bool:
        """Whether a disk with these values lacks a boot of its machine that somebody has met."""
        rows = [disk.values.get(boot_key(NodeId(machine))) for disk in self._disks.values()]
        met = [boot for row in rows if row is not None for boot in decode_boots(row)]
        return any(own_boot_key(*boot) not in values for boot in met)

    def acknowledged(self, operation: Operation) -> None:
        """Judge a write just when its client hears that it succeeded."""
        stored, document_id = operation.stored, operation.document_id
        if stored is None:
            return
        assert document_id is not None
        deleted = operation.kind is Kind.DELETE
        away = self.away_between(operation.invoked_s, self._true_s())
        near = {
            name: disk
            for name, disk in self._disks.items()
            if (operation.quorums.each_region and self.bounds.region_of[name] not in away)
            or self.bounds.together(name, operation.via)
        }
        replicas = [
            name
            for name, disk in near.items()
            if _has(document_id, disk.values.get(record_key(document_id)), deleted=deleted)
        ]
        holders = [
            name
            for name, disk in near.items()
            for target in near
            if (value := disk.values.get(hint_key(NodeId(target), document_id))) is not None
            and _has(document_id, decode_hint(value)[1], deleted=deleted)
        ]
        # It was there when its holder said so, and the answer was under way when it went.
        gone = self._given_up.get((document_id, deleted), [])
        holders += [name for at_s, name in gone if at_s >= operation.invoked_s]
        found = f"on disk at {replicas}, hints at {holders}: {operation}"
        regions = {self.bounds.region_of.get(name): None for name in near}
        fewest = min(
            sum(self.bounds.region_of.get(name) == region for name in replicas)
            for region in regions
        )
        if fewest < operation.replicas:
            self._violated("I18", f"fewer replicas than said, {found}", document_id)
        if len({*replicas, *holders}) < stored.acked:
            self._violated("I18", f"fewer nodes than said, {found}", document_id)

    def is_misled(self, machine: str, at_s: float) -> bool:
        """See ``Spoken``."""
        return self.spoken.is_misled(machine, at_s)

    def away_between(self, start_s: float, end_s: float) -> list[str]:
        """See ``Spoken``."""
        return self.spoken.away_between(start_s, end_s)

    def holders_during(self, document_id: bytes, start_s: float, end_s: float) -> list[str]:
        """The replicas that reads asked and that had something of it on disk all the time."""
        found: dict[str, None] = {}
        readers = self._readers_during(document_id, start_s, end_s)
        for commit in self.commits.get(DocumentId(document_id), []):
            if not commit.is_record or commit.at_s >= (end_s if commit.removed else start_s):
                continue
            found[commit.machine] = None
            if commit.removed:
                del found[commit.machine]
        return [name for name in found if name in readers]

    def _readers_during(self, document_id: bytes, start_s: float, end_s: float) -> list[str]:
        """Whom all nodes took for readers: none is more than a phase behind the newest."""
        partition = partition_of(document_id, self._rings.partitions)
        found: list[str] = []
        for region, first in self._first_layouts.items():
            known = [first] + [
                one for at_s, one in self.layouts if one.region == region and at_s < end_s
            ]
            before = sum(one.region == region and at_s <= start_s for at_s, one in self.layouts)
            readers = [one.ring().readers(partition) for one in known[max(0, before - 1) :]]
            found += [name for name in readers[0] if all(name in one for one in readers)]
        return found

    def _violated(self, invariant: str, what: str, document_id: bytes | None) -> None:
        at_s = self._true_s()
        what = f"{at_s:.4f} s: {what}"
        self.violations.append(Violation(invariant, what, document_id, at_s))


def _has(document_id: bytes, encoded: bytes | None, *, deleted: bool) -> bool:
    record = readable(document_id, encoded)
    return record is not None and (record.tombstone is not None or not deleted)


def describe(record: Record | None) -> str:
    """A record in a few words."""
    if record is None:
        return "nothing"
    parts = []
    if record.create is not None:
        parts.append(f"{record.create.content!r} of {record.create.created_at_ms}")
    if record.tombstone is not None:
        parts.append(f"tombstone of {record.tombstone.deleted_at_ms}")
    return " + ".join(parts)
