"""After the last fault: waiting until the cluster has healed, and watching it do so."""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from cluster.ids import DocumentId
from scripts.chaos.arena import Arena
from scripts.chaos.replicas import Replicas

WITHIN_S: Final = 120.0
_LOOK_EVERY_S: Final = 0.5
#: A look at many documents takes a while, and nodes have to heal meanwhile.
_REST: Final = 3.0


class Look:
    """What was left to heal at one moment."""

    def __init__(self, at_s: float, differing: int, hints: int, reasons: Sequence[str]) -> None:
        self.at_s, self.differing, self.hints = at_s, differing, hints
        #: Why the cluster is not healed; empty when it is.
        self.reasons = reasons


async def heal(
    arena: Arena,
    replicas: Replicas,
    documents: Iterable[DocumentId],
    now_s: Callable[[], float],
    within_s: float = WITHIN_S,
) -> list[Look]:
    """Look again and again until all owners of every document agree and nothing is owed.

    The last look says whether it has come to that.
    """
    until_s = time.monotonic() + within_s
    left = list(documents)
    looks: list[Look] = []
    while True:
        began_s = time.monotonic()
        # What two owners once agree on does not change any more, but by ending.
        left = await replicas.differing(left)
        hints, reasons = await _owed(arena)
        if left:
            reasons = [*reasons, f"owners differ on {len(left)} documents"]
        looks.append(Look(now_s(), len(left), hints, reasons))
        if not reasons or time.monotonic() > until_s:
            return looks
        await asyncio.sleep(max(_LOOK_EVERY_S, _REST * (time.monotonic() - began_s)))


async def _owed(arena: Arena) -> tuple[int, list[str]]:
    """Hints that are held, and all that nodes say is not as it should be."""
    reasons = await arena.unready(arena.nodes)
    count = 0
    for node in arena.nodes:
        hints: dict[str, Any] | None = await arena.view(node, "hints")
        lifecycle = await arena.view(node, "lifecycle")
        quarantine = await arena.view(node, "quarantine")
        if hints is None or lifecycle is None or quarantine is None:
            reasons.append(f"{node} does not answer")
            continue
        for target, kept in hints["targets"].items():
            count += kept["count"]
            if kept["count"]:
                reasons.append(f"{node} holds {kept['count']} hints for {target}")
        for target, owed in hints["comparisons_owed"].items():
            reasons.append(f"{node} owes {target} {owed} comparisons")
        if lifecycle["fenced"]:
            reasons.append(f"{node} is fenced")
        if lifecycle["contradicted"]:
            reasons.append(f"{node} found purged documents alive")
        if quarantine["asked"]:
            reasons.append(f"{node} asks about {quarantine['asked']} late copies")
    return count, reasons
