"""Structured events: one JSON object a line, ``noun.past_participle``, no sentences.

Levels: error, a human must act; warning, data or redundancy was at risk; info, state changed.
Never a document's content or an idempotency key, and no line for a request that succeeded, but for
a few documents a second whose lives are told (``docservice.http.events``).

A line is one write to standard error, which whoever starts the process opens for appending: a log
may be copied and cut off (logrotate's ``copytruncate``) at any time, and nothing need be told.
"""

import sys
from collections.abc import Callable, MutableMapping
from typing import Any

import structlog
from structlog.typing import FilteringBoundLogger

Log = FilteringBoundLogger


def process_log(follow: Callable[[str], None] | None = None, **bound: str) -> Log:
    """The log of one process, on standard error; ``bound`` is on every line.

    Args:
        follow: Called with every line as well.
    """
    render = structlog.processors.JSONRenderer()

    def render_and_tell(log: object, level: str, event: MutableMapping[str, Any]) -> str:
        line = str(render(log, level, event))
        if follow is not None:
            follow(line)
        return line

    log: Log = structlog.wrap_logger(
        structlog.WriteLogger(sys.stderr),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            render_and_tell,
        ],
        wrapper_class=structlog.make_filtering_bound_logger("info"),
        cache_logger_on_first_use=True,
    ).bind(**bound)
    return log
