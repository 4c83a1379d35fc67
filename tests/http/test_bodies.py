"""Strict JSON: what is taken, what is malformed (400) and what is mistyped (422)."""

import json
import math
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from docservice.documents import TTL_SECONDS_MAX
from docservice.http.bodies import (
    OPERATIONS_MAX,
    BodyReader,
    BulkRequest,
    CreateOperation,
    DeleteOperation,
    GetOperation,
)
from docservice.http.problems import RequestRefused
from tests.support.http import Served, one_loop

READER = BodyReader()


class Malformed(Exception):
    """Not JSON, by the slow reference below."""


def reference(body: bytes) -> Any:
    """JSON as strictly as it can be read, written for clarity alone."""

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        for key, _ in pairs:
            key.encode()
        if len(dict(pairs)) < len(pairs):
            raise Malformed
        return dict(pairs)

    def no_constant(name: str) -> None:
        raise Malformed

    def check_leaves(value: Any) -> None:
        match value:
            case str():
                value.encode()  # a lone surrogate can't be
            case float() if math.isinf(value):
                raise Malformed
            case list():
                for item in value:
                    check_leaves(item)
            case dict():
                for item in value.values():
                    check_leaves(item)

    try:
        value = json.loads(body.decode(), object_pairs_hook=unique, parse_constant=no_constant)
        check_leaves(value)
    except (ValueError, RecursionError) as error:
        raise Malformed from error
    return value


def verdict_of_reference(body: bytes) -> str | tuple[object, object]:
    """What a create should come to: a code, or its fields."""
    try:
        value = reference(body)
    except Malformed:
        return "malformed-json"
    if not isinstance(value, dict) or not {"content"} <= set(value) <= {"content", "ttl_seconds"}:
        return "invalid-document"
    content, ttl_s = value["content"], value.get("ttl_seconds", 1)
    if not isinstance(content, str) or type(ttl_s) is not int or not 1 <= ttl_s <= TTL_SECONDS_MAX:
        return "invalid-document"
    return content, value.get("ttl_seconds", UNSET)


def verdict(body: bytes) -> str | tuple[object, object]:
    """What a create comes to."""
    try:
        request = READER.create(body)
    except RequestRefused as refused:
        return refused.code
    return request.content, request.ttl_seconds


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-2, 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
#: Keys that repeat, are spelled with escapes, or are not known.
key_texts = st.sampled_from(
    ['"content"', '"ttl_seconds"', r'"c\u006fntent"', r'"ttl_second\u0073"', '"x"', '"\\""', '""']
)
value_texts = (
    st.builds(json.dumps, values, ensure_ascii=st.booleans())
    | st.integers(0, 5).map(str)
    | st.sampled_from(
        ["NaN", "-Infinity", "1e999", "01", "1.", "-0", "1e2", "'a'", "[1,]", "", "nul",
         '"\\ud800"', '"\\udc00\\ud800"', '"\\ud83d\\ude00"', '"\x01"', '"\\x"',
         '"a\\\\"', '"\\\\\\""', '"\\":"']
    )
)  # fmt: skip
spaces = st.sampled_from(["", " ", "\n\t", "\r\n", "\xa0", "\ufeff"])


@st.composite
def object_texts(draw: st.DrawFn) -> bytes:
    """Objects that are almost a create."""
    pairs = draw(st.lists(st.tuples(key_texts, spaces, value_texts), max_size=4))
    space = draw(spaces)
    text = ",".join(f"{space}{key}{gap}:{gap}{value}" for key, gap, value in pairs)
    return f"{draw(spaces)}{{{text}}}{draw(spaces)}".encode("utf-8", "surrogatepass")


@settings(max_examples=400)
@given(object_texts())
@example(b'{"content":"a","content":"a"}')
@example(rb'{"content":"a","c\u006fntent":"a"}')
@example(b'{"content":"\\"","ttl_seconds":1,"ttl_seconds":1}')
@example(b'{"content":1,"content":"a"}')
@example(b'{"content":"\xff"}')
@example(b'{"content":"\xed\xa0\x80"}')
@example(b'{"content":"a","x":1e999}')
def test_a_body_is_read_as_the_reference_reads_it(body: bytes) -> None:
    """Same verdict, same code, same values, for everything near a valid create."""
    assert verdict(body) == verdict_of_reference(body)


@settings(max_examples=300)
@given(st.data())
def test_a_damaged_body_is_read_as_the_reference_reads_it(data: st.DataObject) -> None:
    """Any byte of a valid body replaced, removed or repeated."""
    body = bytearray(
        rb'{"content": "caf\u00e9 \"\\ \ud83d\ude00 ' + "é😀".encode() + b'", "ttl_seconds": 60}'
    )
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(body) - 1))
        body[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))

    assert verdict(bytes(body)) == verdict_of_reference(bytes(body))


