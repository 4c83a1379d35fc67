"""Logs as LevelDB writes them, torn anywhere, damaged anywhere."""

import struct
import tempfile
from pathlib import Path

import plyvel
from crc32c import crc32c
from hypothesis import given, settings
from hypothesis import strategies as st

from kvnode.storage.logcheck import length_is_damaged, log_number

BLOCK_BYTES = 32 * 1024


def record(payload: bytes, kind: int = 1) -> bytes:
    """One record, as the format says."""
    crc = crc32c(bytes((kind,)) + payload)
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    return struct.pack("<IHB", masked, len(payload), kind) + payload


payloads = st.lists(st.binary(max_size=300), min_size=1, max_size=20)


@given(payloads=payloads, cut=st.integers(0, 300))
@settings(deadline=None)
def test_a_log_that_ends_anywhere_is_torn_and_not_damaged(payloads: list[bytes], cut: int) -> None:
    """A node that lost power must start with what it has."""
    log = b"".join(map(record, payloads))
    assert not length_is_damaged(log[: max(0, len(log) - cut)])


@given(payloads=payloads, which=st.integers(0, 19), length=st.integers(0, 0xFFFF))
@settings(deadline=None)
def test_a_length_that_leads_past_the_end_is_damaged(
    payloads: list[bytes], which: int, length: int
) -> None:
    """In any record, by any number of bits, also in the last one, behind which there is nothing."""
    which %= len(payloads)
    log = bytearray(b"".join(map(record, payloads)))
    start = sum(7 + len(payload) for payload in payloads[:which])
    log[start + 4 : start + 6] = struct.pack("<H", length)
    assert length_is_damaged(bytes(log)) == (start + 7 + length > len(log))


def test_an_empty_log_is_whole() -> None:
    """A node that was stopped and wrote nothing since."""
    assert not length_is_damaged(b"")


@given(batches=st.lists(st.integers(1, 40_000), max_size=12))
@settings(max_examples=20, deadline=None)
def test_what_leveldb_writes_is_read_as_it_reads_it(batches: list[int]) -> None:
    """Records that were split over blocks as well: the list always names a log that is there."""
    with tempfile.TemporaryDirectory() as path:
        database = plyvel.DB(path, create_if_missing=True, write_buffer_size=1 << 16)
        for number, size_bytes in enumerate(batches):
            database.put(b"%d" % number, bytes(size_bytes))
        database.close()
        directory = Path(path)
        for log in (*directory.glob("*.log"), *directory.glob("MANIFEST-*")):
            content = log.read_bytes()
            assert not length_is_damaged(content[len(content) // BLOCK_BYTES * BLOCK_BYTES :])
        (manifest,) = directory.glob("MANIFEST-*")
        logs = [int(log.stem) for log in directory.glob("*.log")]
        assert log_number(manifest.read_bytes()) in logs
