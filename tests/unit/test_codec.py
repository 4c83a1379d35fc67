"""Bytes of a record: canonical, bound to their document, and never believed when damaged."""

import hashlib
import struct
from datetime import UTC, datetime
from pathlib import Path

import crc32c
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cluster.ids import NodeId, parse_document_id, partition_of
from kvnode import storage
from kvnode.codec import (
    HEADER_BYTES,
    RECORD_BYTES_MAX,
    VERSION,
    decode,
    encode,
    header_of,
    verify,
)
from kvnode.errors import CorruptRecord
from kvnode.hints import encode_hint
from kvnode.record import CONTENT_BYTES_MAX, Create, Record, Tombstone
from kvnode.storage.keys import (
    document_id_of,
    hint_key,
    hint_prefix,
    hint_target_of,
    partition_range,
    prefix_stop,
    record_key,
    vote_key,
)
from tests.support.pages import example_bytes
from tests.support.records import any_records, document_ids, records

ID = bytes(range(16))
FULL = Record(Create(b"x" * CONTENT_BYTES_MAX, 1, 2, b"c" * 32, b"f" * 16), Tombstone(3, 1 << 62))
nodes = st.text(
    st.characters(categories=["L", "N"], max_codepoint=0x17F), min_size=1, max_size=32
).map(NodeId)


def refused(document_id: bytes, encoded: bytes) -> bool:
    """Whether both ways of reading the bytes refuse them."""
    refusals = 0
    for read in (verify, decode):
        try:
            read(document_id, encoded)
        except CorruptRecord:
            refusals += 1
    assert refusals in (0, 2), "what verify takes, decode must take"
    return refusals == 2


def with_crc(document_id: bytes, body: bytes) -> bytes:
    """A body under the CRC that it should have."""
    return struct.pack(">I", crc32c.crc32c(body, crc32c.crc32c(document_id))) + body


@given(document_ids, any_records)
@example(ID, FULL)
def test_a_record_comes_back_as_it_went(document_id: bytes, record: Record) -> None:
    """Every field, over its whole range."""
    encoded = encode(document_id, record)
    assert HEADER_BYTES <= len(encoded) <= RECORD_BYTES_MAX
    verify(document_id, encoded)
    assert decode(document_id, encoded) == record


@given(records, records)
def test_equal_records_have_equal_bytes_and_different_ones_different_bytes(
    a: Record, b: Record
) -> None:
    """Canonical: replicas compare bytes, and don't decode what they hold already."""
    assert (encode(ID, a) == encode(ID, b)) == (a == b)


@given(records, records)
def test_headers_are_equal_exactly_when_the_records_are(a: Record, b: Record) -> None:
    """A coordinator sends a header, and a replica that has the same one says only SAME."""
    assert (header_of(encode(ID, a)) == header_of(encode(ID, b))) == (a == b)


@given(document_ids, any_records)
@settings(max_examples=15, deadline=None)
def test_every_flipped_bit_is_noticed(document_id: bytes, record: Record) -> None:
    """A damaged record is never served or merged, whichever bit it is."""
    encoded = bytearray(encode(document_id, record))
    for bit in range(8 * len(encoded)):
        encoded[bit >> 3] ^= 1 << (bit & 7)
        assert refused(document_id, bytes(encoded)), f"bit {bit} may flip unnoticed"
        encoded[bit >> 3] ^= 1 << (bit & 7)


@given(document_ids, any_records, st.binary(min_size=1, max_size=3))
@settings(max_examples=25, deadline=None)
def test_every_other_length_is_noticed(document_id: bytes, record: Record, more: bytes) -> None:
    """Cut short anywhere, or with something behind it."""
    encoded = encode(document_id, record)
    for size in range(len(encoded)):
        assert refused(document_id, encoded[:size]), f"{size} bytes pass for the whole"
    assert refused(document_id, encoded + more)


@given(document_ids, document_ids, any_records)
def test_bytes_under_another_document_are_noticed(a: bytes, b: bytes, record: Record) -> None:
    """Rule 2: a fault that moves a record to another key must not make it that document."""
    if a != b:
        assert refused(b, encode(a, record))


