"""Request bodies: strict JSON, decoded and checked against their types in one pass.

Rules
-----
1. msgspec decodes straight into the type, so a valid body is read once. It already refuses bad
   UTF-8, a byte order mark, lone surrogates, NaN, trailing bytes and nesting without end.
2. It keeps the last of two equal keys. They are found by counting: a body of known fields holds
   a known number of strings, hence of quotation marks, and a repeated key adds two more.
3. Only a body that was refused is decoded again, to tell malformed (400) from mistyped (422).
4. A bulk request is parsed whole before any of it is carried out. Malformed JSON anywhere refuses
   all of it; an operation that is JSON but not an operation fails alone.
"""

from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
from msgspec import UNSET, Meta, UnsetType

from docservice.documents import TTL_SECONDS_MAX
from docservice.http.headers import KEY_LENGTH_MAX, is_idempotency_key
from docservice.http.problems import RequestRefused
from kvnode.record import CONTENT_BYTES_MAX

CREATE_BYTES_MAX: Final = 16 * 1024
BULK_BYTES_MAX: Final = 4 * 1024 * 1024
OPERATIONS_MAX: Final = 1000

_Content = Annotated[
    str,
    Meta(
        description=f"At most {CONTENT_BYTES_MAX} bytes in UTF-8; kept byte for byte.",
        # The bound is in bytes, which JSON Schema can't say: it is enforced with its own code.
        extra_json_schema={"maxLength": CONTENT_BYTES_MAX},
    ),
]
_TtlSeconds = Annotated[
    int,
    Meta(ge=1, le=TTL_SECONDS_MAX, description="Seconds until the document is deleted by itself."),
]
_Key = Annotated[
    str,
    Meta(
        description="A create repeated with its key gives the first answer again.",
        extra_json_schema={"minLength": 1, "maxLength": KEY_LENGTH_MAX, "pattern": "^[ -~]+$"},
    ),
]
_Id = Annotated[str, Meta(extra_json_schema={"format": "uuid"})]


class CreateRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of POST /documents."""

    content: _Content
    ttl_seconds: _TtlSeconds | UnsetType = UNSET


class CreateOperation(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="create"
):
    """Create a document."""

    content: _Content
    ttl_seconds: _TtlSeconds | UnsetType = UNSET
    idempotency_key: _Key | UnsetType = UNSET


class GetOperation(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="get"
):
    """Read a document."""

    id: _Id


class DeleteOperation(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="delete"
):
    """Delete a document."""

    id: _Id


Operation = CreateOperation | GetOperation | DeleteOperation


class BulkRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of POST /documents/_bulk."""

    operations: Annotated[list[Operation], Meta(extra_json_schema={"maxItems": OPERATIONS_MAX})]


class _BulkEnvelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A bulk request whose operations are still undecoded, so that each can fail alone."""

    operations: list[msgspec.Raw]


#: What a decoder raises for bytes that it does not take.
_REFUSALS: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class BodyReader:
    """The decoders, built once."""

    def __init__(self) -> None:
        self._create = msgspec.json.Decoder(CreateRequest)
        self._envelope = msgspec.json.Decoder(_BulkEnvelope)
        self._operation: msgspec.json.Decoder[Operation] = msgspec.json.Decoder(Operation)
        self._any = msgspec.json.Decoder()

    def create(self, body: bytes) -> CreateRequest:
        """The body of POST /documents.

        Raises:
            RequestRefused: malformed-json or invalid-document.
        """
        try:
            request = self._create.decode(body)
        except _REFUSALS as error:
            raise self._refused(body, error) from None
        if _strings(body) != (2 if request.ttl_seconds is UNSET else 3):
            raise _duplicate_key()
        return request

    def bulk(self, body: bytes) -> Sequence[Operation | RequestRefused]:
        """The operations of a bulk request in order; a refusal stands in for what is not one.

        Raises:
            RequestRefused: malformed-json, invalid-document or body-too-large, for the whole.
        """
        try:
            raw_operations = self._envelope.decode(body).operations
        except _REFUSALS as error:
            raise self._refused(body, error) from None
        if len(raw_operations) > OPERATIONS_MAX:
            raise RequestRefused("body-too-large", f"more than {OPERATIONS_MAX} operations")
        operations: list[Operation | RequestRefused] = []
        strings = 1  # the envelope's only key
        for raw in raw_operations:
            operation_bytes = bytes(raw)
            strings += _strings(operation_bytes)
            operations.append(self._decode_operation(operation_bytes))
        if strings != _strings(body):
            raise _duplicate_key()
        return operations

    def _decode_operation(self, body: bytes) -> Operation | RequestRefused:
        try:
            operation = self._operation.decode(body)
        except _REFUSALS as error:
            refused = self._refused(body, error)
            if refused.code == "malformed-json":
                raise refused from None
            return refused
        strings = 4
        if isinstance(operation, CreateOperation):
            key = operation.idempotency_key
            strings += (operation.ttl_seconds is not UNSET) + 2 * (key is not UNSET)
            if key is not UNSET and not is_idempotency_key(key):
                return RequestRefused(
                    "invalid-document",
                    "idempotency_key is not 1 to 255 printable ASCII characters",
                )
        if _strings(body) != strings:
            raise _duplicate_key()
        return operation

    def _refused(self, body: bytes, error: Exception) -> RequestRefused:
        """Malformed or mistyped? In words of ours, for the decoder's quote the body."""
        if isinstance(error, msgspec.ValidationError):
            try:
                value = self._any.decode(body)
            except _REFUSALS:
                return RequestRefused("malformed-json")  # as well, and that comes first
            # Longer ones have no operation in them worth the walk.
            if len(body) <= CREATE_BYTES_MAX and _strings(body) != _strings_of(value):
                return _duplicate_key()
            return RequestRefused("invalid-document", _what_is_mistyped(str(error)))
        if isinstance(error, UnicodeDecodeError):
            return RequestRefused("malformed-json", "the body is not UTF-8")
        return RequestRefused("malformed-json")


def _strings(body: bytes) -> int:
    """How many strings, keys included, valid JSON holds: half its unescaped quotation marks."""
    marks = body.count(b'"')
    if b"\\" in body:
        # Without the escaped backslashes, a backslash before a mark is what escapes it.
        marks -= body.replace(b"\\\\", b"").count(b'\\"')
    return marks // 2


def _strings_of(value: object) -> int:
    """How many strings, keys included, a decoded value holds."""
    count = 0
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            count += 1
        elif isinstance(item, list):
            pending += item
        elif isinstance(item, dict):
            count += len(item)
            pending += item.values()
    return count


def _duplicate_key() -> RequestRefused:
    return RequestRefused("malformed-json", "an object has the same key twice")


def _what_is_mistyped(complaint: str) -> str:
    """The decoder's complaint, reduced to the names of fields that this API itself knows."""
    for field in ("content", "ttl_seconds", "idempotency_key", "id", "op", "operations"):
        if complaint == f"Object missing required field `{field}`":
            return f"the field {field} is missing"
        if complaint.endswith(f" - at `$.{field}`"):
            return f"the field {field} has the wrong type or is out of range"
    if complaint.startswith("Object contains unknown field"):
        return "the object has a field that is not known here"
    return ""
