"""What a token knows, and that nobody but the cluster can make one."""

import hashlib
import hmac
from binascii import a2b_base64, b2a_base64
from itertools import permutations

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from docservice.session import (
    MAGIC,
    SIGHTINGS_MAX,
    TAG_BYTES,
    TOKENS_MAX,
    InvalidToken,
    Known,
    Session,
    Tokens,
    gone,
    join,
    shown,
)
from kvnode.record import NEVER_MS, Create, Record, Sighting, Tombstone, merge, region_tag

SECRET = bytes(range(32))
TOKENS = Tokens(SECRET)
REGION = region_tag("north")
RETENTION_MS = 100
SKEW_MS = 30

# Few ids that share bytes, so that rows are mistaken for each other where they can be.
ids = st.sampled_from([bytes(16), bytes([1] * 16), bytes([0] * 15 + [1]), bytes([1] + [0] * 15)])
times = st.integers(0, 50)
creates = st.builds(
    lambda content, created, ttl: Create(
        content,
        created,
        NEVER_MS if ttl is None else created + ttl,
        hashlib.sha256(content).digest(),
    ),
    st.sampled_from([b"one", b"two"]),
    times,
    st.none() | st.integers(1, 20),
)
tombstones = st.builds(
    lambda deleted: Tombstone(deleted, deleted + RETENTION_MS), st.integers(50, 80)
)
records = st.builds(Record, creates, st.none() | tombstones) | st.builds(
    lambda tombstone: Record(tombstone=tombstone), tombstones
)
regions = st.sampled_from(["north", "south"]).map(region_tag)
knowns = st.builds(
    lambda region, seen_s, created_ms, lasts_ms, head: Known(
        False, region, seen_s, created_ms + lasts_ms, created_ms, head
    ),
    regions,
    st.integers(0, 2**32 - 1),
    st.integers(0, 5) | st.integers(0, 2**63),
    st.integers(0, 5) | st.integers(0, 2**62),
    st.binary(min_size=3, max_size=3),
) | st.builds(
    Known, st.just(value=True), regions, st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
)
sessions = st.lists(st.tuples(ids, knowns), max_size=5)


def session_of(notes: list[tuple[bytes, Known]]) -> Session:
    """One that was told these in turn."""
    session = Session()
    for document_id, known in notes:
        session.note(document_id, known)
    return session


def knowledge(record: Record, now_ms: int) -> Known:
    """What a client knows that was shown a record, as ACTIVE or as deleted."""
    if record.create is not None and record.tombstone is None:
        return shown(
            record.create,
            region=REGION,
            now_ms=now_ms,
            retention_ms=RETENTION_MS,
            clock_skew_ms=SKEW_MS,
        )
    return gone(record, region=REGION, now_ms=now_ms, clock_skew_ms=SKEW_MS)


# What is known.


@given(st.lists(records, min_size=1, max_size=4))
def test_what_was_shown_is_no_older_than_any_part_of_it(seen: list[Record]) -> None:
    """Joined in any order, records and what is known of them say the same."""
    merged = seen[0]
    for record in seen:
        merged = merge(merged, record)
    for order in permutations(seen):
        known = knowledge(order[0], 90)
        for record in order:
            known = join(known, knowledge(record, 90))
        assert known.deleted == (merged.tombstone is not None)
        assert not known.is_beyond(merged)


@given(records, records)
def test_a_replica_is_behind_what_it_would_learn_from(seen: Record, held: Record) -> None:
    """Exactly then must a read go on: with an equal or a later state it ends."""
    known = knowledge(seen, 90)
    if known.deleted:
        assert held.create is None or known.forbids(held.create)
        return
    assert seen.create is not None
    assert known.is_beyond(None)
    before = (seen.create.created_at_ms, seen.create.checksum)
    assert known.is_beyond(held) == (
        held.tombstone is None
        and held.create is not None
        and (held.create.created_at_ms, held.create.checksum) > before
    )


@given(knowns, knowns)
def test_a_join_is_the_same_from_both_sides(a: Known, b: Known) -> None:
    """Two devices of one client may hand over their tokens in any order."""
    assert join(a, a) == a
    assert join(a, b) == join(b, a)


