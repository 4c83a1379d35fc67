"""Damage that LevelDB overlooks, found before it is opened.

The write-ahead log (``*.log``) and the list of tables (``MANIFEST-*``) are both *logs*:

    log     := block of 32 KiB ...          the last one may be shorter
    block   := record ...                   a record never crosses into the next block
    record  := crc(4) length(2) type(1) payload(length)       little-endian
    crc     := masked CRC-32C of type and payload

Rules
-----
1. A record that leads past the end of the file was being written, says LevelDB, and everything from
   there on is forgotten. If its crc fits a part of what is there, it was whole once and its length
   is damaged: of the list of tables, whole tables would be forgotten, and then deleted.
2. The list names the log whose writes are in no table yet. LevelDB does without it if it is gone.

A log that lost its end can't be told from a torn one, nor can one whose end became zeros.

Source: LevelDB, doc/log_format.md and db/version_edit.cc.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from crc32c import crc32c

_BLOCK_BYTES: Final = 32 * 1024
_HEADER: Final = struct.Struct("<IHB")
_FULL, _FIRST, _LAST = 1, 2, 4
#: Fields of a change of the list, by tag: v a number, s a string.
_FIELDS: Final = {1: "s", 2: "v", 3: "v", 4: "v", 5: "vs", 6: "vv", 7: "vvvss", 9: "v"}
_LOG_NUMBER_TAG: Final = 2


def overlooked_damage(directory: Path) -> str | None:
    """What is wrong with a database that nobody has open; None: nothing that is looked for here.

    Raises:
        OSError: a file can't be read.
    """
    manifests = sorted(directory.glob("MANIFEST-*"))
    for log in (*sorted(directory.glob("*.log")), *manifests):
        if length_is_damaged(_last_block(log)):
            return f"the length of a record in {log.name} is damaged"
    name = (directory / "CURRENT").read_bytes().decode(errors="replace").rstrip("\n")
    for manifest in manifests:
        if manifest.name == name:
            number = log_number(manifest.read_bytes())
            if number and not (directory / f"{number:06d}.log").exists():
                return f"the log {number:06d}.log is missing"
    return None


def length_is_damaged(block: bytes) -> bool:
    """Whether a log's last block ends in a whole record that claims to be longer than it is."""
    for crc, length, kind, start in _headers(block):
        if start + length > len(block):
            found = crc32c(bytes((kind,)))
            for end in range(start, len(block)):
                if _masked(found) == crc:
                    return True
                found = crc32c(block[end : end + 1], found)
            return _masked(found) == crc
    return False


def _last_block(log: Path) -> bytes:
    size_bytes = log.stat().st_size
    with log.open("rb") as opened:
        opened.seek(size_bytes - size_bytes % _BLOCK_BYTES)
        return opened.read()


def log_number(manifest: bytes) -> int:
    """The number of the first log whose writes are not in tables; 0 if none is named."""
    found = 0
    for change in _payloads(manifest):
        place = 0
        while place < len(change):
            tag, place = _varint(change, place)
            for field in _FIELDS.get(tag, ""):
                value, place = _varint(change, place)
                if field == "s":
                    place += value
                elif tag == _LOG_NUMBER_TAG:
                    found = value
    return found


def _headers(block: bytes) -> Iterator[tuple[int, int, int, int]]:
    """(crc, length, type, start of the payload) of each record, up to one that leads too far."""
    place = 0
    while place + _HEADER.size <= len(block):
        crc, length, kind = _HEADER.unpack_from(block, place)
        place += _HEADER.size
        yield crc, length, kind, place
        place += length


def _payloads(log: bytes) -> Iterator[bytes]:
    """What was appended, put together from its records; up to the first that is damaged."""
    whole = b""
    for first in range(0, len(log), _BLOCK_BYTES):
        block = log[first : first + _BLOCK_BYTES]
        for crc, length, kind, start in _headers(block):
            payload = block[start : start + length]
            if not length and not kind:
                break  # the rest of a block that had no room for a header and more
            if _masked(crc32c(payload, crc32c(bytes((kind,))))) != crc:
                return
            whole = payload if kind in (_FULL, _FIRST) else whole + payload
            if kind in (_FULL, _LAST):
                yield whole


def _masked(crc: int) -> int:
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _varint(encoded: bytes, place: int) -> tuple[int, int]:
    """A number of seven bits a byte, and the place behind it."""
    value = shift = 0
    while True:
        byte = encoded[place]
        place += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, place
