"""Create, read and delete documents: the use cases, without any HTTP.

Rules
-----
1. Stateless. Everything a call needs comes in as an argument or from the store, so any instance
   gives the same answer.
2. An id is minted here, never taken from a client: from time and randomness, on a partition this
   process can write without a hop, or from the idempotency key, so that a retry on any node in any
   region meets the same record.
3. The status is derived when a record is read. A document whose time to live has passed is gone at
   that instant everywhere, whether or not a sweep has removed it.
4. A keyed create answers with what the store holds, never with what it was asked to store: the
   same body gets the first answer again, another body gets KeyReused.
5. Deleting is blind and idempotent: it writes a tombstone, also for an id nobody has seen, for its
   create may still be on the way.
"""

import hashlib
from collections.abc import Awaitable, Mapping
from typing import Final, Literal

import msgspec

from cluster.ids import (
    UUID7_RANDOM_BYTES,
    DocumentId,
    PartitionId,
    uuid7,
    uuid7_in_partition,
    uuid8_of_key,
)
from cluster.settings import LifecycleSettings, Quorum, ReplicationSettings, resolve_quorum
from docservice.store import DocumentStore
from kvnode.errors import StoreError
from kvnode.idempotency import first_create
from kvnode.ports import Clock, Entropy
from kvnode.record import (
    CONTENT_BYTES_MAX,
    FINGERPRINT_BYTES,
    NEVER_MS,
    Create,
    Record,
    Status,
    Tombstone,
)
from kvnode.results import Fetched, Stored

#: A hundred years: far enough for anyone, near enough that an expiry stays a four-digit year.
TTL_SECONDS_MAX: Final = 100 * 366 * 24 * 3600
#: While there is one tenant.
TENANT: Final = ""
_UNKEYED: Final = bytes(FINGERPRINT_BYTES)

Level = Literal["one", "two", "quorum", "all", "local_quorum", "each_quorum"]
#: The last two mean the same in a cluster of one region.
QUORUM_OF_LEVEL: Final[Mapping[Level, Quorum]] = {
    "one": "one",
    "two": 2,
    "quorum": "quorum",
    "all": "all",
    "local_quorum": "quorum",
    "each_quorum": "quorum",
}


class DocumentNotFound(StoreError):
    """A majority of the document's owners say that they have nothing."""

    code = "not-found"

    def __init__(self, *, acked: int, required: int) -> None:
        super().__init__("a majority of its owners has nothing")
        self.acked, self.required = acked, required


class DocumentDeleted(StoreError):
    """The document was deleted, or its time to live has passed."""

    code = "deleted"

    def __init__(self, *, acked: int, required: int) -> None:
        super().__init__("it was deleted, or its time to live has passed")
        self.acked, self.required = acked, required


class ContentTooLarge(StoreError):
    """The content is longer than a record may be."""

    code = "content-too-large"


class InvalidConsistency(StoreError):
    """More or fewer replicas were asked for than a document has."""

    code = "invalid-consistency"


class Consistency(msgspec.Struct, frozen=True, gc=False):
    """What a request asks for; None leaves the cluster's default. A level sets both counts."""

    level: Level | None = None
    read: Quorum | None = None
    write: Quorum | None = None
    sloppy: bool | None = None


class Quorums(msgspec.Struct, frozen=True, gc=False):
    """What the store is asked for: counts of replicas, each in 1..copies."""

    read: int
    write: int
    sloppy: bool


class Created(msgspec.Struct, frozen=True, gc=False):
    """A create that reached its quorum, now or, when ``replayed``, at an earlier try."""

    document_id: DocumentId
    create: Create
    stored: Stored
    replayed: bool


class Found(msgspec.Struct, frozen=True, gc=False):
    """A document that is ACTIVE now, and the read that found it."""

    create: Create
    fetched: Fetched


class Creation(msgspec.Struct, frozen=True, gc=False):
    """A create under way."""

    document_id: DocumentId
    create: Create
    answer: Awaitable[Stored]