@given(st.text(st.characters(exclude_categories=["Cs"])), st.booleans())
def test_any_text_is_taken_as_it_is(content: str, ascii_only: bool) -> None:
    """However it is escaped; the count of its quotation marks must never look like a second key."""
    body = json.dumps({"content": content, "ttl_seconds": 5}, ensure_ascii=ascii_only).encode()

    assert verdict(body) == (content, 5)


MALFORMED = {
    "44 empty": b"",
    "44 white space": b" \n",
    "45 truncated": b'{"content":"MARKER',
    "45 trailing bytes": b'{"content":"a"}MARKER',
    "45 two values": b'{"content":"a"}{"content":"b"}',
    "45 trailing comma": b'{"content":"a",}',
    "45 comment": b'/*MARKER*/{"content":"a"}',
    "47 NaN": b'{"content":NaN}',
    "47 Infinity": b'{"content":"a","ttl_seconds":Infinity}',
    "47 1e999": b'{"content":"a","ttl_seconds":1e999}',
    "48 invalid UTF-8": b'{"content":"\xff\xfeMARKER"}',
    "48 overlong UTF-8": b'{"content":"\xc0\xaf"}',
    "48 surrogate in UTF-8": b'{"content":"\xed\xa0\x80"}',
    "48 byte order mark": b'\xef\xbb\xbf{"content":"a"}',
    "48 UTF-16": '{"content":"a"}'.encode("utf-16"),
    "49 lone surrogate": rb'{"content":"\ud800MARKER"}',
    "49 swapped surrogates": rb'{"content":"\udc00\ud800"}',
    "50 1,000 brackets": b"[" * 1000,
    "50 1,000 closed brackets": b"[" * 1000 + b"]" * 1000,
    "50 1,000 objects": b'{"a":' * 1000 + b"1" + b"}" * 1000,
    "50 deep in a field": b'{"content":"a","MARKER":' + b"[" * 2000 + b"]" * 2000 + b"}",
    "51 the same key twice": b'{"content":"a","content":"a"}',
    "51 the same key twice, escaped": rb'{"content":"a","\u0063ontent":"b"}',
    "49 raw control character": b'{"content":"a\nb"}',
}
MISTYPED = {
    "52 number": b"5",
    "52 null": b"null",
    "52 string": b'"MARKER"',
    "52 array": b'["content"]',
    "53 empty": b"{}",
    "53 unknown field": b'{"content":"a","MARKER":1}',
    "53 unknown field alone": b'{"MARKER":"a"}',
    "53 content null": b'{"content":null}',
    "53 content number": b'{"content":1}',
    "53 content array": b'{"content":["a"]}',
    "53 content object": b'{"content":{"content":"a"}}',
    **{
        f"56 ttl {text}": b'{"content":"a","ttl_seconds":%b}' % text.encode()
        for text in ("0", "-1", "1.5", "1.0", "1e2", '"1"', "null", "true", "[]", "{}", "-0",
                     "9223372036854775808", str(TTL_SECONDS_MAX + 1), "9" * 100)
    },
}  # fmt: skip


@one_loop
@pytest.mark.parametrize("body", [pytest.param(body, id=name) for name, body in MALFORMED.items()])
@pytest.mark.parametrize("target", ["/documents", "/documents/_bulk"])
async def test_malformed_json_is_a_bad_request(served: Served, target: str, body: bytes) -> None:
    """400: it can't be said what was meant."""
    response = await served.call("POST", target, body)

    assert (response.status, response.problem.code) == (400, "malformed-json")
    assert b"MARKER" not in response.raw
    assert served.store.writes == []


@one_loop
@pytest.mark.parametrize("body", [pytest.param(body, id=name) for name, body in MISTYPED.items()])
async def test_json_that_is_no_document_cannot_be_processed(served: Served, body: bytes) -> None:
    """422: understood, and not what this call takes."""
    response = await served.call("POST", "/documents", body)

    assert (response.status, response.problem.code) == (422, "invalid-document")
    assert b"MARKER" not in response.raw
    assert served.store.writes == []


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"{}", "the field content is missing"),
        (b'{"content":1}', "the field content has the wrong type or is out of range"),
        (b'{"content":"","ttl_seconds":0}',
         "the field ttl_seconds has the wrong type or is out of range"),
        (b'{"content":"","x":0}', "the object has a field that is not known here"),
    ],
)  # fmt: skip
def test_a_refusal_says_which_field_is_wrong(body: bytes, detail: str) -> None:
    """In names of ours; a name that the client made up is not repeated."""
    with pytest.raises(RequestRefused) as refused:
        READER.create(body)
    assert refused.value.detail == detail


