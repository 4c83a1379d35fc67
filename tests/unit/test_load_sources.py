"""Reading documents from files: byte for byte or refused, with file and line."""

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvnode.record import CONTENT_BYTES_MAX
from scripts.sources import (
    Document,
    Duplicate,
    Refusal,
    SourceError,
    find_files,
    read_documents,
)

Items = list[Document | Refusal | Duplicate]

characters = st.characters(exclude_categories=["Cs"])
contents = st.text(characters, max_size=40)


def _is_a_fortune(text: str) -> bool:
    """Whether the format can hold it: no line is the separator, and its end is no line break."""
    separator = any(line.rstrip("\r") == "%" for line in text.split("\n"))
    return bool(text.encode().strip()) and not separator and not text.endswith("\r")


# Few characters, so that separators and line breaks meet.
fortunes = (st.text("%\n\r é", max_size=12) | contents).filter(_is_a_fortune)


def _read(directory: Path, content: bytes | str, name: str = "file") -> Items:
    path = directory / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(read_documents([path]))


@given(st.lists(fortunes, min_size=1, unique=True), st.booleans())
def test_fortunes_come_back_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], closed: bool
) -> None:
    """A text keeps its own line breaks and spaces; the last separator may be missing."""
    written = "\n%\n".join(texts) + ("\n%\n" if closed else "\n")

    items = _read(tmp_path_factory.mktemp("fortunes"), written)

    assert [item.content for item in items if isinstance(item, Document)] == texts
    assert len(items) == len(texts)


@given(st.lists(fortunes, min_size=1, unique=True))
def test_a_text_is_found_at_the_line_that_is_named(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    """Whoever goes to mend a refused text must land on it."""
    written = "\n%\n".join(texts) + "\n"
    lines = written.split("\n")

    for item in _read(tmp_path_factory.mktemp("fortunes"), written):
        assert isinstance(item, Document)
        count = item.content.count("\n") + 1
        start = item.place.line - 1
        assert "\n".join(lines[start : start + count]) == item.content


@given(
    st.lists(
        st.fixed_dictionaries(
            {"content": contents},
            optional={
                "idempotency_key": st.text("abc", min_size=1, max_size=2),
                "ttl_seconds": st.integers(1, 3),
            },
        ),
        max_size=8,
    ),
    st.booleans(),
)
def test_json_lines_are_read_in_full_and_each_key_belongs_to_one_body(
    tmp_path_factory: pytest.TempPathFactory, written: list[dict[str, object]], ascii_only: bool
) -> None:
    """First use of a key: a document. Again with the same body: a duplicate. Else: a refusal."""
    text = "\n\n".join(json.dumps(line, ensure_ascii=ascii_only) for line in written)
    items = _read(tmp_path_factory.mktemp("lines"), text, "docs.jsonl")

    first: dict[str, tuple[object, object]] = {}
    for line, item in zip(written, items, strict=True):
        body = line["content"], line.get("ttl_seconds")
        key = str(line.get("idempotency_key", body))
        if key not in first:
            first[key] = body
            assert isinstance(item, Document)
            assert (item.content, item.ttl_seconds) == body
            assert item.idempotency_key == line.get("idempotency_key", item.idempotency_key)
        else:
            assert isinstance(item, Duplicate if first[key] == body else Refusal)


@given(st.lists(st.binary(max_size=20).filter(lambda line: b"\n" not in line)))
def test_no_line_whatsoever_stops_the_reading(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]
) -> None:
    """One bad line in a million costs that line."""
    items = _read(tmp_path_factory.mktemp("lines"), b"\n".join(lines), "docs.jsonl")

    assert len(items) == sum(bool(line.strip()) for line in lines)
    assert all(isinstance(item, Refusal) for item in items)


@given(st.integers(CONTENT_BYTES_MAX - 3, CONTENT_BYTES_MAX + 3), st.sampled_from("aé€😀"))
def test_the_bound_is_in_bytes_of_utf_8(
    tmp_path_factory: pytest.TempPathFactory, length: int, character: str
) -> None:
    """2,048 is taken and 2,049 is refused, whatever the characters."""
    count = length // len(character.encode())
    text = character * count + "a" * (length - count * len(character.encode()))
    directory = tmp_path_factory.mktemp("long")

    for item in (
        *_read(directory, text + "\n%\n", "fortune"),
        *_read(directory, json.dumps({"content": text}), "docs.jsonl"),
    ):
        if length <= CONTENT_BYTES_MAX:
            assert isinstance(item, Document)
        else:
            assert isinstance(item, Refusal)
            assert item.reason == f"{length:,} bytes, more than 2,048"


