"""Going through all keys with a prefix, some at a time."""

from collections.abc import Iterator
from typing import Final

from kvnode.ports import Engine
from kvnode.storage.keys import prefix_stop

_PAGE: Final = 1000


def all_with(engine: Engine, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Every durable pair, in key order. Raises CorruptRecord when any can't be read."""
    start, stop = prefix, prefix_stop(prefix)
    while True:
        found = engine.scan(start, stop, _PAGE)
        yield from found
        if len(found) < _PAGE:
            return
        start = found[-1][0] + b"\x00"


def readable_with(
    engine: Engine, prefix: bytes, gaps: list[tuple[bytes, bytes]] | None = None
) -> Iterator[tuple[bytes, bytes]]:
    """Every durable pair that can be read, in key order.

    Args:
        gaps: Filled with where others may be; see ``kvnode.ports.Salvage``.
    """
    start, stop = prefix, prefix_stop(prefix)
    while True:
        found = engine.salvage(start, stop, _PAGE)
        if gaps is not None:
            gaps += found.gaps
        yield from found.pairs
        if len(found.pairs) < _PAGE:
            return
        start = found.pairs[-1][0] + b"\x00"
