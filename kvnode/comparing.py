"""A replica's side of a comparison: digests of its trees, and what is in a leaf or a bucket.

Both sides of an exchange use it, the one that asks for its own part (``kvnode.services.exchange``)
and the one that answers (``kvnode.handlers``).

Rules
-----
1. A place is a leaf of LASTING records (a span of width 1) or a bucket; both list ids in the order
   of their keys, a page at a time.
2. Digests of trees include what is not durable yet, listings only what is. A difference that is
   only that is gone at the next look.
3. Damaged records are in no listing, so their place differs until they have been replaced.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import msgspec

from cluster.ids import DocumentId
from kvnode.codec import verify
from kvnode.ending import Family, ending_of
from kvnode.errors import CorruptRecord
from kvnode.hashtree import LEAVES, Bucket, Span, digest_of, digests_to_bytes
from kvnode.replica import Replica
from kvnode.rpc.operations import Fields
from kvnode.storage.keys import record_key

Place = Span | Bucket
#: Entries of one page; an answer of them is below a tenth of a frame.
PAGE_ENTRIES: Final = 2000
#: Nodes of the trees that one request may ask about.
SPANS_MAX: Final = 4096


class Entry(msgspec.Struct, frozen=True):
    """A record in a listing."""

    document_id: DocumentId
    digest: int


class Comparing:
    """See the module's rules."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._records = replica.records
        self.partitions = replica.records.forest.partitions

    def root(self, partition: int, first_expiring: int) -> int:
        """Of all records of a partition that count now."""
        first_deleted = self._replica.lifecycle.floor(partition).bucket
        return self._records.forest.root(partition, first_expiring, first_deleted)

    def compare(self, first_expiring: int, rows: Fields) -> Fields:
        """Answer a peer: of its partitions, those that differ here or are in doubt.

        Args:
            rows: [partition, floor, newest_deleted_ms, root], of each.

        Returns:
            [partition, floor, newest_deleted_ms, root, doubted], of each that differs. What is
            fenced here, or without a lease, is in doubt: it must not be taken for all there is.

        Raises:
            ValueError, TypeError: these are none.
        """
        answer = []
        for partition, bucket, newest_deleted_ms, root in rows:
            self.check_partition(partition)
            self._replica.meet_floor(partition, bucket, newest_deleted_ms)
            floor = self._replica.lifecycle.floor(partition)
            ours = self.root(partition, first_expiring)
            doubted = not self._replica.believes(partition)
            if doubted or floor.bucket != bucket or root != ours:
                answer.append([partition, floor.bucket, floor.newest_deleted_ms, ours, doubted])
        return answer

    def check_partition(self, partition: object) -> None:
        """Raise ValueError for what is none."""
        if not (isinstance(partition, int) and 0 <= partition < self.partitions):
            raise ValueError("no such partition")

    def children(self, spans: Iterable[Span]) -> list[bytes]:
        """The digests of each span's children, packed."""
        forest = self._records.forest
        return [
            digests_to_bytes(forest.digest_of_span(child) for child in span.children())
            for span in spans
        ]

    def buckets(self, partition: int, first_expiring: int) -> dict[Bucket, int]:
        """Digests of a partition's buckets that count now."""
        forest = self._records.forest
        firsts = {
            Family.EXPIRING: first_expiring,
            Family.DELETED: self._replica.lifecycle.floor(partition).bucket,
        }
        return {
            Bucket(family, partition, number): digest
            for family, first in firsts.items()
            for number, digest in forest.buckets(family, partition, first)
        }

    def place_from_wire(self, raw: object) -> Place:
        """The inverse of ``place_to_wire``. Raises ValueError for what it can't have made."""
        if not (isinstance(raw, list) and len(raw) == 3):
            raise ValueError("a place is three numbers")
        kind, first, second = raw
        if kind == 0:
            return span_from_wire([first, second])
        self.check_partition(first)
        if not (isinstance(second, int) and 0 <= second < 1 << 48):
            raise ValueError("no such bucket")
        return Bucket(Family(kind), first, second)

    def page(self, place: Place, after: bytes) -> list[Entry]:
        """The next PAGE_ENTRIES (or fewer, at the end) behind the id ``after``."""
        entries: list[Entry] = []
        for document_id, encoded in self._listed(place, after):
            entries.append(Entry(document_id, digest_of(document_id, encoded)))
            if len(entries) == PAGE_ENTRIES:
                break
        return entries

    def within(self, place: Place, after: bytes, upto: bytes | None) -> dict[DocumentId, bytes]:
        """The records of a place behind one id, up to and with another (None: to the end)."""
        found: dict[DocumentId, bytes] = {}
        for document_id, encoded in self._listed(place, after):
            if upto is not None and record_key(document_id) > record_key(upto):
                break
            found[document_id] = encoded
        return found

    def _listed(self, place: Place, after: bytes) -> Iterator[tuple[DocumentId, bytes]]:
        """Sound records of a place, in key order."""
        while True:
            if isinstance(place, Span):
                rows: Sequence[tuple[DocumentId, bytes | None]]
                rows = self._records.in_span(place, after, PAGE_ENTRIES)
            else:
                listed = self._records.in_bucket(place, after, PAGE_ENTRIES)
                rows = [(one, self._read(one)) for one, _ in listed]
            for document_id, encoded in rows:
                if encoded is not None and self._belongs(place, document_id, encoded):
                    yield document_id, encoded
            if len(rows) < PAGE_ENTRIES:
                return
            after = rows[-1][0]

    def _read(self, document_id: bytes) -> bytes | None:
        try:
            return self._records.durable(document_id)
        except CorruptRecord:
            return None

    def _belongs(self, place: Place, document_id: bytes, encoded: bytes) -> bool:
        try:
            verify(document_id, encoded)
        except CorruptRecord:
            return False
        ending = ending_of(encoded)
        if isinstance(place, Span):
            return ending.family is Family.LASTING
        return self._records.forest.bucket(document_id, ending) == place


