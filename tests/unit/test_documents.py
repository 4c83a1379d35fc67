"""The use cases without HTTP: ids, keys, expiry, tombstones and how many replicas are asked."""

import asyncio
import hashlib
from collections.abc import Coroutine
from typing import Any, TypeVar
from uuid import UUID

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cluster.ids import DocumentId, partition_of, uuid8_of_key
from cluster.settings import LifecycleSettings, ReplicationSettings
from docservice.documents import (
    QUORUM_OF_LEVEL,
    TTL_SECONDS_MAX,
    Consistency,
    ContentTooLarge,
    Created,
    DocumentDeleted,
    DocumentNotFound,
    DocumentService,
    InvalidConsistency,
    Quorums,
)
from docservice.session import Session
from kvnode.errors import KeyDeleted, KeyReused, StoreError
from kvnode.record import CONTENT_BYTES_MAX, FINGERPRINT_BYTES, Create, Record, Tombstone
from tests.support.stores import MemoryStore

T = TypeVar("T")

NOW_MS = 1_767_225_600_000
CLUSTER_ID = bytes(range(16))
PARTITIONS = 256
ID = DocumentId(bytes(16))

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=100)
ttls_s = st.none() | st.integers(1, TTL_SECONDS_MAX)


class FixedClock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now_ms = NOW_MS

    def wall_ms(self) -> int:
        """See ``kvnode.ports.Clock``."""
        return self.now_ms

    def monotonic_s(self) -> float:
        """See ``kvnode.ports.Clock``."""
        return 0.0


class CountingEntropy:
    """Bytes that differ from draw to draw, the same in every run."""

    def __init__(self) -> None:
        self.drawn = 0

    def random_bytes(self, count: int) -> bytes:
        """See ``kvnode.ports.Entropy``."""
        self.drawn += 1
        return hashlib.shake_128(self.drawn.to_bytes(4, "big")).digest(count)

    def uniform(self, low: float, high: float) -> float:
        """See ``kvnode.ports.Entropy``."""
        return low


class World:
    """A service over a store in memory, called as if nothing in it were asynchronous."""

    def __init__(self, *, partition: int | None = None, copies: int = 3) -> None:
        self.store = MemoryStore(copies=copies, partition=partition)
        self.clock = FixedClock()
        self.service = DocumentService(
            self.store,
            clock=self.clock,
            entropy=CountingEntropy(),
            cluster_id=CLUSTER_ID,
            region="north",
            replication=ReplicationSettings(copies=copies, partitions=PARTITIONS),
            lifecycle=LifecycleSettings(tombstone_retention_s=1.5),
        )

    def create(
        self,
        content: str,
        *,
        ttl_s: int | None = None,
        key: str | None = None,
        session: Session | None = None,
    ) -> Created:
        """Create with the default quorums."""
        return done(
            self.service.create(
                content,
                ttl_s=ttl_s,
                idempotency_key=key,
                quorums=self.service.default_quorums,
                deadline_s=1.0,
                session=session or Session(),
            )
        )

    def read(self, document_id: DocumentId, session: Session | None = None) -> Create:
        """Read with the default quorums."""
        quorums = self.service.default_quorums
        found = self.service.read(
            document_id, quorums=quorums, deadline_s=1.0, session=session or Session()
        )
        return done(found).create

    def delete(self, document_id: DocumentId, session: Session | None = None) -> Tombstone:
        """Delete with the default quorums."""
        quorums = self.service.default_quorums
        stored = done(
            self.service.delete(
                document_id, quorums=quorums, deadline_s=1.0, session=session or Session()
            )
        )
        assert stored.record.tombstone is not None
        return stored.record.tombstone


