"""Headers and query strings as functions: grammar in, meaning out."""

import string
from collections.abc import Callable
from itertools import product
from typing import TypeVar

import pytest
from aiohttp import hdrs
from hypothesis import example, given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from docservice.documents import Consistency
from docservice.http import headers as parse
from docservice.http.problems import RequestRefused
from docservice.http.query import parse_query

T = TypeVar("T")

printable = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=300)
#: What a header can hold: any byte that the parser lets through, as it decodes it.
header_values = st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n"), max_size=40).map(
    str.strip
)
#: etagc of RFC 9110: no quote, no space.
tags = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters='"'))


def having(*pairs: tuple[str, str]) -> CIMultiDictProxy[str]:
    """Request headers."""
    return CIMultiDictProxy(CIMultiDict(pairs))


def attempt(parser: Callable[[T], object], value: T) -> object:
    """What the parser makes of it, or the refusal; anything else it raises fails the test."""
    try:
        return parser(value)
    except RequestRefused as refused:
        return refused


# Idempotency-Key.


@given(printable)
def test_a_quoted_key_is_the_key_inside(key: str) -> None:
    """Whatever it holds, a structured-field string brings it across unchanged."""
    escaped = key.replace("\\", "\\\\").replace('"', '\\"')
    headers = having(("idempotency-key", f'"{escaped}"'))

    if 1 <= len(key) <= 255:
        assert parse.idempotency_key(headers) == key
    else:
        with pytest.raises(RequestRefused):
            parse.idempotency_key(headers)


@given(printable.map(str.strip))
def test_a_bare_key_is_itself(key: str) -> None:
    """Most clients don't quote."""
    headers = having(("Idempotency-Key", key))

    if 1 <= len(key) <= 255 and not key.startswith('"'):
        assert parse.idempotency_key(headers) == key
    elif not key.startswith('"'):
        with pytest.raises(RequestRefused):
            parse.idempotency_key(headers)


@given(header_values)
def test_any_key_is_either_printable_or_refused(value: str) -> None:
    """What reaches the service fits what ids are made from."""
    key = attempt(parse.idempotency_key, having(("Idempotency-Key", value)))

    if isinstance(key, RequestRefused):
        assert key.code == "invalid-header"
    else:
        assert isinstance(key, str)
        assert 1 <= len(key.encode("ascii")) <= 255


def test_no_key_is_no_key() -> None:
    """The header is optional."""
    assert parse.idempotency_key(having()) is None


# If-None-Match.


@given(st.lists(st.tuples(st.booleans(), tags), min_size=1), tags)
def test_a_list_of_entity_tags_matches_what_it_names(
    listed: list[tuple[bool, str]], tag: str
) -> None:
    """Weak or strong, on one line or several, commas inside a tag included."""
    items = [f'{"W/" if weak else ""}"{opaque}"' for weak, opaque in listed]
    expected = tag in [opaque for _, opaque in listed]

    one_line = having((hdrs.IF_NONE_MATCH, " , ".join(items)))
    lines = having(*[(hdrs.IF_NONE_MATCH, item) for item in items])
    assert parse.matches_etag(one_line, f'"{tag}"') == expected
    assert parse.matches_etag(lines, f'"{tag}"') == expected


@given(header_values)
@example('"')
@example('W/"a" "b"')
def test_any_condition_is_understood_or_ignored(value: str) -> None:
    """Nothing raises, and no garbage is a match."""
    etag = f'"{"0" * 64}"'
    assert not parse.matches_etag(having((hdrs.IF_NONE_MATCH, value)), etag) or value == "*"


# Accept and Content-Type.


@pytest.mark.parametrize(
    "accept",
    ["*/*", "application/json", "application/*", "text/html, */*;q=0.1", "APPLICATION/JSON",
     "application/json;q=0.001", "text/html;q=0, application/json ; charset=utf-8", " ", "",
     "application/xml;q=0.9,application/json;Q=1.000", "text/html, application/*;q=0.5, */*;q=0"],
)  # fmt: skip
def test_an_accept_that_includes_json_is_served(accept: str) -> None:
    """The most specific range decides, and an empty header says nothing."""
    parse.require_json_accepted(having((hdrs.ACCEPT, accept)))


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "Application/JSON", "application/json; charset=utf-8",
     'application/json;charset="UTF-8"', "application/json ; charset=utf-8 "],
)  # fmt: skip
def test_json_in_utf_8_is_taken_however_it_is_written(content_type: str) -> None:
    """Types and parameters are case-insensitive (RFC 9110, section 8.3.1)."""
    parse.require_json_body(having((hdrs.CONTENT_TYPE, content_type)))


