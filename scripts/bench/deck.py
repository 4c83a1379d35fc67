r"""The requests that are sent, byte for byte, and the file in which a load generator finds them.

A load generator must cost less than what it measures. So it builds nothing: it picks a finished
request from a deck at random and sends it. Only an idempotency key has to be new each time; a
keyed request comes in two pieces, and the generator puts a key between them.

A deck is a file of requests one after the other, each ``HEAD_LENGTH TAIL_LENGTH\n`` in decimal and
then that many bytes. A tail of length 0 means that the head is the whole request.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import Final, NamedTuple

import msgspec

CONTENT_BYTES: Final = 1024
_LINE_BYTES: Final = 64
_VOCABULARY: Final = 16_384
#: By how often English uses them.
_LETTERS: Final = "etaoinshrdlucmfwypvbgkjqxz"


class Request(NamedTuple):
    """An HTTP request, or its two pieces around an idempotency key."""

    head: bytes
    tail: bytes = b""


def contents(count: int, random: Random) -> Iterator[str]:
    """Texts of CONTENT_BYTES that escape and compress as prose does.

    That is in short lines, and hardly: words are as unequally frequent as Zipf's law has it, and
    LevelDB's compressor saves a fifth of them, a little more than of real short texts.
    """
    words = [
        "".join(random.choices(_LETTERS, weights=range(26, 0, -1), k=random.randint(1, 10)))
        for _ in range(_VOCABULARY)
    ]
    ranks = list(accumulate(1 / rank for rank in range(1, _VOCABULARY + 1)))
    width = _LINE_BYTES - 1
    # The shortest words and the blanks between them still fill a line.
    lines = [
        " ".join(random.choices(words, cum_weights=ranks, k=_LINE_BYTES // 2))[:width] + "\n"
        for _ in range(_VOCABULARY)
    ]
    for _ in range(count):
        yield "".join(random.choices(lines, k=CONTENT_BYTES // _LINE_BYTES))


def read(document_id: str, query: str = "") -> Request:
    """``query`` is empty or starts with its question mark."""
    return Request(f"GET /documents/{document_id}{query} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())


def create(content: str, query: str = "", *, keyed: bool = False) -> Request:
    """One document."""
    return _post(f"/documents{query}", {"content": content}, keyed=keyed)


def bulk_read(ids: Sequence[str]) -> Request:
    """Many documents."""
    return _post("/documents/_bulk", {"operations": [{"op": "get", "id": one} for one in ids]})


def bulk_create(texts: Sequence[str]) -> Request:
    """Many documents."""
    operations = [{"op": "create", "content": text} for text in texts]
    return _post("/documents/_bulk", {"operations": operations})


def write_deck(path: Path, requests: Iterable[Request]) -> None:
    """As ``read_deck`` and ``deck.lua`` read it."""
    with path.open("wb") as file:
        for head, tail in requests:
            file.write(b"%d %d\n%b%b" % (len(head), len(tail), head, tail))


def read_deck(path: Path) -> list[Request]:
    """The requests in their order."""
    requests = []
    with path.open("rb") as file:
        while lengths := file.readline().split():
            head, tail = map(int, lengths)
            requests.append(Request(file.read(head), file.read(tail)))
    return requests


def _post(target: str, body: object, *, keyed: bool = False) -> Request:
    encoded = msgspec.json.encode(body)
    head = (
        f"POST {target} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(encoded)}\r\n"
    )
    if keyed:
        return Request(f"{head}Idempotency-Key: ".encode(), b"\r\n\r\n" + encoded)
    return Request(f"{head}\r\n".encode() + encoded)
