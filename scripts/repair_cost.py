"""Measure what anti-entropy costs: ``python -m scripts.repair_cost``, ``make repair-cost``.

A node is stopped, some documents are created that it misses and no hint is kept for, and it is
started again. Measured is what all nodes together send to compare and to repair, and how long it
takes until the node has everything, the start of its process included. The first row is a round of
all nodes in which nothing differs. Cost must follow what differs, not what is stored.

Exit codes: 0 measured; 1 not measured; 130 interrupted.
"""

import asyncio
import random
import re
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Final, NamedTuple

import aiohttp
import typer

from scripts.bulk import BATCH_OPERATIONS, BulkClient, BulkError, Operation, post_with
from scripts.local_cluster import ClusterError, LocalCluster, call, wait_until

_CONFIG: Final = """\
[storage]
ballast_bytes = 0
[hints]
total_bytes_max = 0
[antientropy]
interval_s = 1000000
[gossip]
interval_s = 0.5
"""
_CONCURRENCY: Final = 4
_WITHIN_S: Final = 1800.0
_STEP: Final = 100_000


class Cost(NamedTuple):
    """Of one repair."""

    differing: int
    size_bytes: int
    seconds: float
    compared: int


async def _create(cluster: LocalCluster, count: int, *, copies: int, via: list[str]) -> None:
    """Documents on ``copies`` nodes."""
    chance = random.Random(count)
    query = f"?w={copies}&sloppy=false"
    left = count
    async with aiohttp.ClientSession() as session:
        client = BulkClient(
            post_with(session), [cluster.http_url(node) for node in via], patience_s=60.0
        )

        async def work() -> None:
            nonlocal left
            while left:
                batch = min(left, BATCH_OPERATIONS)
                left -= batch
                operations: list[Operation] = [
                    {"op": "create", "content": f"{chance.getrandbits(800):0200x}"}
                    for _ in range(batch)
                ]
                results = await client.run(operations, query=query)
                if any(result.status != 201 for result in results):
                    raise BulkError("a document was not created.")

        async with asyncio.TaskGroup() as workers:
            for _ in range(_CONCURRENCY):
                workers.create_task(work())


def _load(cluster: LocalCluster, count: int) -> None:
    began_s = time.monotonic()
    done = 0
    while done < count:
        step = min(_STEP, count - done)
        asyncio.run(_create(cluster, step, copies=3, via=cluster.nodes))
        done += step
        typer.echo(f"{done:,} of {count:,} documents, {time.monotonic() - began_s:.0f} s", err=True)


def _total(cluster: LocalCluster, name: str) -> int:
    """A counter's sum over all nodes that run."""
    total = 0.0
    for node in cluster.running():
        text = call("GET", f"{cluster.ops_url(node)}/metrics").body.decode()
        found = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE)
        total += sum(map(float, found))
    return int(total)


def _totals(cluster: LocalCluster) -> tuple[int, int]:
    return (
        _total(cluster, "stele_antientropy_bytes_total"),
        _total(cluster, "stele_antientropy_partitions_compared_total"),
    )


def _records(cluster: LocalCluster, node: str) -> int:
    return int(cluster.view(node, "lifecycle")["records"])


def _round(cluster: LocalCluster) -> Cost:
    """A repair of everything where nothing differs."""
    before = _totals(cluster)
    began_s = time.monotonic()
    cluster.stele("repair")
    seconds = time.monotonic() - began_s
    size_bytes, compared = (a - b for a, b in zip(_totals(cluster), before, strict=True))
    return Cost(0, size_bytes, seconds, compared)


def _repair(cluster: LocalCluster, differing: int) -> Cost:
    """The last node misses some documents, and gets them."""
    *others, last = cluster.nodes
    cluster.stele("stop", last)
    wait_until(lambda: all(cluster.status(node)["ready"] for node in others))
    asyncio.run(_create(cluster, differing, copies=2, via=others))
    wanted = max(_records(cluster, node) for node in others)
    before = _totals(cluster)
    began_s = time.monotonic()
    cluster.start(last)

    def level() -> bool:
        owed = [cluster.view(node, "hints")["comparisons_owed"] for node in cluster.nodes]
        return not any(owed) and _records(cluster, last) == wanted

    wait_until(level, _WITHIN_S)
    seconds = time.monotonic() - began_s
    size_bytes, compared = (a - b for a, b in zip(_totals(cluster), before, strict=True))
    return Cost(differing, size_bytes, seconds, compared)


def _print(costs: list[Cost]) -> None:
    typer.echo("| differing | partitions compared | bytes | bytes per difference | seconds |")
    typer.echo("| ---: | ---: | ---: | ---: | ---: |")
    for cost in costs:
        each = f"{cost.size_bytes / cost.differing:,.0f}" if cost.differing else ""
        typer.echo(
            f"| {cost.differing:,} | {cost.compared:,} | {cost.size_bytes:,} | {each} "
            f"| {cost.seconds:.2f} |"
        )


def measure(
    documents: Annotated[int, typer.Option(help="How many there are.")] = 1_000_000,
    differing: Annotated[str, typer.Option(help="How many the node misses.")] = "10,1000,100000",
) -> None:
    """Measure what comparing and repairing cost, by how much differs."""
    with tempfile.TemporaryDirectory(prefix="stele-repair-cost-") as directory:
        cluster = LocalCluster(Path(directory), config=_CONFIG)
        try:
            cluster.up()
            _load(cluster, documents)
            costs = [_round(cluster)]
            for missed in map(int, differing.split(",")):
                costs.append(_repair(cluster, missed))
                typer.echo(f"{missed:,} repaired", err=True)
            _print(costs)
        except (BulkError, ClusterError, OSError, ExceptionGroup) as error:
            typer.echo(f"repair-cost: {error}", err=True)
            raise typer.Exit(1) from error
        finally:
            cluster.close()


def main() -> None:
    """Entry point."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(measure)
    try:
        app()
    except KeyboardInterrupt:
        typer.echo("repair-cost: interrupted; what was started has been stopped.", err=True)
        sys.exit(130)


if __name__ == "__main__":
    main()
