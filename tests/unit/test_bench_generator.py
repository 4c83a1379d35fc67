"""Our own load generator: an answer is counted once, when all of it is there, for what it is."""

import asyncio
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.bench.deck import Request
from scripts.bench.generator import Client, Tally

OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"
BUSY = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"
BULK_OK = b'HTTP/1.1 200 OK\r\nContent-Length: 29\r\n\r\n{"errors":false,"results":[]}'
BULK_BAD = b'HTTP/1.1 200 OK\r\nContent-Length: 28\r\n\r\n{"errors":true,"results":[]}'


class Wire:
    """A transport that keeps what was written."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        """Sent."""
        self.sent.append(data)

    def close(self) -> None:
        """Closed by us."""
        self.closed = True


def _tally(*, bulk: bool = False, requests: list[Request] | None = None) -> Tally:
    return Tally(requests or [Request(b"GET / HTTP/1.1\r\n\r\n")], 1, bulk=bulk)


async def _connected(tally: Tally) -> tuple[Client, Any]:
    client, wire = Client(tally), Wire()
    client.connection_made(wire)  # type: ignore[arg-type]
    return client, wire


@given(st.lists(st.integers(0, len(OK + BUSY)), max_size=6), st.booleans())
def test_answers_are_counted_alike_however_they_are_cut(cuts: list[int], busy_first: bool) -> None:
    """TCP may deliver any bytes at a time; a client sends again only after a whole answer."""
    answers = [BUSY, OK] if busy_first else [OK, BUSY]

    async def deliver() -> tuple[Tally, Any]:
        tally = _tally()
        client, wire = await _connected(tally)
        for number, answer in enumerate(answers):
            edges = sorted({0, len(answer), *(cut for cut in cuts if cut < len(answer))})
            for start, end in pairwise(edges):
                assert len(wire.sent) == number + 1
                client.data_received(answer[start:end])
        return tally, wire

    tally, wire = asyncio.run(deliver())

    assert tally.latencies.total() == 2
    assert tally.refused == 1
    assert len(wire.sent) == 3


@pytest.mark.parametrize(
    ("answer", "bulk", "refused"),
    [(BULK_OK, True, 0), (BULK_BAD, True, 1), (BULK_BAD, False, 0), (BUSY, False, 1)],
)
async def test_an_answer_that_is_no_success_is_counted_as_refused(
    answer: bytes, bulk: bool, refused: int
) -> None:
    """A bulk answer is 200 whatever became of its operations."""
    tally = _tally(bulk=bulk)
    client, _ = await _connected(tally)

    client.data_received(answer)

    assert tally.refused == refused


async def test_a_connection_that_breaks_before_its_last_answer_is_counted() -> None:
    """One that we close after it is not."""
    tally = _tally()
    cut, _ = await _connected(tally)
    finished, wire = await _connected(tally)

    cut.connection_lost(ConnectionResetError())
    tally.running = False
    finished.data_received(OK)
    finished.connection_lost(None)

    assert wire.closed
    assert cut.finished.done()
    assert finished.finished.done()
    assert tally.broken == 1


def test_every_keyed_request_has_a_key_of_its_own() -> None:
    """A repeated key would measure replays, which write nothing."""
    request = Request(b"POST / HTTP/1.1\r\nIdempotency-Key: ", b"\r\n\r\n{}")
    first, second = _tally(requests=[request]), Tally([request], 2, bulk=False)

    sent = [tally.next_request() for tally in (first, second) for _ in range(100)]

    assert len(set(sent)) == 200
    assert all(one.startswith(request.head) and one.endswith(request.tail) for one in sent)
