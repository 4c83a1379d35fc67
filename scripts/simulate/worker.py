"""A process that plays cases: one a line on its standard input, one outcome a line on its output.

It ends with its input, so it does not outlive the runner for longer than one case. What histories
may print goes to standard error: standard output is for outcomes.
"""

import gc
import sys
from typing import Final

import msgspec

from scripts.simulate.case import parse, play

#: Worlds are full of cycles, and the loop keeps the collector off while it runs. After every one of
#: them it would cost a tenth of the time.
_COLLECTED_AFTER: Final = 16


def main() -> None:
    """Play what is asked for until nobody asks any more."""
    gc.disable()
    outcomes, sys.stdout = sys.stdout.buffer, sys.stderr
    for number, line in enumerate(sys.stdin, 1):
        outcomes.write(msgspec.json.encode(play(parse(line.strip()))) + b"\n")
        outcomes.flush()
        if number % _COLLECTED_AFTER == 0:
            gc.collect()


if __name__ == "__main__":
    main()
