"""From a failure with many faults to one with few.

Rules
-----
1. A smaller plan counts only if it breaks the same: another failure is another case.
2. First all faults are left out, then halves of what is left, then quarters, down to single ones;
   what is not needed stays out. So what remains is a plan of which no single fault can be spared,
   unless the number of attempts came to its end.
"""

from typing import Final

from scripts.simulate.case import Case, Outcome
from scripts.simulate.pool import Play

ATTEMPTS_MAX: Final = 80


async def reduced(failed: Outcome, play: Play, attempts_max: int = ATTEMPTS_MAX) -> Outcome:
    """The failure with as few faults as were found to be enough."""
    failure, smallest, attempts = failed.failure, failed, 0
    assert failure is not None

    async def fails(faults: list[str]) -> bool:
        nonlocal smallest, attempts
        attempts += 1
        case = Case(failed.case.kind, failed.case.seed, tuple(faults))
        outcome = await play(case)
        if outcome.failure is None or outcome.failure.broken != failure.broken:
            return False
        smallest = outcome
        return True

    kept = list(failure.faults)
    if await fails([]):
        return smallest
    size = len(kept) // 2
    while size and attempts < attempts_max:
        start, smaller = 0, False
        while start < len(kept) and attempts < attempts_max:
            rest = kept[:start] + kept[start + size :]
            if await fails(rest):
                kept, smaller = rest, True
            else:
                start += size
        if not smaller or size > 1:
            size //= 2
    return smallest