def test_a_key_that_is_used_again_after_a_purge_is_another_document() -> None:
    """The session that knew of the deletion takes the later life, and only that one."""
    old = Create(b"old", 10, NEVER_MS, hashlib.sha256(b"old").digest())
    new = Create(b"new", 500, NEVER_MS, hashlib.sha256(b"new").digest())
    deletion = gone(
        Record(old, Tombstone(20, 120)), region=REGION, now_ms=20, clock_skew_ms=SKEW_MS
    )
    rebirth = shown(
        new, region=REGION, now_ms=500, retention_ms=RETENTION_MS, clock_skew_ms=SKEW_MS
    )

    assert deletion.forbids(old)
    assert not deletion.forbids(new)
    assert join(deletion, rebirth) == join(rebirth, deletion) == rebirth


@given(creates, st.integers(-SKEW_MS, SKEW_MS), st.integers(0, 10), st.booleans())
def test_clocks_that_differ_make_no_other_life(
    create: Create, ahead_ms: int, retention_ms: int, told: bool
) -> None:
    """Regression: a clock that was behind dated a deletion before the create.

    Retention may be as short as it likes; simulated histories have it shorter than clocks differ.
    """
    create = Create(create.content, create.created_at_ms + SKEW_MS, NEVER_MS, create.checksum)
    now_ms = create.created_at_ms + ahead_ms
    record = None if told else Record(tombstone=Tombstone(now_ms, now_ms + retention_ms))
    deletion = gone(record, region=REGION, now_ms=now_ms, clock_skew_ms=SKEW_MS)
    assert deletion.forbids(create)

    other = Create(b"other", now_ms, NEVER_MS, hashlib.sha256(b"other").digest())
    lives = [
        shown(one, region=REGION, now_ms=0, retention_ms=retention_ms, clock_skew_ms=SKEW_MS)
        for one in (create, other)
    ]
    assert join(*lives).created_at_ms == min(create.created_at_ms, now_ms)
    assert join(deletion, lives[0]).deleted


@given(creates)
def test_a_document_that_ends_by_itself_is_known_until_then(create: Create) -> None:
    """Later its absence proves nothing: it may have been removed."""
    known = shown(create, region=REGION, now_ms=0, retention_ms=RETENTION_MS, clock_skew_ms=SKEW_MS)
    purge_ms = create.created_at_ms + RETENTION_MS
    assert known.until_ms == min(purge_ms, create.expires_at_ms or purge_ms)


# Sessions.


@given(st.lists(st.tuples(ids, knowns)))
def test_a_session_knows_the_join_of_what_it_was_told(notes: list[tuple[bytes, Known]]) -> None:
    """Of each document, and of no other."""
    session = session_of(notes)
    expected: dict[bytes, Known] = {}
    for document_id, known in notes:
        before = expected.get(document_id)
        expected[document_id] = known if before is None else join(before, known)
    for document_id in (bytes(16), bytes([1] * 16), bytes([0] * 15 + [1]), bytes([2] * 16)):
        assert session.known(document_id) == expected.get(document_id)


@given(st.lists(st.integers(0, 60), max_size=100))
def test_a_session_keeps_what_it_was_told_last(numbers: list[int]) -> None:
    """Its token stays small, however long it lasts."""
    session = session_of([(bytes([number] * 16), KNOWN) for number in numbers])
    latest = list(dict.fromkeys(reversed(numbers)))[:SIGHTINGS_MAX]
    for number in range(61):
        assert (session.known(bytes([number] * 16)) is not None) == (number in latest)
    assert len(TOKENS.write(session)) <= 1816


@given(sessions, sessions)
def test_two_sessions_add_up_to_what_both_know(
    one: list[tuple[bytes, Known]], other: list[tuple[bytes, Known]]
) -> None:
    """A client that works on several connections brings all its tokens."""
    both = TOKENS.read(f"{TOKENS.write(session_of(one))}, {TOKENS.write(session_of(other))}")
    apart = session_of(one), session_of(other)
    for document_id, _ in one + other:
        known = [session.known(document_id) for session in apart]
        there = [each for each in known if each is not None]
        joined = there[0] if len(there) == 1 else join(there[0], there[1])
        assert both.known(document_id) == joined


def test_of_many_sessions_the_newest_sightings_are_kept() -> None:
    """The bound holds for their sum, too."""
    old = session_of([(bytes([n] * 16), at(1)) for n in range(SIGHTINGS_MAX)])
    new = session_of([(bytes([n + 100] * 16), at(2)) for n in range(5)])
    both = TOKENS.read(f"{TOKENS.write(old)},{TOKENS.write(new)}")
    assert all(both.known(bytes([n] * 16)) for n in range(SIGHTINGS_MAX)), "while it is served"
    after = TOKENS.read(TOKENS.write(both))
    assert len(after.rows) == len(old.rows)
    assert all(after.known(bytes([n + 100] * 16)) for n in range(5))


