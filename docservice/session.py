"""What a client has seen, as a token that it carries from one node to the next.

Rules
-----
1. A token holds documents that were shown to the client, or written by it: that one lives, or that
   it is deleted. Absence is no state; an answer that only says "not found" adds nothing.
2. Whoever serves a read with a token gives no older answer than the token knows of: after a
   document its document or its deletion, after a deletion never the document.
3. Deleted is final. A key whose document was purged may be used again: what was created after
   ``until_ms`` is another life, and the later life counts. Two clocks differ by at most
   ``clock_skew_ms``: what was deleted was created no later than that after its deletion.
4. The SIGHTINGS_MAX documents seen last are kept. Older ones are forgotten, and promised nothing.
5. A token is authenticated, not secret: it holds ids that its client knows anyway. Nobody who lacks
   the cluster's secret can make one, or change one bit of it.

The bytes: MAGIC, then rows of one size, newest first, then the tag; in base64, which never needs
padding, for every part's size is a multiple of three. A row is found without decoding the others.

Source: Terry et al., "Session guarantees for weakly consistent replicated data", PDIS 1994; the tag
is HMAC-SHA256 (RFC 2104), truncated.
"""

import hashlib
import hmac
from binascii import a2b_base64, b2a_base64
from struct import Struct
from typing import Final, Self

import msgspec

from cluster.ids import DOCUMENT_ID_BYTES
from kvnode.record import NEVER_MS, Create, Record, Sighting

SIGHTINGS_MAX: Final = 32
#: In one header: as many clients' tokens as a request may bring together.
TOKENS_MAX: Final = 32
MAGIC: Final = b"\x5e\x01"
TAG_BYTES: Final = 16
_PURPOSE: Final = b"stele session token"
_SHA256_BLOCK_BYTES: Final = 64
_SECONDS_MAX: Final = 2**32 - 1
#: id, deleted, region, seen_s, until_ms, created_at_ms, first bytes of the checksum.
_ROW: Final = Struct(">16s?2sIQQ3s")
_ROWS_BYTES_MAX: Final = SIGHTINGS_MAX * _ROW.size
_REST_BYTES_MAX: Final = _ROWS_BYTES_MAX - _ROW.size
_BARE_BYTES: Final = len(MAGIC) + TAG_BYTES


class InvalidToken(Exception):
    """Not a token of this cluster, or not as this cluster made it."""


