"""HTTP/1.1 by hand, for clients that want to know exactly what became of a request.

Rules
-----
1. A request is sent once, on one connection. Nothing is sent again behind the caller's back, as
   HTTP libraries do when a kept-alive connection turns out to be closed.
2. Before the first byte has left, a failure is Refused: it had no effect. After it, NoAnswer.
3. A connection that failed is not used again.
"""

import asyncio
import contextlib
from typing import Final

import msgspec

from scripts.checker.history import NoAnswer, Refused

_HEAD_END: Final = b"\r\n\r\n"
#: Answers without a body, whatever they say of its length.
_EMPTY: Final = (204, 304)


class Answer(msgspec.Struct):
    """Status, headers by their lower-case names, body."""

    status: int
    headers: dict[str, str]
    body: bytes


class HttpConnection:
    """One connection, made at the first request."""

    def __init__(self, host: str, port: int) -> None:
        self._address = host, port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.usable = True

    async def request(
        self, method: str, target: str, headers: dict[str, str], body: bytes, within_s: float
    ) -> Answer:
        """One request and its answer. Raises Refused or NoAnswer, and is not usable after it."""
        lines = [f"{method} {target} HTTP/1.1", f"Host: {self._address[0]}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode()
        sent = False
        answered = False
        try:
            async with asyncio.timeout(within_s):
                reader, writer = self._streams or await asyncio.open_connection(*self._address)
                self._streams = reader, writer
                sent = True
                writer.write(head + body)
                answer = await _read(reader)
                answered = answer.headers.get("connection") != "close"
                return answer
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            what = f"{type(error).__name__}: {error}"
            raise (NoAnswer if sent else Refused)(what) from error
        finally:
            if not answered:
                self.close()

    def close(self) -> None:
        """Hang up."""
        self.usable = False
        if self._streams is not None:
            with contextlib.suppress(OSError):
                self._streams[1].close()

    @property
    def quiet(self) -> bool:
        """Whether the other side has not hung up."""
        return self.usable and not (self._streams and self._streams[0].at_eof())


async def _read(reader: asyncio.StreamReader) -> Answer:
    head = (await reader.readuntil(_HEAD_END)).decode("latin-1").split("\r\n")
    status = int(head[0].split(" ")[1])
    headers = {}
    for line in head[1:-2]:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    length = 0 if status in _EMPTY else int(headers["content-length"])
    return Answer(status, headers, await reader.readexactly(length))