class Difference(msgspec.Struct):
    """What is to be done about some places."""

    #: What the peer lacks, or has otherwise.
    push: dict[DocumentId, bytes] = {}
    #: What is missing here, or not to be believed.
    pull: list[DocumentId] = []
    #: What a fenced replica alone has, which may be of purged documents.
    aside: list[DocumentId] = []

    def __len__(self) -> int:
        return len(self.push) + len(self.pull) + len(self.aside)

    def add(
        self, ours: dict[DocumentId, bytes], theirs: Sequence[Entry], *, push: bool, pull: bool
    ) -> None:
        """Compare a page of a place.

        Args:
            push: Whether what is here is to be believed.
            pull: Whether what is there is to be believed.
        """
        known = {entry.document_id: entry.digest for entry in theirs}
        missing = [one for one in known if one not in ours]
        for document_id, encoded in ours.items():
            if known.get(document_id) == digest_of(document_id, encoded):
                continue
            if push:
                self.push[document_id] = encoded
            elif document_id in known:
                missing.append(document_id)
            else:
                self.aside.append(document_id)
        if pull:
            self.pull += missing


def place_to_wire(place: Place) -> list[int]:
    """[0, first leaf, width] or [family, partition, number]."""
    if isinstance(place, Span):
        return [0, place.first, place.width]
    return [place.family, place.partition, place.number]


def span_from_wire(raw: object) -> Span:
    """[first leaf, width]. Raises ValueError."""
    if not (isinstance(raw, list) and len(raw) == 2 and all(isinstance(part, int) for part in raw)):
        raise ValueError("a span is two numbers")
    first, width = raw
    if width < 1 or width & (width - 1) or first % width or not 0 <= first <= LEAVES - width:
        raise ValueError("no such span")
    return Span(first, width)
