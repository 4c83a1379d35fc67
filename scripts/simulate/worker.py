"""A process that plays cases: one a line on its standard input, one outcome a line on its output.

It ends with its input, so it does not outlive the runner for longer than one case. What histories
may print goes to standard error: standard output is for outcomes.
"""

import sys

import msgspec

from scripts.simulate.case import parse, play


def main() -> None:
    """Play what is asked for until nobody asks any more."""
    outcomes, sys.stdout = sys.stdout.buffer, sys.stderr
    for line in sys.stdin:
        outcomes.write(msgspec.json.encode(play(parse(line.strip()))) + b"\n")
        outcomes.flush()


if __name__ == "__main__":
    main()