@given(st.binary(max_size=2 * HEADER_BYTES))
def test_arbitrary_bytes_are_refused_without_any_other_error(stored: bytes) -> None:
    """What lies on a broken disk is anything."""
    assert refused(ID, stored)
    assert refused(ID, with_crc(ID, stored)) or stored[0] == VERSION


@pytest.mark.parametrize("flags", [0, 4, 5, 0x80, 0xFF])
def test_flags_that_name_no_record_are_refused_before_anything_is_stored(flags: int) -> None:
    """A replica stores what ``verify`` lets through, so verify must refuse what decode would."""
    body = bytearray(encode(ID, FULL)[4:])
    body[1] = flags
    assert refused(ID, with_crc(ID, bytes(body)))


def test_another_format_version_is_refused_by_name() -> None:
    """An operator who went back to an old build must read why nothing works."""
    body = bytearray(encode(ID, FULL)[4:])
    body[0] = VERSION + 1
    with pytest.raises(CorruptRecord, match=f"version {VERSION + 1}, this build reads {VERSION}"):
        verify(ID, with_crc(ID, bytes(body)))


def test_content_above_the_limit_is_refused() -> None:
    """The largest record bounds every buffer that one passes through."""
    encoded = encode(ID, FULL)
    assert len(encoded) == RECORD_BYTES_MAX
    assert refused(ID, with_crc(ID, encoded[4:] + b"x"))


@given(document_ids, nodes)
def test_keys_give_back_what_they_were_made_of(document_id: bytes, target: NodeId) -> None:
    """A scan has only keys to tell whose record or hint it found."""
    assert document_id_of(record_key(document_id)) == document_id
    key = hint_key(target, document_id)
    assert document_id_of(key) == document_id
    assert hint_target_of(key) == target


@given(document_ids, st.integers(0, 12), st.data())
def test_a_partition_is_exactly_one_range_of_keys(
    document_id: bytes, bits: int, data: st.DataObject
) -> None:
    """Whatever their number: what is in the range belongs to it, and nothing else does."""
    partitions = 1 << bits
    own = partition_of(document_id, partitions)
    partition = data.draw(st.just(own) | st.integers(0, partitions - 1))
    start, stop = partition_range(partition, partitions)
    assert (start <= record_key(document_id) < stop) == (partition == own)


@given(document_ids, nodes, nodes)
def test_a_scan_of_one_targets_hints_meets_no_others(
    document_id: bytes, target: NodeId, other: NodeId
) -> None:
    """Also when one name starts with the other: the length comes first."""
    prefix = hint_prefix(target)
    found = prefix <= hint_key(other, document_id) < prefix_stop(prefix)
    assert found == (other == target)


@given(document_ids, nodes)
def test_kinds_of_keys_do_not_mix(document_id: bytes, target: NodeId) -> None:
    """A scan over all hints, or over a partition, meets that kind alone."""
    keys = [hint_key(target, document_id), record_key(document_id), vote_key(document_id)]
    assert [key[:1] for key in keys] == [b"h", b"r", b"v"]
    assert len(keys[1]) == len(keys[2]) == 17


def test_the_example_of_the_format_page_is_what_the_code_writes() -> None:
    """Whoever reads a hex dump with the page in hand must not be misled."""
    document_id = parse_document_id("019b76da-a800-7abc-9def-0123456789ab")
    assert document_id is not None
    content = b"Hello, stele!"
    created_at_ms = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp() * 1000)
    create = Create(
        content, created_at_ms, created_at_ms + 3_600_000, hashlib.sha256(content).digest()
    )
    deleted_at_ms = created_at_ms + 60_000
    tombstone = Tombstone(deleted_at_ms, deleted_at_ms + 30 * 86_400_000)
    record = encode(document_id, Record(create, tombstone))
    hint = encode_hint(created_at_ms, record)
    assert partition_of(document_id, 256) == 137
    page = Path(storage.__file__).with_name("FORMAT.md")
    assert example_bytes(page, "## Example") == [
        record_key(document_id),
        record,
        hint_key(NodeId("a3"), document_id),
        hint.removesuffix(record),
    ]
