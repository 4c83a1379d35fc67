"""Running background work, and stopping it cleanly.

A service does one bounded unit of work per call. It may be abandoned between calls, never inside
one. A service that raises ends the node: a bug must not leave half a node running.
"""

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol

from kvnode.ports import Entropy

_JITTER: Final = 0.1


class Service(Protocol):
    """One kind of background work."""

    name: str
    interval_s: float

    async def run_once(self) -> None:
        """Do one bounded unit of work."""


async def run_every(service: Service, stop: asyncio.Event, entropy: Entropy) -> None:
    """Run a service at its interval, with jitter so that nodes don't work in step."""
    while True:
        low_s = service.interval_s * (1 - _JITTER)
        pause_s = entropy.uniform(low_s, service.interval_s * (1 + _JITTER))
        try:
            async with asyncio.timeout(pause_s):
                await stop.wait()
        except TimeoutError:
            await service.run_once()
        else:
            return


async def run_until_stopped(
    services: Sequence[Service], stop: asyncio.Event, entropy: Entropy
) -> None:
    """Run every service until ``stop``, and let each finish its unit of work.

    Returns once all have returned, so the caller may close what they used.
    """
    async with asyncio.TaskGroup() as tasks:
        for service in services:
            tasks.create_task(run_every(service, stop, entropy), name=service.name)
