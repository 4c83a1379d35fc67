"""Documents as JSON.

The types say what each answer holds; the OpenAPI page is generated from them and the tests decode
every answer through them. The bytes themselves are written by hand around the one field that needs
escaping, the content: that costs two thirds of encoding such an object.
"""

from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from docservice.documents import Created
from docservice.http.problems import Problem
from kvnode.record import NEVER_MS, Create

_DAY_MS: Final = 86_400_000
_MINUTE_MS: Final = 60_000
# Every text that a time of day is put together from; formatting the numbers costs twice as much.
_MINUTES: Final = tuple(f"T{minute // 60:02d}:{minute % 60:02d}:" for minute in range(24 * 60))
_SECONDS: Final = tuple(f"{second:02d}." for second in range(60))
_MILLISECONDS: Final = tuple(f"{ms:03d}Z" for ms in range(1000))
#: Days whose dates are remembered; writing one anew costs a microsecond.
_DATES_MAX: Final = 1024

_Id = Annotated[str, Meta(extra_json_schema={"format": "uuid"})]
_Time = Annotated[
    str, Meta(description="UTC, with milliseconds.", extra_json_schema={"format": "date-time"})
]
_DeleteAt = Annotated[
    str | None,
    Meta(
        description="When the document deletes itself; null when it never does.",
        extra_json_schema={"format": "date-time"},
    ),
]
_Checksum = Annotated[str, Meta(description="SHA-256 of the content's bytes.")]


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """A document that can be read."""

    id: _Id
    content: str
    status: Literal["ACTIVE"]
    created_at: _Time
    delete_at: _DeleteAt
    checksum: _Checksum


class CreatedDocument(msgspec.Struct, frozen=True, kw_only=True):
    """What a create answers; ``Prefer: return=representation`` adds the content."""

    id: _Id
    status: Literal["ACTIVE"]
    created_at: _Time
    delete_at: _DeleteAt
    checksum: _Checksum


class BulkResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one operation. Which fields there are goes by ``status``."""

    #: As the same call alone would have answered: 201, 200, 204 or that of the problem.
    status: int
    # A create, 201:
    id: _Id | UnsetType = UNSET
    created_at: _Time | UnsetType = UNSET
    delete_at: _DeleteAt | UnsetType = UNSET
    checksum: _Checksum | UnsetType = UNSET
    #: True when an earlier request with the same key had created it.
    replayed: Literal[True] | UnsetType = UNSET
    # A get, 200:
    document: Document | UnsetType = UNSET
    # Whatever failed:
    problem: Problem | UnsetType = UNSET


class BulkResponse(msgspec.Struct, frozen=True, kw_only=True):
    """One result an operation, in the order of the operations."""

    #: Whether any result is a problem.
    errors: bool
    results: list[BulkResult]


class Representation:
    """Writes documents as JSON."""

    def __init__(self) -> None:
        self._date = lru_cache(_DATES_MAX)(_date_of_day)
        self._encode = msgspec.json.Encoder().encode

    def document(self, id_text: str, create: Create) -> bytes:
        """A ``Document``."""
        return (
            f'{{"id":"{id_text}","content":'.encode()
            + self._encode(create.content.decode())
            + f',"status":"ACTIVE",{self._fields(create)}}}'.encode()
        )

    def created(self, id_text: str, create: Create) -> bytes:
        """A ``CreatedDocument``."""
        return f'{{"id":"{id_text}","status":"ACTIVE",{self._fields(create)}}}'.encode()

    def bulk_created(self, id_text: str, created: Created) -> bytes:
        """The ``BulkResult`` of a create."""
        replayed = ',"replayed":true' if created.replayed else ""
        return (
            f'{{"status":201,"id":"{id_text}",{self._fields(created.create)}{replayed}}}'.encode()
        )

    def bulk_got(self, id_text: str, create: Create) -> bytes:
        """The ``BulkResult`` of a get."""
        return b'{"status":200,"document":%b}' % self.document(id_text, create)

    def bulk_failed(self, problem: Problem) -> bytes:
        """The ``BulkResult`` of any operation that failed."""
        return b'{"status":%d,"problem":%b}' % (problem.status, self._encode(problem))

    def _fields(self, create: Create) -> str:
        expires_at_ms = create.expires_at_ms
        delete_at = "null" if expires_at_ms == NEVER_MS else f'"{self._time(expires_at_ms)}"'
        return (
            f'"created_at":"{self._time(create.created_at_ms)}","delete_at":{delete_at},'
            f'"checksum":"{create.checksum.hex()}"'
        )

    def _time(self, wall_ms: int) -> str:
        """RFC 3339 with milliseconds."""
        day, ms = divmod(wall_ms, _DAY_MS)
        minute, ms = divmod(ms, _MINUTE_MS)
        second, ms = divmod(ms, 1000)
        return f"{self._date(day)}{_MINUTES[minute]}{_SECONDS[second]}{_MILLISECONDS[ms]}"


def _date_of_day(day: int) -> str:
    return datetime.fromtimestamp(day * 86_400, UTC).date().isoformat()
