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
6. A call with a session answers nothing older than the session has seen, and adds to it what it
   answers. A deletion that the session has seen is an answer by itself; for a document, one replica
   is read, and the others only when that one has less.
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
from docservice.session import Known, Session, gone, shown
from docservice.store import DocumentStore
from kvnode.errors import KeyDeleted, ReadTimeout, StoreError, Unavailable
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
    region_tag,
)
from kvnode.results import Fetched, Stored

#: A hundred years: far enough for anyone, near enough that an expiry stays a four-digit year.
TTL_SECONDS_MAX: Final = 100 * 366 * 24 * 3600
#: While there is one tenant.
TENANT: Final = ""
_UNKEYED: Final = bytes(FINGERPRINT_BYTES)

Level = Literal["one", "two", "quorum", "all", "local_quorum", "each_quorum"]
#: The last one is of each region, the others are of the region that is asked.
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

    def __init__(self, *, acked: int | None = None, required: int | None = None) -> None:
        super().__init__("it was deleted, or its time to live has passed")
        self.acked, self.required = acked, required


class SessionUnreachable(Unavailable):
    """What the client's session has seen is (yet) nowhere that can be asked."""

    code = "session-unreachable"


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
    #: The counts are of replicas in each region; stand-ins never count then.
    each_region: bool = False


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


class Creation(msgspec.Struct, frozen=True):
    """A create under way."""

    document_id: DocumentId
    create: Create
    answer: Awaitable[Stored]
    session: Session