class Known(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What a session knows of one document."""

    deleted: bool
    #: Of the region in which it was seen: ``kvnode.record.region_tag``.
    region: bytes
    #: Seconds since 1970.
    seen_s: int
    #: Of a live document: before this, no purge can have taken it away. Of a deleted one: what was
    #: created up to now is what was deleted.
    until_ms: int
    #: Of a live document; see ``kvnode.record.Sighting``.
    created_at_ms: int = 0
    checksum_head: bytes = bytes(Sighting.HEAD_BYTES)

    @property
    def sighting(self) -> Sighting | None:
        """What a replica must have to be no older than this; None: it need not have anything."""
        if self.deleted:
            return None
        return Sighting(self.created_at_ms, self.checksum_head, self.region)

    def is_beyond(self, record: Record | None) -> bool:
        """Whether what replicas have is older: without the document that was seen."""
        sighting = self.sighting
        return sighting is not None and not sighting.is_in(record)

    def forbids(self, create: Create) -> bool:
        """Whether a document can't be shown any more: it is (an earlier life of) a deleted one."""
        return self.deleted and create.created_at_ms <= self.until_ms


def shown(
    create: Create, *, region: bytes, now_ms: int, retention_ms: int, clock_skew_ms: int
) -> Known:
    """A document was shown to the client, or was created by it."""
    until_ms = create.created_at_ms + max(retention_ms, clock_skew_ms)
    if create.expires_at_ms != NEVER_MS:
        until_ms = min(until_ms, create.expires_at_ms)
    head = create.checksum[: Sighting.HEAD_BYTES]
    return Known(False, region, _seconds(now_ms), until_ms, create.created_at_ms, head)


def gone(record: Record | None, *, region: bytes, now_ms: int, clock_skew_ms: int) -> Known:
    """The client was told that a document is deleted, or deleted it.

    ``record`` is why, as far as it is known: what holds a tombstone, or has expired.
    """
    if record is None:
        until_ms = now_ms + clock_skew_ms
    elif record.tombstone is not None:
        tombstone = record.tombstone
        until_ms = max(tombstone.delete_at_ms, tombstone.deleted_at_ms + clock_skew_ms)
    else:
        assert record.create is not None
        until_ms = max(record.create.expires_at_ms, record.create.created_at_ms)
    return Known(True, region, _seconds(now_ms), until_ms)


def join(a: Known, b: Known) -> Known:
    """What is known of a document after both."""
    if (
        not a.deleted
        and not b.deleted
        and a.created_at_ms == b.created_at_ms
        and a.checksum_head == b.checksum_head
    ):  # it was seen again
        return a if _when(a) <= _when(b) else b
    for one, other in ((a, b), (b, a)):
        if not one.deleted and one.created_at_ms > other.until_ms:
            return one  # another life
    if a.deleted != b.deleted:
        return a if a.deleted else b
    if a.deleted:
        return min(a, b, key=lambda known: (-known.until_ms, *_when(known)))
    return min(a, b, key=lambda known: (known.created_at_ms, known.checksum_head, *_when(known)))


class Session:
    """What one client has seen: what its request brought, and what ``note`` adds to it.

    What was brought is known until the request is over, however much is noted meanwhile.
    """

    __slots__ = ("_brought", "_noted")

    def __init__(self, rows: bytes = b"") -> None:
        self._brought = rows
        self._noted = b""

    def known(self, document_id: bytes) -> Known | None:
        """What it knows of a document."""
        for rows in (self._noted, self._brought):
            if rows and (at := _find(rows, document_id)) >= 0:
                return _unpack(rows, at)
        return None

    def note(self, document_id: bytes, known: Known) -> None:
        """Join what the client is about to be told to what it knows; now it is the newest."""
        before = self.known(document_id)
        if before is not None:
            known = join(before, known)
        row, rest = _pack(document_id, known), self._noted
        self._noted = row + _without(rest, document_id)[:_REST_BYTES_MAX] if rest else row

    def add(self, other: Self) -> None:
        """Join what the client brought besides."""
        known_by_id: dict[bytes, Known] = {}
        for rows in (self._brought, other._brought):
            for at in range(0, len(rows), _ROW.size):
                document_id, known = rows[at : at + DOCUMENT_ID_BYTES], _unpack(rows, at)
                before = known_by_id.get(document_id)
                known_by_id[document_id] = known if before is None else join(before, known)
        newest = sorted(known_by_id.items(), key=lambda item: (-item[1].seen_s, item[0]))
        self._brought = b"".join(_pack(*item) for item in newest)

    @property
    def rows(self) -> bytes:
        """What fits into a token: what was noted, and the newest of what was brought."""
        rows = self._brought
        if not rows:
            return self._noted
        noted = self._noted
        for at in range(0, len(noted), _ROW.size):
            rows = _without(rows, noted[at : at + DOCUMENT_ID_BYTES])
        return (noted + rows)[:_ROWS_BYTES_MAX]


class Tokens:
    """Writes and reads the tokens of a cluster.

    Args:
        secret: The cluster's; the key is derived from it, for this purpose alone.
    """

    def __init__(self, secret: bytes) -> None:
        key = hmac.digest(secret, _PURPOSE, "sha256")
        # HMAC with the work on the key done once: a third of the time of hmac.digest.
        block = key.ljust(_SHA256_BLOCK_BYTES, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in block))

    def write(self, session: Session) -> str:
        """The token of a session."""
        body = MAGIC + session.rows
        return b2a_base64(body + self._tag(body), newline=False).decode()

    def read(self, tokens: str) -> Session:
        """The session of a token; of several, separated by commas, what all of them know.

        Raises:
            InvalidToken: one of them is none of this cluster's, or there are too many.
        """
        if "," not in tokens:
            return self._read(tokens)
        parts = tokens.split(",")
        if len(parts) > TOKENS_MAX:
            raise InvalidToken
        session = Session()
        for part in parts:
            session.add(self._read(part.strip()))
        return session

    def _read(self, token: str) -> Session:
        try:
            raw = a2b_base64(token, strict_mode=True)
        except ValueError as error:
            raise InvalidToken from error
        body, tag = raw[:-TAG_BYTES], raw[-TAG_BYTES:]
        if len(raw) < _BARE_BYTES or not hmac.compare_digest(tag, self._tag(body)):
            raise InvalidToken
        if not body.startswith(MAGIC):
            raise InvalidToken
        return Session(body[len(MAGIC) :])

    def _tag(self, body: bytes) -> bytes:
        inner = self._inner.copy()
        inner.update(body)
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.digest()[:TAG_BYTES]


def _when(known: Known) -> tuple[int, int, bytes]:
    return -known.seen_s, known.until_ms, known.region


def _find(rows: bytes, document_id: bytes) -> int:
    """Where its row starts, or -1: the same bytes may stand across two rows, too."""
    at = rows.find(document_id)
    while at > 0 and at % _ROW.size:
        at = rows.find(document_id, at + 1)
    return at


def _without(rows: bytes, document_id: bytes) -> bytes:
    at = _find(rows, document_id)
    return rows[:at] + rows[at + _ROW.size :] if at >= 0 else rows


def _pack(document_id: bytes, known: Known) -> bytes:
    return _ROW.pack(
        document_id,
        known.deleted,
        known.region,
        known.seen_s,
        known.until_ms,
        known.created_at_ms,
        known.checksum_head,
    )


def _unpack(rows: bytes, at: int) -> Known:
    return Known(*_ROW.unpack_from(rows, at)[1:])


def _seconds(now_ms: int) -> int:
    return min(max(now_ms // 1000, 0), _SECONDS_MAX)
