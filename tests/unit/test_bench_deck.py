"""What is sent is what was meant: whole requests, of the promised size, with keys where they go."""

from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from docservice.http.bodies import BodyReader, CreateOperation, GetOperation
from scripts.bench import deck
from scripts.bench.deck import Request
from scripts.bench.rows import BULK_DOCUMENTS, CREATES, PARTS, READS, ROWS, Material, Row

IDS = [f"01a2052b-a0d2-7c31-b297-8b6a784fb8{number:02x}" for number in range(200)]

requests = st.builds(Request, st.binary(min_size=1), st.binary())


@pytest.fixture
def material() -> Material:
    """As for a run, but little."""
    random = Random(7)
    return Material(IDS, list(deck.contents(50, random)), random)


def _parts(request: Request) -> tuple[str, dict[str, str], bytes]:
    """Request line, headers, body; a key stands where a generator would put one."""
    whole = b"%bthe-key%b" % request if request.tail else request.head
    head, _, body = whole.partition(b"\r\n\r\n")
    line, *headers = head.decode().split("\r\n")
    return line, dict(header.split(": ") for header in headers), body


@given(st.lists(requests))
def test_a_deck_is_read_back_as_it_was_written(written: list[Request]) -> None:
    """Any bytes at all: contents hold line breaks and digits, which are also the file's marks."""
    with TemporaryDirectory() as directory:
        path = Path(directory) / "a.deck"
        deck.write_deck(path, written)

        assert deck.read_deck(path) == written


def test_contents_are_1_kb_of_lines_and_the_same_for_the_same_seed() -> None:
    """The table says 1 KB, and two runs are compared only if they store the same."""
    seed, count = 3, 200
    texts = list(deck.contents(count, Random(seed)))

    assert [len(text.encode()) for text in texts] == [deck.CONTENT_BYTES] * count
    assert len(set(texts)) == count
    assert all(text.count("\n") == 16 for text in texts)
    assert texts == list(deck.contents(count, Random(seed)))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_request_of_a_row_is_as_long_as_it_says(row: Row, material: Material) -> None:
    """A wrong length would leave the connection waiting, or its rest to be read as a request."""
    sent = row.requests(material)

    assert sent
    for line, headers, body in map(_parts, sent):
        assert line.startswith("POST " if body else "GET ")
        assert int(headers.get("Content-Length", "0")) == len(body)
        assert headers["Host"]


def test_reads_ask_for_every_loaded_document_once(material: Material) -> None:
    """Chosen at random, each is then as likely as the others: no part stays in a cache."""
    for row, query in ((READS[0], ""), (READS[1], ""), (READS[2], "?r=2")):
        lines = [_parts(request)[0] for request in row.requests(material)]

        assert lines == [f"GET /documents/{one}{query} HTTP/1.1" for one in IDS]


def test_only_keyed_creates_leave_a_place_for_a_key(material: Material) -> None:
    """Anywhere else the generator would put a key into a body, or repeat one create's key."""
    for row in ROWS:
        keyed = [_parts(request)[1].get("Idempotency-Key") for request in row.requests(material)]

        assert set(keyed) == {"the-key" if row.name == "create-keyed" else None}


def test_creates_send_contents_that_the_api_takes(material: Material) -> None:
    """Through the API's own decoder, which refuses what it does not know."""
    reader = BodyReader()
    by_name = {row.name: row for row in CREATES}

    for name in ("bare-post", "create-1", "create-2", "create-keyed"):
        for request in by_name[name].requests(material):
            assert reader.create(_parts(request)[2]).content in material.contents


def test_a_bulk_request_holds_as_many_operations_as_the_row_counts(material: Material) -> None:
    """CPU per document is divided by this number."""
    reader = BodyReader()
    kinds = {"bulk-read": GetOperation, "bulk-create": CreateOperation}

    for row in ROWS:
        if row.name not in kinds:
            assert row.documents == 1
            continue
        for request in row.requests(material):
            operations = reader.bulk(_parts(request)[2])
            assert len(operations) == row.documents == BULK_DOCUMENTS
            assert all(isinstance(one, kinds[row.name]) for one in operations)


def test_every_row_of_the_cluster_is_measured_beside_its_yardstick() -> None:
    """A ratio is taken within a round; a yardstick of another part would leave the row without."""
    for part in PARTS:
        bare = {row.name for row in part if row.server == "bare"}
        assert all(row.yardstick in bare for row in part if row.server == "cluster")
    assert len({row.name for row in ROWS}) == len(ROWS)
    assert msgspec.json.encode([row.name for row in ROWS])
