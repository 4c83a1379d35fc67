"""One try of one request, over aiohttp."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Protocol

import aiohttp

from docservice.client.errors import NoAnswer
from docservice.client.wire import Answer, Request


class Transport(Protocol):
    """How requests get to servers."""

    async def send(
        self, url: str, request: Request, headers: Mapping[str, str], timeout_s: float
    ) -> Answer:
        """Send a request to the server at ``url``. Raises NoAnswer."""

    async def close(self) -> None:
        """Hang up."""


class HttpTransport:
    """``Transport`` over HTTP/1.1, with connections that are kept.

    Args:
        connections_max: To one server.
    """

    def __init__(self, connections_max: int) -> None:
        tracing = aiohttp.TraceConfig()
        tracing.on_request_headers_sent.append(_note_sent)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, limit_per_host=connections_max),
            cookie_jar=aiohttp.DummyCookieJar(),
            trace_configs=[tracing],
        )

    async def send(
        self, url: str, request: Request, headers: Mapping[str, str], timeout_s: float
    ) -> Answer:
        """See ``Transport``."""
        sent: list[bool] = []
        try:
            async with self._session.request(
                request.method,
                url + request.target,
                data=request.body,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=timeout_s),
                allow_redirects=False,
                trace_request_ctx=sent,
            ) as response:
                body = await response.read()
                found = {name.lower(): value for name, value in response.headers.items()}
                return Answer(response.status, found, body)
        except aiohttp.ClientConnectorError as error:
            raise NoAnswer(f"{url} can't be reached: {error}", "not_applied") from error
        except TimeoutError as error:
            late = f"within {timeout_s:.3g} s"
            if not sent:  # such as to a machine that is off: nothing left this one
                detail = f"{url} can't be reached: no connection {late}"
                raise NoAnswer(detail, "not_applied") from error
            raise NoAnswer(f"{url} gave no answer {late}", "unknown") from error
        except aiohttp.ClientError as error:
            raise NoAnswer(f"{url} hung up: {error}", "unknown") from error

    async def close(self) -> None:
        """See ``Transport``."""
        await self._session.close()


async def _note_sent(
    _: aiohttp.ClientSession,
    context: SimpleNamespace,
    __: aiohttp.TraceRequestHeadersSentParams,
) -> None:
    """A request has a connection, and is about to go out on it."""
    context.trace_request_ctx.append(True)
