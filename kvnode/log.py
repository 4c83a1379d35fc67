"""Structured events: one JSON object a line, ``noun.past_participle``, no sentences.

Levels: error, a human must act; warning, data or redundancy was at risk; info, state changed.
Never a document's content or an idempotency key, and no line for a request that succeeded.
"""

import sys

import structlog
from structlog.typing import FilteringBoundLogger

Log = FilteringBoundLogger


def process_log(**bound: str) -> Log:
    """The log of one process, on standard error; ``bound`` is on every line."""
    log: Log = structlog.wrap_logger(
        structlog.WriteLogger(sys.stderr),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger("info"),
        cache_logger_on_first_use=True,
    ).bind(**bound)
    return log
