"""Leaving: out of rotation first, and at once for who can't wait."""

import asyncio
import os
import signal

import pytest

from kvnode.leaving import Leaving

LONG_S = 60.0


class Process:
    """What a process that serves does when it leaves."""

    def __init__(self, drain_s: float) -> None:
        self.draining = asyncio.Event()
        self.stopped = asyncio.Event()
        leaving = Leaving(drain_s, drain=self.draining.set, stop=self.stopped.set)
        leaving.heed_signals(asyncio.get_running_loop())

    async def receives(self, number: signal.Signals, then: asyncio.Event) -> None:
        """As from ``kill``."""
        os.kill(os.getpid(), number)
        async with asyncio.timeout(5.0):
            await then.wait()


async def test_a_process_that_is_asked_to_end_drains_and_then_stops() -> None:
    """What a load balancer needs to hear about it."""
    process = Process(0.05)

    await process.receives(signal.SIGTERM, process.draining)
    assert not process.stopped.is_set()
    async with asyncio.timeout(5.0):
        await process.stopped.wait()


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_the_wait(second: signal.Signals) -> None:
    """Whoever asks twice means it."""
    process = Process(LONG_S)
    await process.receives(signal.SIGTERM, process.draining)

    await process.receives(second, process.stopped)


@pytest.mark.parametrize(("drain_s", "number"), [(LONG_S, signal.SIGINT), (0.0, signal.SIGTERM)])
async def test_nothing_is_waited_for_when_nobody_needs_it(
    drain_s: float, number: signal.Signals
) -> None:
    """Ctrl-C, the end of a whole cluster, and one that has no load balancer."""
    process = Process(drain_s)

    await process.receives(number, process.stopped)

    assert not process.draining.is_set()
