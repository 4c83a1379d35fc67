"""Ids: what they carry, and that text and bytes are two forms of one thing."""

from collections import Counter
from random import Random
from uuid import RFC_4122, UUID

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from cluster.ids import (
    DOCUMENT_ID_BYTES,
    UUID7_RANDOM_BYTES,
    PartitionId,
    format_document_id,
    parse_document_id,
    partition_of,
    uuid7,
    uuid7_in_partition,
    uuid8_of_key,
)

document_ids = st.binary(min_size=DOCUMENT_ID_BYTES, max_size=DOCUMENT_ID_BYTES)
randoms = st.binary(min_size=UUID7_RANDOM_BYTES, max_size=UUID7_RANDOM_BYTES)
times_ms = st.integers(0, (1 << 48) - 1)
counts = st.integers(0, 12).map(lambda power: 1 << power)
cluster_ids = st.binary(min_size=16, max_size=16)
keys = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=255)


@given(document_ids, counts)
def test_every_id_has_a_partition_in_range(document_id: bytes, partitions: int) -> None:
    """A partition beyond the ring would have no owner."""
    assert 0 <= partition_of(document_id, partitions) < partitions


@pytest.mark.parametrize("partitions", [1, 2, 256, 4096])
def test_each_partition_gets_the_same_share_of_all_tails(partitions: int) -> None:
    """Balance of partitions is balance of documents only if no partition is larger."""
    head = bytes(14)
    shares = Counter(
        partition_of(head + tail.to_bytes(2, "big"), partitions) for tail in range(1 << 16)
    )
    assert list(shares.values()) == [(1 << 16) // partitions] * partitions


@given(document_ids, document_ids, counts)
def test_the_partition_is_read_off_the_tail_alone(a: bytes, b: bytes, partitions: int) -> None:
    """Time and key lead an id and are not uniform; they must not decide the place."""
    assert partition_of(a, partitions) == partition_of(b[:14] + a[14:], partitions)


def test_minted_ids_spread_evenly_over_partitions() -> None:
    """The version and variant bits sit elsewhere, so the tail of a UUIDv7 is uniform."""
    random = Random(7)
    shares = Counter(
        partition_of(uuid7(1_700_000_000_000, random.randbytes(UUID7_RANDOM_BYTES)), 16)
        for _ in range(16_000)
    )
    assert sorted(shares) == list(range(16))
    assert max(shares.values()) < 1_150  # mean 1,000, standard deviation 31
    assert min(shares.values()) > 850


@given(times_ms, randoms)
def test_a_minted_id_is_a_uuid7_that_carries_its_time(wall_ms: int, random: bytes) -> None:
    """RFC 9562 section 5.7; other software sorts and dates these ids."""
    uuid = UUID(bytes=uuid7(wall_ms, random))
    assert (uuid.version, uuid.variant) == (7, RFC_4122)
    assert uuid.int >> 80 == wall_ms


@given(st.tuples(times_ms, randoms), st.tuples(times_ms, randoms))
def test_minted_ids_sort_by_time(a: tuple[int, bytes], b: tuple[int, bytes]) -> None:
    """Documents of one time lie together on disk, and their text sorts like their bytes."""
    assume(a[0] < b[0])
    assert uuid7(*a) < uuid7(*b)
    assert format_document_id(uuid7(*a)) < format_document_id(uuid7(*b))


@given(times_ms, randoms)
def test_74_random_bits_reach_the_id(wall_ms: int, random: bytes) -> None:
    """Each one less would double the chance that two nodes mint the same id."""
    number = int.from_bytes(random, "big")
    reaching = [
        bit
        for bit in range(80)
        if uuid7(wall_ms, (number ^ 1 << bit).to_bytes(10, "big")) != uuid7(wall_ms, random)
    ]
    assert len(reaching) == 74


@given(times_ms, randoms, counts, st.data())
def test_an_id_can_be_minted_in_any_partition(
    wall_ms: int, random: bytes, partitions: int, data: st.DataObject
) -> None:
    """A node that mints into its own partitions writes the first copy without a network hop."""
    partition = PartitionId(data.draw(st.integers(0, partitions - 1)))

    document_id = uuid7_in_partition(wall_ms, random, partition, partitions)

    assert partition_of(document_id, partitions) == partition
    assert document_id[:14] == uuid7(wall_ms, random)[:14]
    assert UUID(bytes=document_id).version == 7


@pytest.mark.parametrize("partitions", [1, 2, 256, 4096])
def test_minting_in_a_partition_keeps_the_rest_of_the_tail_random(partitions: int) -> None:
    """Every tail of the partition can come out, each for as many random bytes as any other."""
    shares = Counter(
        uuid7_in_partition(0, bytes(8) + tail.to_bytes(2, "big"), PartitionId(0), partitions)
        for tail in range(1 << 16)
    )
    assert len(shares) == (1 << 16) // partitions
    assert set(shares.values()) == {partitions}


@given(cluster_ids, st.text(max_size=20), keys)
def test_a_keyed_id_is_a_uuid8_and_the_same_every_time(
    cluster_id: bytes, tenant: str, key: str
) -> None:
    """RFC 9562 section 5.8; a retry that got another id would create a second document."""
    document_id = uuid8_of_key(cluster_id, tenant, key)

    assert uuid8_of_key(cluster_id, tenant, key) == document_id
    assert (document_id[6] >> 4, document_id[8] >> 6) == (8, 0b10)


def test_a_keyed_id_never_changes_between_versions() -> None:
    """The id of a key is a promise to clients: after an upgrade retries must still meet it."""
    document_id = uuid8_of_key(bytes(range(16)), "tenant", "key-1")
    assert format_document_id(document_id) == "1aba628b-302f-886d-ab4a-32c521c3f24b"


@given(
    st.tuples(cluster_ids, st.text(max_size=3), keys),
    st.tuples(cluster_ids, st.text(max_size=3), keys),
)
@example((bytes(16), "ab", "c"), (bytes(16), "a", "bc"))
def test_different_cluster_tenant_or_key_give_different_ids(
    a: tuple[bytes, str, str], b: tuple[bytes, str, str]
) -> None:
    """Also where tenant and key run into one another: one tenant must not meet another's record."""
    assume(a != b)
    assert uuid8_of_key(*a) != uuid8_of_key(*b)


@given(document_ids)
def test_parsing_undoes_formatting(document_id: bytes) -> None:
    """And the text is the one that every other UUID library writes."""
    text = format_document_id(document_id)

    assert parse_document_id(text) == document_id
    assert text == str(UUID(bytes=document_id))


@given(st.text(st.sampled_from("0123456789abcdefABCDEFg-_ {}\u0661\u0967\uff11"), max_size=40))
def test_only_canonical_text_is_parsed(text: str) -> None:
    """One document has one URL, so what parses formats back to itself."""
    document_id = parse_document_id(text)
    assert document_id is None or format_document_id(document_id) == text


CANONICAL = "0190a5e4-7b1c-7def-8a2b-0123456789ab"


@given(st.integers(0, 35), st.sampled_from("gGzAF -_+.:/%{}\x00\n\u0661\u0967\uff11\U0001d7ce"))
def test_one_wrong_character_is_refused_anywhere(at: int, wrong: str) -> None:
    """Among them digits of other scripts, which int() and str.isdigit() would take."""
    text = CANONICAL[:at] + wrong + CANONICAL[at + 1 :]
    assume(text != CANONICAL)
    assert parse_document_id(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        CANONICAL.upper(),
        CANONICAL.replace("-", ""),
        f"{{{CANONICAL}}}",
        f"urn:uuid:{CANONICAL}",
        f" {CANONICAL[:-1]}",
        f"{CANONICAL}\n",
        CANONICAL[:-1],
        CANONICAL + "0",
        "0190a5e47-b1c-7def-8a2b-0123456789ab",
        "0190a5e4-7b1c7-def-8a2b-0123456789ab",
        "0190a5e4-7b1c-7def8-a2b-0123456789ab",
        "0190a5e4-7b1c-7def-8a2b0-123456789ab",
        "0190a5e4-7b1c-7def-8a2b--123456789ab",
        "0190a5e4-7b1c-7def-8a2b 0123456789ab",
    ],
)
def test_other_spellings_of_an_id_are_refused(text: str) -> None:
    """All of them are taken by some UUID parser, and would be a second URL of one document."""
    assert parse_document_id(text) is None