def done(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine."""
    return asyncio.run(coroutine)


# Ids.


@given(st.integers(0, PARTITIONS - 1))
def test_an_id_is_minted_on_the_partition_that_the_store_names(partition: int) -> None:
    """So that the first durable copy of a create needs no network hop."""
    created = World(partition=partition).create("x")

    assert partition_of(created.document_id, PARTITIONS) == partition


def test_an_id_says_when_it_was_made_and_no_two_are_the_same() -> None:
    """UUIDv7, RFC 9562 section 5.7."""
    world = World()
    ids = [world.create("x").document_id for _ in range(100)]

    assert len(set(ids)) == 100
    assert {UUID(bytes=document_id).version for document_id in ids} == {7}
    assert {int.from_bytes(document_id[:6], "big") for document_id in ids} == {NOW_MS}


def test_a_keyed_id_comes_from_the_key_alone() -> None:
    """A retry on another node, at another time, finds the same record."""
    here, there = World(partition=1), World(partition=2)
    there.clock.now_ms += 1000

    expected = uuid8_of_key(CLUSTER_ID, "", "k")
    assert here.create("x", key="k").document_id == expected
    assert there.create("y", key="k").document_id == expected


# What is stored.


@given(texts, ttls_s)
def test_what_is_stored_is_the_content_its_hash_and_its_times(
    content: str, ttl_s: int | None
) -> None:
    """Byte for byte; a time to live becomes one absolute time, fixed now."""
    created = World().create(content, ttl_s=ttl_s)

    assert created.create == Create(
        content=content.encode(),
        created_at_ms=NOW_MS,
        expires_at_ms=0 if ttl_s is None else NOW_MS + ttl_s * 1000,
        checksum=hashlib.sha256(content.encode()).digest(),
        fingerprint=bytes(FINGERPRINT_BYTES),
    )
    assert created.stored.record.create == created.create
    assert not created.replayed


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=400, max_size=2100))
def test_the_bound_on_content_is_in_bytes(content: str) -> None:
    """Not in characters, of which one may take four."""
    world = World()
    if len(content.encode()) <= CONTENT_BYTES_MAX:
        assert world.create(content).create.content == content.encode()
    else:
        with pytest.raises(ContentTooLarge):
            world.create(content)
        assert world.store.writes == []


# Idempotency keys.


@given(texts, ttls_s, texts, ttls_s)
def test_a_key_is_replayed_for_the_same_body_and_refused_for_another(
    content: str, ttl_s: int | None, other: str, other_ttl_s: int | None
) -> None:
    """The body is content and time to live; a retry may differ in neither."""
    world = World()
    first = world.create(content, ttl_s=ttl_s, key="k")
    world.clock.now_ms += 1

    if (content, ttl_s) == (other, other_ttl_s):
        again = world.create(other, ttl_s=other_ttl_s, key="k")
        assert again.replayed
        assert again.create == first.create
    else:
        with pytest.raises(KeyReused):
            world.create(other, ttl_s=other_ttl_s, key="k")


def test_a_create_that_meets_an_earlier_one_on_another_replica_is_a_replay() -> None:
    """Two nodes took the same retry at once: the earlier create is the document, for both."""
    world = World()
    first = world.create("x", key="k")
    earlier = Create(
        content=first.create.content,
        created_at_ms=NOW_MS - 7,
        expires_at_ms=0,
        checksum=first.create.checksum,
        fingerprint=first.create.fingerprint,
    )
    world.store.records[first.document_id] = Record(earlier)

    again = world.create("x", key="k")
    assert (again.create, again.replayed) == (earlier, True)


@pytest.mark.parametrize("content", ["x", "other"])
@pytest.mark.parametrize("create_is_known", [True, False])
def test_a_deleted_key_stays_deleted(content: str, create_is_known: bool) -> None:
    """The same answer from a replica that knows only the tombstone."""
    world = World()
    document_id = world.create("x", key="k").document_id
    tombstone = world.delete(document_id)
    if not create_is_known:
        world.store.records[document_id] = Record(tombstone=tombstone)

    with pytest.raises(KeyDeleted):
        world.create(content, key="k")
    with pytest.raises(DocumentDeleted):
        world.read(document_id)


@given(st.integers(1, TTL_SECONDS_MAX), st.integers(-2, 2))
def test_a_key_lives_as_long_as_its_document(ttl_s: int, late_ms: int) -> None:
    """Before expiry a retry is a replay; from then on the key is spent."""
    world = World()
    world.create("x", ttl_s=ttl_s, key="k")
    world.clock.now_ms += ttl_s * 1000 + late_ms

    # The retry's own create, made now, would expire later; the first one counts.
    if late_ms < 0:
        assert world.create("x", ttl_s=ttl_s, key="k").replayed
    else:
        with pytest.raises(KeyDeleted):
            world.create("x", ttl_s=ttl_s, key="k")


# Reading and deleting.


@given(st.integers(1, TTL_SECONDS_MAX), st.integers(-2, 2))
def test_a_document_is_read_until_the_millisecond_of_its_expiry(ttl_s: int, late_ms: int) -> None:
    """Derived when it is read, whatever a sweep has done."""
    world = World()
    document_id = world.create("x", ttl_s=ttl_s).document_id
    world.clock.now_ms += ttl_s * 1000 + late_ms

    if late_ms < 0:
        assert world.read(document_id).content == b"x"
    else:
        with pytest.raises(DocumentDeleted):
            world.read(document_id)


def test_absence_is_told_with_the_answers_it_rests_on() -> None:
    """A 404 is a statement about a majority, and says so."""
    with pytest.raises(DocumentNotFound) as missing:
        World().read(ID)
    assert (missing.value.acked, missing.value.required) == (1, 1)


def test_a_delete_writes_a_tombstone_that_stays_for_the_retention() -> None:
    """Also for an id that nobody has seen: its create may be on the way."""
    world = World()

    assert world.delete(ID) == Tombstone(NOW_MS, NOW_MS + 1500)
    assert [operation for operation, *_ in world.store.writes] == ["delete"]
    with pytest.raises(DocumentDeleted):
        world.read(ID)


# Quorums.


quorums = st.none() | st.sampled_from(["one", "quorum", "all"]) | st.integers(0, 10)


@given(st.integers(1, 9), quorums, quorums, st.none() | st.booleans())
def test_a_quorum_is_a_count_of_replicas_that_exist(
    copies: int, read: Any, write: Any, sloppy: bool | None
) -> None:
    """Names resolve against the number of copies; what is outside 1..copies is refused."""
    service = World(copies=copies).service
    names = {None: 1, "one": 1, "quorum": copies // 2 + 1, "all": copies}
    expected = Quorums(names.get(read, read), names.get(write, write), sloppy is not False)
    asked = Consistency(read=read, write=write, sloppy=sloppy)

    if {expected.read, expected.write} <= set(range(1, copies + 1)):
        assert service.quorums(asked) == expected
    else:
        with pytest.raises(InvalidConsistency):
            service.quorums(asked)


@given(st.integers(1, 9), st.sampled_from(sorted(QUORUM_OF_LEVEL)))
def test_a_level_sets_both_quorums(copies: int, level: Any) -> None:
    """Two is the only one that a cluster may be too small for."""
    assume(not (level == "two" and copies == 1))
    resolved = World(copies=copies).service.quorums(Consistency(level=level))

    assert resolved.read == resolved.write
    assert 1 <= resolved.read <= copies
    if level in ("quorum", "local_quorum", "each_quorum"):
        assert resolved.read + resolved.write > copies


def test_the_store_is_asked_as_the_caller_said() -> None:
    """R goes with reads, W with writes, and the deadline as it is."""
    world = World()
    asked = Quorums(read=2, write=3, sloppy=False)
    done(world.service.delete(ID, quorums=asked, deadline_s=12.5, session=Session()))
    assert world.store.asked == (3, False)
    with pytest.raises(DocumentDeleted):
        done(world.service.read(ID, quorums=asked, deadline_s=12.5, session=Session()))
    assert world.store.asked == (2, False)
    assert world.store.writes == [("delete", ID, 12.5)]


@pytest.mark.parametrize("error", [DocumentNotFound, DocumentDeleted, ContentTooLarge])
def test_an_error_of_the_use_cases_leaves_nothing_behind(error: type[StoreError]) -> None:
    """So a client knows without looking it up."""
    assert (error.outcome, error.retryable) == ("not_applied", False)