@given(header_values, header_values)
def test_any_other_header_is_taken_or_refused(one: str, other: str) -> None:
    """No value of any header that is parsed raises anything but a refusal."""
    headers = having(
        (hdrs.ACCEPT, one), (hdrs.ACCEPT, other), (hdrs.CONTENT_TYPE, one),
        ("Stele-Timeout-Ms", one), ("Prefer", one), ("Prefer", other), ("traceparent", other),
    )  # fmt: skip
    attempt(parse.require_json_accepted, headers)
    attempt(parse.require_json_body, headers)
    attempt(parse.wants_representation, headers)
    attempt(parse.trace_id, headers)
    attempt(parse.prefers_html, headers)
    timeout = attempt(lambda headers: parse.timeout_ms(headers, 5000), headers)
    assert isinstance(timeout, RequestRefused) or timeout == min(max(int(one), 1), 5000)


# Prefer and traceparent.


@pytest.mark.parametrize(
    ("prefer", "wanted"),
    [
        (["return=representation"], True),
        (["respond-async, return=representation; x=1, wait=5"], True),
        (["wait=5", 'Return="representation"'], True),
        (["return=minimal"], False),
        (["return=minimal, return=representation"], False),
        (["returns=representation", "return"], False),
        ([], False),
    ],
)
def test_the_first_return_preference_counts(prefer: list[str], wanted: bool) -> None:
    """RFC 7240, section 2."""
    headers = having(*[("Prefer", value) for value in prefer])
    assert parse.wants_representation(headers) == wanted


TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("traceparent", "valid"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f"cc-{TRACE}-{SPAN}-00-what-the-future-will-be-like", True),
        (f"ff-{TRACE}-{SPAN}-01", False),
        (f"00-{'0' * 32}-{SPAN}-01", False),
        (f"00-{TRACE}-{'0' * 16}-01", False),
        (f"00-{TRACE.upper()}-{SPAN}-01", False),
        (f"00-{TRACE}-{SPAN}", False),
        (f"00-{TRACE}-{SPAN}-01x", False),
        (f"00-{TRACE}-{SPAN}-01-more", False),
        (f"cc-{TRACE}-{SPAN}-01x", False),
        (f"00-{TRACE}-{SPAN}-03", True),
        (f" 00-{TRACE}-{SPAN}-01", False),
    ],
)
def test_only_a_valid_traceparent_names_a_trace(traceparent: str, valid: bool) -> None:
    """W3C Trace Context: what is invalid is ignored, and a new trace begun."""
    assert parse.trace_id(having(("traceparent", traceparent))) == (TRACE if valid else None)


# The query string.

PARAMETERS = {
    "consistency": ["one", "two", "quorum", "all", "local_quorum", "each_quorum"],
    "r": ["one", "quorum", "all", "0", "1", "3", "9"],
    "w": ["one", "quorum", "all", "0", "1", "3", "9"],
    "sloppy": ["true", "false"],
}


def test_every_single_parameter_is_understood() -> None:
    """By name and by value; nothing else is set."""
    fields = {"consistency": "level", "r": "read", "w": "write", "sloppy": "sloppy"}
    for name, values in PARAMETERS.items():
        for value in values:
            meaning: object = int(value) if value.isdigit() else value
            if name == "sloppy":
                meaning = value == "true"
            expected = Consistency(**{fields[name]: meaning})  # type: ignore[arg-type]
            assert parse_query(f"{name}={value}") == expected


def test_the_order_of_parameters_does_not_matter() -> None:
    """r, w and sloppy may all be there, in any order."""
    for a, b in product(["r=1&w=all", "w=all&r=1"], ["sloppy=true"]):
        assert (
            parse_query(f"{a}&{b}") == parse_query(f"{b}&{a}") == Consistency(None, 1, "all", True)
        )


@given(
    st.text(string.ascii_letters + string.digits + "=&%;+_.", max_size=40)
    | st.lists(
        st.sampled_from([f"{name}={value}" for name in PARAMETERS for value in PARAMETERS[name]])
    ).map("&".join)
)
def test_a_query_means_exactly_what_it_says_or_is_refused(query: str) -> None:
    """Whatever is accepted can be written back, parameter for parameter."""
    meaning = attempt(parse_query, query)
    if isinstance(meaning, RequestRefused):
        assert meaning.code == "invalid-query"
        return
    assert isinstance(meaning, Consistency)
    written = {
        "consistency": meaning.level,
        "r": meaning.read,
        "w": meaning.write,
        "sloppy": None if meaning.sloppy is None else str(meaning.sloppy).lower(),
    }
    assert sorted(query.split("&")) == sorted(
        f"{name}={value}" for name, value in written.items() if value is not None
    )
    assert meaning.level is None or (meaning.read, meaning.write) == (None, None)