def test_what_a_request_brought_is_known_to_its_end() -> None:
    """Regression: a thousand creates before a read in one request made the session forget it."""
    brought = TOKENS.read(TOKENS.write(session_of([(bytes(16), KNOWN)])))
    for number in range(1, 100):
        brought.note(bytes([number] * 16), KNOWN)
    assert brought.known(bytes(16)) == KNOWN
    assert TOKENS.read(TOKENS.write(brought)).known(bytes(16)) is None


# Tokens.


@given(sessions)
def test_a_token_brings_a_session_across_unchanged(notes: list[tuple[bytes, Known]]) -> None:
    """As plain base64 without padding: it fits into a header and needs no quotes."""
    session = session_of(notes)
    token = TOKENS.write(session)
    assert TOKENS.read(token).rows == session.rows
    assert "=" not in token
    assert "," not in token


@given(sessions)
def test_a_token_is_signed_with_a_key_of_its_own(notes: list[tuple[bytes, Known]]) -> None:
    """HMAC-SHA256 as the standard library computes it, with a key for this purpose alone."""
    raw = a2b_base64(TOKENS.write(session_of(notes)))
    key = hmac.digest(SECRET, b"stele session token", "sha256")
    assert raw[-TAG_BYTES:] == hmac.digest(key, raw[:-TAG_BYTES], "sha256")[:TAG_BYTES]


@given(sessions, st.data())
def test_no_token_can_be_changed(notes: list[tuple[bytes, Known]], data: st.DataObject) -> None:
    """One bit, one byte more or less anywhere: what a client says it has seen is not made up."""
    raw = a2b_base64(TOKENS.write(session_of(notes)))
    bit = data.draw(st.integers(0, 8 * len(raw) - 1))
    flipped = bytearray(raw)
    flipped[bit // 8] ^= 1 << bit % 8
    cut = data.draw(st.integers(0, len(raw) - 1))
    for forged in (bytes(flipped), raw[:cut], raw[cut + 1 :], raw + b"\0", b"\0" + raw):
        with pytest.raises(InvalidToken):
            TOKENS.read(b2a_base64(forged, newline=False).decode())


@given(st.text(max_size=60))
@example("é")
@example("")
@example("XgE=\n")
def test_anything_else_is_refused(text: str) -> None:
    """And nothing but InvalidToken is raised."""
    assume(text != TOKENS.write(Session()))
    with pytest.raises(InvalidToken):
        TOKENS.read(text)


def test_tokens_of_another_cluster_or_version_are_refused() -> None:
    """Also when they were made by this very code."""
    with pytest.raises(InvalidToken):
        TOKENS.read(Tokens(bytes(32)).write(Session()))
    body = MAGIC[:1] + b"\x02"
    later = b2a_base64(body + TOKENS._tag(body), newline=False).decode()
    with pytest.raises(InvalidToken):
        TOKENS.read(later)


def test_a_request_brings_a_bounded_number_of_tokens() -> None:
    """Each costs time before anything is known of who sent it."""
    token = TOKENS.write(Session())
    TOKENS.read(",".join([token] * TOKENS_MAX))
    with pytest.raises(InvalidToken):
        TOKENS.read(",".join([token] * (TOKENS_MAX + 1)))


def test_regions_are_told_apart() -> None:
    """By two bytes that don't change when the cluster file does."""
    assert region_tag("a") == region_tag("a") != region_tag("b")
    assert len(region_tag("a")) == 2


KNOWN = Known(True, REGION, 1, 2)


def at(seen_s: int) -> Known:
    """A deletion that was seen then."""
    return Known(True, REGION, seen_s, 2)


def test_a_sighting_is_told_from_what_is_older() -> None:
    """Of two bodies that one key got in one millisecond the lattice's winner counts as newer."""
    one = Create(b"x", 5, NEVER_MS, b"\1" * 32)
    two = Create(b"y", 5, NEVER_MS, b"\2" * 32)
    assert merge(Record(one), Record(two)).create == one
    assert not Sighting(5, b"\1\1\1").is_in(Record(two))
    assert Sighting(5, b"\2\2\2").is_in(Record(one))