@pytest.mark.parametrize(
    "content",
    ["x" * 2048, "é" * 1024, "€" * 682, "😀" * 512, "", "\0" * 2048, '"' * 2048, "\\" * 2048],
    ids=["ascii", "two bytes", "three bytes", "astral", "empty", "NUL", "quotes", "backslashes"],
)
async def test_content_of_2048_bytes_is_taken(served: Served, content: str) -> None:
    """Row 54, in every way that bytes and characters can differ; escaped it still fits a body."""
    for ascii_only in (True, False):
        body = json.dumps({"content": content}, ensure_ascii=ascii_only).encode()
        assert (await served.call("POST", "/documents", body)).status == 201


# Bulk bodies.


def bulk(*operations: bytes) -> bytes:
    """A bulk request of raw operations."""
    return b'{"operations":[%b]}' % b",".join(operations)


def test_operations_are_read_in_order_whatever_the_order_of_their_keys() -> None:
    """The kind of an operation may come last."""
    read = READER.bulk(
        bulk(
            rb'{"content":"\"a\\","op":"create","idempotency_key":"k\"","ttl_seconds":7}',
            b' {"op" : "get", "id":"x"} ',
            b'{"id":"y","op":"delete"}',
        )
    )

    assert read == [
        CreateOperation(content='"a\\', ttl_seconds=7, idempotency_key='k"'),
        GetOperation(id="x"),
        DeleteOperation(id="y"),
    ]


@pytest.mark.parametrize(
    "operation",
    [
        b"5", b"null", b"[]", b"{}", b'{"op":"create"}', b'{"op":"update","id":"x"}', b'{"op":1}',
        b'{"op":"get"}', b'{"op":"get","id":1}', b'{"op":"get","id":"x","content":"a"}',
        b'{"content":"a"}', b'{"op":"create","content":"a","ttl_seconds":0}',
        b'{"op":"create","content":"a","idempotency_key":""}',
        b'{"op":"create","content":"a","idempotency_key":"a\\nb"}',
        b'{"op":"create","content":"a","idempotency_key":"\xc3\xa9"}',
        b'{"op":"create","content":"a","idempotency_key":"%b"}' % (b"k" * 256),
        b'{"op":"create","content":"a","idempotency_key":null}',
    ],
)  # fmt: skip
def test_what_is_no_operation_fails_alone(operation: bytes) -> None:
    """It is JSON, so where it ends is known and the others can be carried out."""
    first, second, third = READER.bulk(
        bulk(b'{"op":"get","id":"x"}', operation, b'{"op":"get","id":"y"}')
    )

    assert isinstance(second, RequestRefused)
    assert second.code == "invalid-document"
    assert (first, third) == (GetOperation(id="x"), GetOperation(id="y"))


@pytest.mark.parametrize(
    "body",
    [
        bulk(rb'{"op":"create","content":"\ud800"}'),
        bulk(b'{"op":"create","content":"\xff"}'),
        bulk(b'{"op":"get","id":"x","x":1e999}'),
        bulk(b'{"op":"get","id":"x","id":"x"}'),
        bulk(b'{"op":"get","op":"get","id":"x"}'),
        bulk(b'{"op":"get","id":"x"},'),
        bulk(b'{"op":"get","id":"x"}' + b"[" * 5000),
        bulk(b'{"op":"get","id":' + b"[" * 5000 + b"]" * 5000 + b"}"),
        b'{"operations":[],"operations":[]}',
        rb'{"operations":[],"operation\u0073":[]}',
    ],
)
def test_malformed_json_anywhere_refuses_the_whole_bulk(body: bytes) -> None:
    """Half of a broken request must not have been carried out."""
    with pytest.raises(RequestRefused) as refused:
        READER.bulk(body)
    assert refused.value.code == "malformed-json"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"[]", "invalid-document"),
        (b"{}", "invalid-document"),
        (b'{"operations":{}}', "invalid-document"),
        (b'{"operations":[],"more":1}', "invalid-document"),
        (bulk(*[b'{"op":"get","id":"x"}'] * (OPERATIONS_MAX + 1)), "body-too-large"),
    ],
)
def test_an_envelope_that_is_wrong_refuses_the_whole_bulk(body: bytes, code: str) -> None:
    """There are no operations to speak of, or too many."""
    with pytest.raises(RequestRefused) as refused:
        READER.bulk(body)
    assert refused.value.code == code


def test_the_published_type_of_a_bulk_body_is_what_is_read() -> None:
    """The reader decodes in two steps; the schema is generated from the whole."""
    body = bulk(b'{"op":"create","content":"a"}', b'{"op":"delete","id":"y"}')

    assert json.loads(body)  # the example itself is JSON
    assert list(READER.bulk(body)) == list(msgspec.json.decode(body, type=BulkRequest).operations)
