"""What nodes did to themselves after a fault was undone, as their logs tell.

Damage may lie in a file until something reads it: only then does the node start anew, on an empty
database. And a node that was away for longer than a plan wanted is fenced when it returns. Both
cost copies at a moment that no plan knows.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

#: A node that starts anew is back by then.
_UP_WITHIN_S: Final = 15.0


class Setback(msgspec.Struct, frozen=True):
    """A node's copies are not to be counted on from ``at_s`` on."""

    node: str
    at_s: float
    #: When its process served again; ``at_s`` if it never stopped.
    until_s: float
    what: str


class Expected(msgspec.Struct, frozen=True):
    """When a strike may set a node back: what it destroyed then is known."""

    node: str
    begins_s: float
    ends_s: float


def setbacks(
    events: Mapping[str, Sequence[Mapping[str, Any]]],
    expected: Sequence[Expected],
    start_ms: int,
) -> Iterator[Setback]:
    """Those that no strike explains.

    Args:
        events: By node, its log, oldest first.
        start_ms: The wall time at which the run's clock is zero.
    """
    for node, log in events.items():
        starts_s = [_at_s(one, start_ms) for one in log if one.get("event") == "node.started"]
        known_until_s = float("-inf")
        for one in log:
            at_s = _at_s(one, start_ms)
            match one.get("event"):
                case "database.damaged":
                    later = [start_s for start_s in starts_s if start_s > at_s]
                    until_s = min([*later, at_s + _UP_WITHIN_S])
                    known_until_s = until_s + _UP_WITHIN_S
                    yield Setback(node, at_s, until_s, f"{node} starts anew: {one['detail']}")
                case "node.fenced" if at_s > known_until_s and not _is_expected(
                    node, at_s, expected
                ):
                    known_until_s = at_s + _UP_WITHIN_S
                    yield Setback(node, at_s, at_s, f"{node} is fenced: {one['reason']}")


def _is_expected(node: str, at_s: float, expected: Sequence[Expected]) -> bool:
    return any(
        one.node == node and one.begins_s <= at_s <= one.ends_s + _UP_WITHIN_S for one in expected
    )


def _at_s(event: Mapping[str, Any], start_ms: int) -> float:
    return datetime.fromisoformat(event["timestamp"]).timestamp() - start_ms / 1000
