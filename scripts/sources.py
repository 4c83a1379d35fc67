"""Documents out of files: JSON lines and fortune files.

Rules
-----
1. A text becomes a document byte for byte or not at all. What is not UTF-8 or too long is refused
   with its file and line; nothing is guessed, recoded, trimmed or cut.
2. Where a document names no idempotency key, its key follows from what it is (content and time to
   live). So the same text has the same key in every run and in every file, and can't become two
   documents.
3. Reading is a stream: no file is held in memory, and reading again gives the same again.

JSON lines: one object a line, ``{"content": ..., "idempotency_key": ..., "ttl_seconds": ...}``, the
last two optional. A fortune file: texts separated by lines that are a single ``%``; the line break
before the ``%`` belongs to the separator.
"""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from kvnode.record import CONTENT_BYTES_MAX

_JSON_LINES_SUFFIXES: Final = (".jsonl", ".ndjson", ".json")
_DIGEST_BYTES: Final = 16


class SourceError(Exception):
    """The input as a whole can't be read. The message is one whole sentence."""


class Place(NamedTuple):
    """Where a document came from; lines count from 1."""

    path: Path
    line: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"


class Document(msgspec.Struct, frozen=True, gc=False):
    """Something to create."""

    place: Place
    content: str
    idempotency_key: str
    ttl_seconds: int | None = None


class Refusal(msgspec.Struct, frozen=True, gc=False):
    """Something that can't become a document."""

    place: Place
    reason: str


class Duplicate(msgspec.Struct, frozen=True, gc=False):
    """The same document under the same key as one before it."""

    place: Place


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    content: str
    idempotency_key: str | None = None
    ttl_seconds: int | None = None


def find_files(paths: Iterable[Path]) -> list[Path]:
    """The files to read: those named, and those in directories named, in order of name.

    Left out are hidden files, strfile's index (``x.dat`` beside ``x``) and further names of a file
    that is read already. Raises SourceError when there is nothing to read.
    """
    paths = list(paths)
    files: dict[Path, Path] = {}
    for path in paths:
        if not path.exists():
            raise SourceError(f"{path} does not exist.")
        found = sorted(path.rglob("*")) if path.is_dir() else [path]
        # A link comes after the file that it points to, so the file's own name is kept.
        for file in sorted(found, key=Path.is_symlink):
            hidden = path.is_dir() and any(
                part.startswith(".") for part in file.relative_to(path).parts
            )
            index = file.suffix == ".dat" and file.with_suffix("") in found
            if file.is_file() and not hidden and not index:
                files.setdefault(file.resolve(), file)
    if not files:
        raise SourceError(f"{', '.join(map(str, paths))} holds no file to read.")
    return list(files.values())


def read_documents(files: Iterable[Path]) -> Iterator[Document | Refusal | Duplicate]:
    """Everything in ``files``, in order. A key's second use with another content is a refusal."""
    seen: dict[bytes, tuple[bytes, Place]] = {}
    for file in files:
        for item in _read_file(file):
            if isinstance(item, Refusal):
                yield item
                continue
            key = _digest(item.idempotency_key.encode())
            body = _digest(f"{item.ttl_seconds} {item.content}".encode())
            first, place = seen.setdefault(key, (body, item.place))
            if place == item.place:
                yield item
            elif first == body:
                yield Duplicate(item.place)
            else:
                yield Refusal(item.place, f"its idempotency key belongs to the one at {place}")


def _read_file(file: Path) -> Iterator[Document | Refusal]:
    try:
        with file.open("rb") as lines:
            json_lines = file.suffix in _JSON_LINES_SUFFIXES or _starts_with_an_object(lines)
        with file.open("rb") as lines:
            yield from (_json_lines if json_lines else _fortunes)(file, lines)
    except OSError as error:
        raise SourceError(f"{file} can't be read ({error.strerror}).") from error


def _starts_with_an_object(lines: Iterable[bytes]) -> bool:
    first = next((line for line in lines if line.strip()), b"")
    try:
        return isinstance(msgspec.json.decode(first), dict)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


def _json_lines(file: Path, lines: Iterable[bytes]) -> Iterator[Document | Refusal]:
    decoder = msgspec.json.Decoder(_Line)
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        place = Place(file, number)
        try:
            parsed = decoder.decode(line)
            content = parsed.content.encode()
        except UnicodeError:
            yield Refusal(place, "not valid UTF-8")
        except msgspec.ValidationError as error:
            yield Refusal(place, f"not a document ({error})")
        except (msgspec.DecodeError, RecursionError) as error:
            yield Refusal(place, f"not valid JSON ({error})")
        else:
            yield _document(place, content, parsed.idempotency_key, parsed.ttl_seconds)


def _fortunes(file: Path, lines: Iterable[bytes]) -> Iterator[Document | Refusal]:
    text: list[bytes] = []
    start = 1
    for number, line in enumerate(lines, 1):
        if line.rstrip(b"\r\n") != b"%":
            text.append(line)
            continue
        yield from _fortune(Place(file, start), text)
        text, start = [], number + 1
    yield from _fortune(Place(file, start), text)


def _fortune(place: Place, lines: list[bytes]) -> Iterator[Document | Refusal]:
    """One text, or none where nothing but blank lines stands between two separators."""
    text = b"".join(lines)
    if text.strip():
        yield _document(place, text.removesuffix(b"\n").removesuffix(b"\r"), None, None)


def _document(
    place: Place, content: bytes, key: str | None, ttl_seconds: int | None
) -> Document | Refusal:
    if len(content) > CONTENT_BYTES_MAX:
        return Refusal(place, f"{len(content):,} bytes, more than {CONTENT_BYTES_MAX:,}")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        return Refusal(place, f"not valid UTF-8 (byte {error.start + 1} of the text)")
    if key is None:
        lifetime = "" if ttl_seconds is None else f"-{ttl_seconds}s"
        key = f"load-{hashlib.sha256(content).hexdigest()}{lifetime}"
    return Document(place, text, key, ttl_seconds)


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest()
