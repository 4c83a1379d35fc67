"""After the last fault: waiting until the cluster has healed, and watching it do so."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from cluster.ids import DocumentId
from scripts.chaos.arena import Arena
from scripts.chaos.replicas import Replicas

#: Background work yields to whatever keeps the machine busy, so a busy one heals slowly.
WITHIN_S: Final = 300.0
_LOOK_EVERY_S: Final = 0.5
#: Documents of a look; more are asked for when these agree.
_SAMPLE: Final = 500
#: A look at many documents takes a while, and nodes have to heal meanwhile.
_REST: Final = 1.0


class Look:
    """What was left to heal at one moment."""

    def __init__(self, at_s: float, differing: int, hints: int, reasons: Sequence[str]) -> None:
        #: Documents of which owners would say different things, by a sample while there are many.
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
    until_s = now_s() + within_s
    left = list(documents)
    step = len(left) // _SAMPLE + 1
    looks: list[Look] = []
    while True:
        began_s = now_s()
        differing = await replicas.differing(left[::step])
        count = min(len(differing) * step, len(left))
        hints, reasons = await _owed(arena)
        if count:
            reasons = [*reasons, f"owners differ on {count} documents"]
        elif step > 1:
            step = 1  # the sample agrees: now all
            continue
        if step == 1:
            # What owners once agree on does not change any more, but by ending.
            left = differing
        looks.append(Look(now_s(), count, hints, reasons))
        if not reasons or now_s() > until_s:
            return looks
        await asyncio.sleep(max(_LOOK_EVERY_S, _REST * (now_s() - began_s)))


async def _owed(arena: Arena) -> tuple[int, list[str]]:
    """Hints that are held, and all that nodes say is not as it should be."""
    reasons = await arena.unready(arena.nodes)
    count = 0
    for node in arena.nodes:
        hints: dict[str, Any] | None = await arena.view(node, "hints")
        lifecycle = await arena.view(node, "lifecycle")
        quarantine = await arena.view(node, "quarantine")
        regions = await arena.view(node, "regions")
        if hints is None or lifecycle is None or quarantine is None or regions is None:
            reasons.append(f"{node} does not answer")
            continue
        for target, kept in hints["targets"].items():
            count += kept["count"]
            if kept["count"]:
                reasons.append(f"{node} holds {kept['count']} hints for {target}")
        for target, owed in hints["comparisons_owed"].items():
            reasons.append(f"{node} owes {target} {owed} comparisons")
        for region, seen in regions["regions"].items():
            if seen["waiting"]:
                reasons.append(f"{node} keeps {seen['waiting']} writes for region {region}")
            if seen["comparisons_owed"]:
                reasons.append(f"{node} owes {region} {seen['comparisons_owed']} comparisons")
        if lifecycle["fenced"]:
            reasons.append(f"{node} is fenced")
        if lifecycle["contradicted"]:
            reasons.append(f"{node} found purged documents alive")
        if quarantine["asked"]:
            reasons.append(f"{node} asks about {quarantine['asked']} late copies")
    return count, reasons