class DocumentService:
    """The use cases over one store. Holds settings and ports, no state of its own."""

    def __init__(
        self,
        store: DocumentStore,
        *,
        clock: Clock,
        entropy: Entropy,
        cluster_id: bytes,
        replication: ReplicationSettings,
        lifecycle: LifecycleSettings,
    ) -> None:
        self._store = store
        self._clock = clock
        self._entropy = entropy
        self._cluster_id = cluster_id
        self._replication = replication
        self._retention_ms = int(lifecycle.tombstone_retention_s * 1000)
        #: What a request that asks for nothing gets.
        self.default_quorums = self.quorums(Consistency())

    def quorums(self, asked: Consistency) -> Quorums:
        """Names and defaults resolved to counts.

        Raises:
            InvalidConsistency: a count outside 1..copies.
        """
        defaults = self._replication
        read = asked.read if asked.read is not None else defaults.read_quorum
        write = asked.write if asked.write is not None else defaults.write_quorum
        if asked.level is not None:
            read = write = QUORUM_OF_LEVEL[asked.level]
        read_count = resolve_quorum(read, defaults.copies)
        write_count = resolve_quorum(write, defaults.copies)
        if not (1 <= read_count <= defaults.copies and 1 <= write_count <= defaults.copies):
            raise InvalidConsistency(f"a document has {defaults.copies} replicas")
        sloppy = asked.sloppy if asked.sloppy is not None else defaults.sloppy
        return Quorums(read_count, write_count, sloppy)

    async def create(
        self,
        content: str,
        *,
        ttl_s: int | None,
        idempotency_key: str | None,
        quorums: Quorums,
        deadline_s: float,
    ) -> Created:
        """Store a new document: ``begin_create``, and what came of it."""
        creation = self.begin_create(
            content,
            ttl_s=ttl_s,
            idempotency_key=idempotency_key,
            quorums=quorums,
            deadline_s=deadline_s,
        )
        return self.finish_create(creation, await creation.answer)

    def begin_create(
        self,
        content: str,
        *,
        ttl_s: int | None,
        idempotency_key: str | None,
        quorums: Quorums,
        deadline_s: float,
    ) -> "Creation":
        """Start to store a new document; the caller awaits ``Creation.answer``.

        Many can be under way without a task each.

        Args:
            content: Any text of at most CONTENT_BYTES_MAX bytes in UTF-8.
            ttl_s: Seconds it lives, 1..TTL_SECONDS_MAX; None: until it is deleted.
            idempotency_key: 1..255 printable ASCII characters; repeats meet the first create.
            quorums: From ``quorums``.
            deadline_s: A reading of ``Clock.monotonic_s``.

        Raises:
            ContentTooLarge: before anything is written.
            KeyReused, KeyDeleted: see their docstrings (only with a key; also by the answer and by
                ``finish_create``).
            WriteTimeout: by the answer, the outcome is unknown; and what else the store may raise.
        """
        encoded = content.encode()
        if len(encoded) > CONTENT_BYTES_MAX:
            raise ContentTooLarge(f"content is at most {CONTENT_BYTES_MAX} bytes")
        now_ms = self._clock.wall_ms()
        checksum = hashlib.sha256(encoded).digest()
        expires_at_ms = NEVER_MS if ttl_s is None else now_ms + ttl_s * 1000
        if idempotency_key is None:
            document_id, fingerprint = self._mint(now_ms), _UNKEYED
        else:
            document_id = uuid8_of_key(self._cluster_id, TENANT, idempotency_key)
            fingerprint = _fingerprint(checksum, ttl_s)
        create = Create(encoded, now_ms, expires_at_ms, checksum, fingerprint)
        answer = self._store.create(
            document_id,
            Record(create),
            keyed=idempotency_key is not None,
            write_quorum=quorums.write,
            sloppy=quorums.sloppy,
            deadline_s=deadline_s,
        )
        return Creation(document_id, create, answer)

    def finish_create(self, creation: "Creation", stored: Stored) -> Created:
        """What became of a create whose answer has come.

        Raises:
            KeyReused, KeyDeleted: see their docstrings (only with a key).
        """
        create = creation.create
        if create.fingerprint == _UNKEYED:
            return Created(creation.document_id, create, stored, replayed=False)
        first = first_create(stored.record, create.fingerprint, self._clock.wall_ms())
        replayed = first.created_at_ms != create.created_at_ms
        return Created(creation.document_id, first, stored, replayed)

    async def read(self, document_id: DocumentId, *, quorums: Quorums, deadline_s: float) -> Found:
        """The document, if it is ACTIVE now.

        Raises:
            DocumentNotFound: absent, said by a majority of its owners.
            DocumentDeleted: a tombstone is known, or its time to live has passed.
            ReadTimeout: too few answers in time; and what else every store call may raise.
        """
        fetched = await self._store.read(
            document_id, read_quorum=quorums.read, sloppy=quorums.sloppy, deadline_s=deadline_s
        )
        record = fetched.record
        if record is None:
            raise DocumentNotFound(acked=fetched.answered, required=fetched.required)
        if record.create is None or record.status(self._clock.wall_ms()) is not Status.ACTIVE:
            raise DocumentDeleted(acked=fetched.answered, required=fetched.required)
        return Found(record.create, fetched)

    async def delete(
        self, document_id: DocumentId, *, quorums: Quorums, deadline_s: float
    ) -> Stored:
        """Write a tombstone, whether or not the document is known.

        Raises:
            WriteTimeout: the outcome is unknown, and deleting again is harmless; and what else
                every store call may raise.
        """
        now_ms = self._clock.wall_ms()
        return await self._store.delete(
            document_id,
            Record(tombstone=Tombstone(now_ms, now_ms + self._retention_ms)),
            write_quorum=quorums.write,
            sloppy=quorums.sloppy,
            deadline_s=deadline_s,
        )

    def _mint(self, now_ms: int) -> DocumentId:
        random = self._entropy.random_bytes(UUID7_RANDOM_BYTES)
        partition = self._store.mint_partition()
        if partition is None:
            return uuid7(now_ms, random)
        return uuid7_in_partition(
            now_ms, random, PartitionId(partition), self._replication.partitions
        )


def _fingerprint(checksum: bytes, ttl_s: int | None) -> bytes:
    """Of a keyed create's whole body: a retry may differ in neither content nor time to live."""
    return hashlib.blake2b(
        checksum + (ttl_s or 0).to_bytes(8, "big"), digest_size=FINGERPRINT_BYTES
    ).digest()