def test_a_key_follows_from_content_and_time_to_live(tmp_path: Path) -> None:
    """So a second run, and a second file, meet the document and do not double it."""
    lines = ({"content": "a"}, {"content": "a", "ttl_seconds": 9}, {"content": "b"})
    items = _read(tmp_path, "\n".join(map(json.dumps, lines)), "docs.jsonl")
    (fortune,) = _read(tmp_path, "a\n")

    keys = [item.idempotency_key for item in items if isinstance(item, Document)]
    assert isinstance(fortune, Document)
    assert keys[0] == fortune.idempotency_key == "load-" + hashlib.sha256(b"a").hexdigest()
    assert len(set(keys)) == 3


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"content": "\xff"}', "not valid UTF-8"),
        (b'{"content": "\\ud800"}', "not valid JSON (Input data was truncated)"),
        (b'{"content": "a"', "not valid JSON (Input data was truncated"),
        (
            b'{"content": "a"} {"content": "b"}',
            "not valid JSON (JSON is malformed: trailing characters",
        ),
        (b"\xef\xbb\xbf{}", "not valid JSON (JSON is malformed: invalid character"),
        (b'{"content": 1}', "not a document (Expected `str`, got `int` - at `$.content`"),
        (b'{"contents": "a"}', "not a document (Object contains unknown field `contents`"),
        (b"{}", "not a document (Object missing required field `content`"),
        (b'"a"', "not a document (Expected `object`, got `str`"),
        (b"[" * 5000, "not a document (Expected `object`, got `array`"),
    ],
)
def test_a_line_that_is_no_document_is_refused_with_the_reason(
    tmp_path: Path, line: bytes, reason: str
) -> None:
    """The good line after it is still read, and the number is that of the bad one."""
    bad, good = _read(tmp_path, b'\n%b\n{"content": "good"}' % line, "docs.jsonl")

    assert isinstance(bad, Refusal)
    assert bad.reason.startswith(reason)
    assert str(bad.place) == f"{tmp_path / 'docs.jsonl'}:2"
    assert isinstance(good, Document)


def test_a_text_that_is_not_utf_8_is_refused_and_not_recoded(tmp_path: Path) -> None:
    """Latin-1 would always decode, into whatever."""
    bad, good = _read(tmp_path, b"one\nna\xefve\n%\ngood\n")

    assert isinstance(bad, Refusal)
    assert bad.reason == "not valid UTF-8 (byte 7 of the text)"
    assert bad.place.line == 1
    assert isinstance(good, Document)


def test_lines_of_windows_separate_too(tmp_path: Path) -> None:
    """The text keeps its own carriage returns, for they are its bytes."""
    items = _read(tmp_path, b"one\r\ntwo\r\n%\r\nthree\r\n")

    texts = [item.content for item in items if isinstance(item, Document)]
    assert texts == ["one\r\ntwo", "three"]


@pytest.mark.parametrize(
    ("name", "content", "count"),
    [
        ("docs.jsonl", '{"content": "a"}\n{"content": "b"}\n', 2),
        ("docs.txt", '\n{"content": "a"}\n{"content": "b"}\n', 2),
        ("fortunes", "{a\n%\nb\n%\n%\n\n%\n", 2),
        ("fortunes", '"quoted"\n%\n', 1),
        ("empty", "", 0),
        ("empty.jsonl", "", 0),
    ],
)
def test_the_format_is_told_from_the_name_or_the_first_line(
    tmp_path: Path, name: str, content: str, count: int
) -> None:
    """A first line that is a whole JSON object is no accident."""
    items = _read(tmp_path, content, name)

    assert [type(item) for item in items] == [Document] * count


def test_a_directory_gives_each_text_file_once(tmp_path: Path) -> None:
    """Fortune directories hold indexes and second names beside the texts."""
    for name in ("art", "art.dat", "lone.dat", ".hidden", "off/zippy", "docs.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "0.u8").symlink_to("art")
    (tmp_path / "gone").symlink_to("nowhere")

    names = [str(path.relative_to(tmp_path)) for path in find_files([tmp_path])]
    assert sorted(names) == ["art", "docs.jsonl", "lone.dat", "off/zippy"]
    assert find_files([tmp_path / "art.dat"]) == [tmp_path / "art.dat"]


def test_nothing_to_read_is_an_error(tmp_path: Path) -> None:
    """A mistyped name must not look like a load of nothing that went well."""
    with pytest.raises(SourceError, match="does not exist"):
        find_files([tmp_path / "none"])
    with pytest.raises(SourceError, match="holds no file to read"):
        find_files([tmp_path])
    with pytest.raises(SourceError, match="can't be read"):
        list(read_documents([tmp_path / "none"]))
