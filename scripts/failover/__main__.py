"""``python -m scripts.failover``: how long a failing node, or region, is felt through the edge."""

import asyncio
import sys
import tempfile
from itertools import product
from pathlib import Path
from typing import Final

from rich.console import Console

from cluster.report import new_table
from scripts.failover.balancers import ENVOY, HAPROXY, in_front_of, missing
from scripts.failover.clients import REPEATABLE, Seen
from scripts.failover.faults import FAULTS, strike
from scripts.local_cluster import LocalCluster

_PER_SECOND: Final = 200
#: Slower than this is felt.
_SLOW_S: Final = 0.1


def main() -> int:
    """Strike a cluster of its own through each balancer that is installed; print what was seen."""
    console = Console()
    numbers = ("requests", "failed", "keyless failed", "slowest", "felt for")
    table = new_table("edge", "fault", right=numbers)
    with tempfile.TemporaryDirectory() as directory:
        cluster = LocalCluster(Path(directory), regions=2, edge=True)
        struck = {"a node": ["a2"], "the region": cluster.regions["a"]}
        try:
            cluster.up()
            for name in (ENVOY, HAPROXY):
                if reason := missing(name):
                    console.print(reason)
                    continue
                with in_front_of(cluster, name) as balancer:
                    for (what, nodes), fault in product(struck.items(), FAULTS):
                        striking = strike(fault, nodes, cluster, [balancer], per_second=_PER_SECOND)
                        (seen,) = asyncio.run(striking)
                        table.add_row(name, f"{fault} {what}", *_figures(seen))
        finally:
            cluster.close()
    console.print(table)
    return 0


def _figures(seen: Seen) -> tuple[str, ...]:
    return (
        f"{len(seen.requests):,}",
        str(len(seen.failures(*REPEATABLE))),
        str(len(seen.failures("keyless"))),
        f"{seen.slowest_s(*REPEATABLE) * 1000:.0f} ms",
        f"{seen.disturbed_s(_SLOW_S, *REPEATABLE):.2f} s",
    )


if __name__ == "__main__":
    sys.exit(main())
