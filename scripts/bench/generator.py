"""A load generator of our own, for machines without wrk: ``python -m scripts.bench.generator``.

Rules
-----
1. Closed loop: each connection sends its next request when it has the answer to the last one.
2. An answer is only looked at as far as it must be: status, length and, of a bulk request, whether
   any operation failed.
3. A connection that breaks is not made again: the run has failed by then.
"""

import argparse
import asyncio
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Final, cast

import uvloop

from scripts.bench.deck import Request, read_deck
from scripts.bench.sample import format_report

_HEAD_END: Final = b"\r\n\r\n"
_LENGTH: Final = b"content-length:"
_BULK_SUCCESS: Final = b'{"errors":false'
#: How long the last answers may take, once no more requests are sent.
_DRAIN_S: Final = 10.0


class Tally:
    """What all connections of this process saw."""

    def __init__(self, requests: list[Request], seed: int, *, bulk: bool) -> None:
        self._requests = requests
        self._random = random.Random(seed)
        self._key_prefix = f"bench-{seed}-"
        self._keys = 0
        self._bulk = bulk
        self.refused = 0
        self.broken = 0
        #: Requests by latency in whole microseconds.
        self.latencies: Counter[int] = Counter()
        self.running = True

    def next_request(self) -> bytes:
        """Any request of the deck, with a new key if it takes one."""
        head, tail = self._requests[int(self._random.random() * len(self._requests))]
        if not tail:
            return head
        self._keys += 1
        return b"%b%b%b" % (head, f"{self._key_prefix}{self._keys}".encode(), tail)

    def note(self, status: int, body: bytes, elapsed_s: float) -> None:
        """One answer."""
        self.latencies[int(elapsed_s * 1e6)] += 1
        if not 200 <= status < 300 or (self._bulk and not body.startswith(_BULK_SUCCESS)):
            self.refused += 1


class Client(asyncio.Protocol):
    """One connection."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._received = b""
        self._sent_s = 0.0
        #: Done when the connection has seen its last answer, or broke.
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.WriteTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.WriteTransport", transport)
        self._send()

    def data_received(self, data: bytes) -> None:
        """Send the next request when the answer is complete."""
        self._received = self._received + data if self._received else data
        head_length = self._received.find(_HEAD_END)
        if head_length < 0:
            return
        body_start = head_length + len(_HEAD_END)
        body_length = _content_length(self._received[: head_length + 2])
        if len(self._received) < body_start + body_length:
            return
        body = self._received[body_start:]
        status = int(self._received[9:12])
        self._received = b""
        self._tally.note(status, body, time.perf_counter() - self._sent_s)
        if self._tally.running:
            self._send()
        elif not self.finished.done():
            self.finished.set_result(None)
            self._transport.close()

    def connection_lost(self, _error: Exception | None) -> None:
        """The server hung up, unless we did."""
        if not self.finished.done():
            self._tally.broken += 1
            self.finished.set_result(None)

    def _send(self) -> None:
        self._sent_s = time.perf_counter()
        self._transport.write(self._tally.next_request())


def _content_length(head: bytes) -> int:
    _, _, rest = head.lower().partition(_LENGTH)
    return int(rest[: rest.index(b"\r\n")]) if rest else 0


async def _run(tally: Tally, host: str, port: int, connections: int, seconds: float) -> float:
    """Send requests for ``seconds``; the seconds that it took."""
    loop = asyncio.get_running_loop()
    started_s = time.perf_counter()
    clients: list[Client] = []
    for _ in range(connections):
        try:
            _, client = await loop.create_connection(lambda: Client(tally), host, port)
        except OSError:
            tally.broken += 1
        else:
            clients.append(client)
    await asyncio.sleep(seconds)
    tally.running = False
    elapsed_s = time.perf_counter() - started_s
    if clients:
        _, silent = await asyncio.wait([one.finished for one in clients], timeout=_DRAIN_S)
        tally.broken += len(silent)
    return elapsed_s


def main() -> None:
    """Run and print the report."""
    parser = argparse.ArgumentParser(prog="python -m scripts.bench.generator")
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("deck", type=Path)
    parser.add_argument("seed", type=int)
    parser.add_argument("kind", choices=("bulk", "single"))
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    given = parser.parse_args()
    tally = Tally(read_deck(given.deck), given.seed, bulk=given.kind == "bulk")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        elapsed_s = runner.run(
            _run(tally, given.host, given.port, given.connections, given.seconds)
        )
    count = tally.latencies.total()
    shares = [(value_us, number / count) for value_us, number in sorted(tally.latencies.items())]
    sys.stdout.write(
        format_report(count, int(elapsed_s * 1e6), tally.refused, tally.broken, shares)
    )


if __name__ == "__main__":
    main()
