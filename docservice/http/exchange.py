"""One request as the API sees it."""

from typing import Protocol

from aiohttp.http import RawRequestMessage


class Exchange(Protocol):
    """A request that is waiting for its answer."""

    message: RawRequestMessage

    async def read_body(self, bytes_max: int) -> bytes:
        """The whole body.

        Raises:
            RequestRefused: it is longer than ``bytes_max``, malformed or too slow.
            ClientGone: the client left in the middle of it.
        """


class ClientGone(Exception):
    """The client left before its request was complete or its answer written."""