class DocumentService:
    """The use cases over one store. Holds settings and ports, no state of its own."""

    def __init__(
        self,
        store: DocumentStore,
        *,
        clock: Clock,
        entropy: Entropy,
        cluster_id: bytes,
        region: str,
        replication: ReplicationSettings,
        lifecycle: LifecycleSettings,
    ) -> None:
        self._store = store
        self._clock = clock
        self._entropy = entropy
        self._cluster_id = cluster_id
        self._replication = replication
        self._retention_ms = int(lifecycle.tombstone_retention_s * 1000)
        self._clock_skew_ms = int(lifecycle.clock_skew_max_s * 1000)
        self._region = region_tag(region)
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
        each_region = asked.level == "each_quorum"
        sloppy = asked.sloppy if asked.sloppy is not None else defaults.sloppy
        return Quorums(read_count, write_count, sloppy and not each_region, each_region)

    async def create(
        self,
        content: str,
        *,
        ttl_s: int | None,
        idempotency_key: str | None,
        quorums: Quorums,
        deadline_s: float,
        session: Session,
    ) -> Created:
        """Store a new document: ``begin_create``, and what came of it."""
        creation = self.begin_create(
            content,
            ttl_s=ttl_s,
            idempotency_key=idempotency_key,
            quorums=quorums,
            deadline_s=deadline_s,
            session=session,
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
        session: Session,
    ) -> "Creation":
        """Start to store a new document; the caller awaits ``Creation.answer``.

        Many can be under way without a task each.

        Args:
            content: Any text of at most CONTENT_BYTES_MAX bytes in UTF-8.
            ttl_s: Seconds it lives, 1..TTL_SECONDS_MAX; None: until it is deleted.
            idempotency_key: 1..255 printable ASCII characters; repeats meet the first create.
            quorums: From ``quorums``.
            deadline_s: A reading of ``Clock.monotonic_s``.
            session: What the client has seen; is told what became of this.

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
            known = session.known(document_id)
            if known is not None and known.deleted and not self._is_over(known):
                raise KeyDeleted("the key's document was deleted")
            fingerprint = _fingerprint(checksum, ttl_s)
        create = Create(encoded, now_ms, expires_at_ms, checksum, fingerprint)
        answer = self._store.create(
            document_id,
            Record(create),
            keyed=idempotency_key is not None,
            write_quorum=quorums.write,
            sloppy=quorums.sloppy,
            deadline_s=deadline_s,
            each_region=quorums.each_region,
        )
        if idempotency_key is not None:
            answer = self._noting_deleted(answer, document_id, session)
        return Creation(document_id, create, answer, session)

    def finish_create(self, creation: "Creation", stored: Stored) -> Created:
        """What became of a create whose answer has come.

        Raises:
            KeyReused, KeyDeleted: see their docstrings (only with a key).
        """
        create, document_id, session = creation.create, creation.document_id, creation.session
        replayed = False
        if create.fingerprint != _UNKEYED:
            try:
                first = first_create(stored.record, create.fingerprint, self._clock.wall_ms())
            except KeyDeleted:
                session.note(document_id, self._gone(stored.record))
                raise
            replayed = first.created_at_ms != create.created_at_ms
            create = first
        session.note(document_id, self._shown(create))
        return Created(document_id, create, stored, replayed)

    async def read(
        self, document_id: DocumentId, *, quorums: Quorums, deadline_s: float, session: Session
    ) -> Found:
        """The document, if it is ACTIVE now.

        Raises:
            DocumentNotFound: absent, said by a majority of its owners.
            DocumentDeleted: a tombstone is known, or its time to live has passed.
            SessionUnreachable: those that can be asked have less than the session has seen.
            ReadTimeout: too few answers in time; and what else every store call may raise.
        """
        known = session.known(document_id)
        if known is not None and known.deleted and not self._is_over(known):
            raise DocumentDeleted
        try:
            fetched = await self._store.read(
                document_id,
                read_quorum=quorums.read,
                sloppy=quorums.sloppy,
                deadline_s=deadline_s,
                seen=known.sighting if known is not None else None,
                each_region=quorums.each_region,
            )
        except Unavailable as error:
            if known is None or known.deleted or isinstance(error, ReadTimeout):
                raise
            counts = {"acked": error.acked, "required": error.required}
            raise SessionUnreachable(error.detail, **counts) from error
        record, acked, required = fetched.record, fetched.answered, fetched.required
        if known is not None and known.is_beyond(record) and not self._is_over(known):
            # All owners have less, and no purge can have taken it: it is on its way to them.
            raise SessionUnreachable("no owner has it yet", acked=acked, required=acked)
        if record is None:
            raise DocumentNotFound(acked=acked, required=required)
        create = record.create
        forbidden = known is not None and create is not None and known.forbids(create)
        if create is None or forbidden or record.status(self._clock.wall_ms()) is not Status.ACTIVE:
            session.note(document_id, self._gone(record))
            raise DocumentDeleted(acked=acked, required=required)
        session.note(document_id, self._shown(create))
        return Found(create, fetched)

    async def delete(
        self, document_id: DocumentId, *, quorums: Quorums, deadline_s: float, session: Session
    ) -> Stored:
        """Write a tombstone, whether or not the document is known.

        Raises:
            WriteTimeout: the outcome is unknown, and deleting again is harmless; and what else
                every store call may raise.
        """
        now_ms = self._clock.wall_ms()
        stored = await self._store.delete(
            document_id,
            Record(tombstone=Tombstone(now_ms, now_ms + self._retention_ms)),
            write_quorum=quorums.write,
            sloppy=quorums.sloppy,
            deadline_s=deadline_s,
            each_region=quorums.each_region,
        )
        session.note(document_id, self._gone(stored.record))
        return stored

    async def _noting_deleted(
        self, answer: Awaitable[Stored], document_id: DocumentId, session: Session
    ) -> Stored:
        try:
            return await answer
        except KeyDeleted:
            session.note(document_id, self._gone(None))
            raise

    def _shown(self, create: Create) -> Known:
        return shown(
            create,
            region=self._region,
            now_ms=self._clock.wall_ms(),
            retention_ms=self._retention_ms,
            clock_skew_ms=self._clock_skew_ms,
        )

    def _gone(self, record: Record | None) -> Known:
        return gone(
            record,
            region=self._region,
            now_ms=self._clock.wall_ms(),
            clock_skew_ms=self._clock_skew_ms,
        )

    def _is_over(self, known: Known) -> bool:
        """Whether the document may have been purged by now, by anybody's clock."""
        return self._clock.wall_ms() > known.until_ms + self._clock_skew_ms

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
