"""How a process that serves leaves: out of the load balancers' rotation first, then for good.

Rules
-----
1. SIGTERM: ``/readyz`` says "draining", and everything is served on until each balancer has asked
   and heard so. Only then are connections closed; nobody sends a request into one by then.
2. SIGINT, or SIGTERM again: at once. Requests under way are answered all the same.
"""

import asyncio
import signal
from collections.abc import Callable


class Leaving:
    """Reacts to signals.

    Args:
        drain_s: How long to serve on.
        drain: Called when that begins.
        stop: Called when it is over.
    """

    def __init__(
        self, drain_s: float, *, drain: Callable[[], None], stop: Callable[[], None]
    ) -> None:
        self._drain_s = drain_s
        self._drain = drain
        self._stop = stop
        self._draining = False

    def heed_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        """From now on."""
        loop.add_signal_handler(signal.SIGINT, self._stop)
        loop.add_signal_handler(signal.SIGTERM, self._leave, loop)

    def _leave(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._draining or self._drain_s <= 0:
            self._stop()
            return
        self._draining = True
        self._drain()
        loop.call_later(self._drain_s, self._stop)
