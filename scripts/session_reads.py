"""Create in one region, read in the other at once: ``python -m scripts.session_reads``.

What a session token is worth there, and what it costs: how many reads were told "not found" though
the create had been acknowledged, and how long reads took. Each pair is a create through a node of
region a and, as soon as that was answered, a read through one of region b, both at level one, by a
few clients side by side. The same reads once more, when region b has everything, are the common
case.

Exit codes: 0 measured, and nothing stale with a token; 1 a stale answer with a token, or nothing
measured; 130 interrupted.
"""

import asyncio
import secrets
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import aiohttp
import typer

from scripts.bench.report import PageError, with_table
from scripts.chaos.series import quantile
from scripts.local_cluster import ClusterError, LocalCluster

_CONFIG: Final = "[storage]\nballast_bytes = 0\n"
_CONTENT: Final = {"content": "what a client reads again in the other region " * 10}
_CLIENTS: Final = 4
_HEAD: Final = "| create in a, read in b | reads | found | 404 | refused | p50 ms | p99 ms |"


class Way(NamedTuple):
    """How pairs are made."""

    title: str
    #: With a key an id has no time, so that a miss can't be told from its age.
    keyed: bool
    token: bool


WAYS: Final = (
    Way("no key, no token", keyed=False, token=False),
    Way("key, no token", keyed=True, token=False),
    Way("key, token", keyed=True, token=True),
)


class Reads(NamedTuple):
    """What came of them."""

    title: str
    token: bool
    statuses: Counter[int]
    took_s: list[float]

    @property
    def stale(self) -> int:
        """Told that there is nothing, after an acknowledged create."""
        return self.statuses[404]


#: A document's path, and the token of the answer to its create.
Created = tuple[str, str]


class Clients:
    """Some that work side by side, each with one request at a time.

    Args:
        http: Holds their connections.
        near: URLs of the nodes that they create at.
        far: Of those that they read at.
    """

    def __init__(
        self, http: aiohttp.ClientSession, near: Sequence[str], far: Sequence[str]
    ) -> None:
        self._http = http
        self._near, self._far = cycle(near), cycle(far)

    async def create(self, way: Way) -> Created:
        """One document. Raises ClusterError."""
        headers = {"Idempotency-Key": secrets.token_hex(16)} if way.keyed else {}
        url = f"{next(self._near)}/documents"
        async with self._http.post(url, json=_CONTENT, headers=headers) as answer:
            if answer.status != 201:
                raise ClusterError(f"a create was answered {answer.status}")
            return answer.headers["Location"], answer.headers["Stele-Session"]

    async def read(self, created: Created, reads: Reads) -> None:
        """And note what came of it."""
        path, token = created
        headers = {"Stele-Session": token} if reads.token else {}
        began_s = time.perf_counter()
        async with self._http.get(f"{next(self._far)}{path}", headers=headers) as answer:
            await answer.read()
        reads.took_s.append(time.perf_counter() - began_s)
        reads.statuses[answer.status] += 1

    async def pairs(self, way: Way, count: int) -> tuple[Reads, list[Created]]:
        """Creates, each with its read behind it."""
        reads, made = Reads(f"{way.title}: at once", way.token, Counter(), []), list[Created]()

        async def pair(_: int) -> None:
            created = await self.create(way)
            made.append(created)
            await self.read(created, reads)

        await _side_by_side(pair, range(count))
        return reads, made

    async def again(self, made: Sequence[Created]) -> list[Reads]:
        """Reads of what was created before, in turn without a token and with one."""
        both = [
            Reads(f"key, {'' if token else 'no '}token: once it is there", token, Counter(), [])
            for token in (False, True)
        ]
        turns = [(created, reads) for created in made for reads in both]
        await _side_by_side(lambda turn: self.read(*turn), turns)
        return both


async def _side_by_side(
    work: Callable[[Any], Coroutine[Any, Any, None]], items: Sequence[Any]
) -> None:
    left = iter(items)

    async def take_turns() -> None:
        for item in left:
            await work(item)

    async with asyncio.TaskGroup() as clients:
        for _ in range(_CLIENTS):
            clients.create_task(take_turns())


async def measured(cluster: LocalCluster, pairs: int) -> list[Reads]:
    """All ways, first at once and then once region b has everything. Raises ClusterError."""
    near, far = (
        [cluster.http_url(node) for node in cluster.regions[region]] for region in ("a", "b")
    )
    at_once = []
    async with aiohttp.ClientSession() as http:
        clients = Clients(http, near, far)
        for way in WAYS:
            reads, made = await clients.pairs(way, pairs)
            at_once.append(reads)
            typer.echo(f"{reads.title}: {pairs:,} pairs", err=True)
        await asyncio.to_thread(cluster.wait_level)
        return at_once + await clients.again(made)


def table(all_reads: Sequence[Reads]) -> str:
    """As Markdown."""
    return "\n".join([_HEAD, f"| --- {'| ---: ' * 6}|", *_rows(all_reads), ""])


def _rows(all_reads: Sequence[Reads]) -> Iterator[str]:
    for reads in all_reads:
        count, found = len(reads.took_s), reads.statuses[200]
        ordered = sorted(reads.took_s)
        p50, p99 = ((quantile(ordered, share) or 0.0) * 1000 for share in (0.5, 0.99))
        refused = count - found - reads.stale
        yield (
            f"| {reads.title} | {count:,} | {found:,} | {reads.stale:,} | {refused:,} "
            f"| {p50:.2f} | {p99:.2f} |"
        )


def measure(
    pairs: Annotated[int, typer.Option(min=1, help="Of each kind.")] = 10_000,
    markdown: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A page to put the table into.")
    ] = None,
) -> None:
    """Measure what a session token is worth in another region, and what it costs."""
    with tempfile.TemporaryDirectory(prefix="stele-session-reads-") as directory:
        cluster = LocalCluster(Path(directory), regions=2, config=_CONFIG)
        try:
            cluster.up()
            all_reads = asyncio.run(measured(cluster, pairs))
            typer.echo(table(all_reads))
            if markdown is not None:
                page = markdown.read_text(encoding="utf-8")
                markdown.write_text(with_table(page, table(all_reads)), encoding="utf-8")
        except (ClusterError, OSError, PageError, ExceptionGroup) as error:
            typer.echo(f"session-reads: {error}", err=True)
            raise typer.Exit(1) from error
        finally:
            cluster.close()
    if any(reads.stale for reads in all_reads if reads.token):
        typer.echo("session-reads: a token did not keep its promise", err=True)
        raise typer.Exit(1)


def main() -> None:
    """Entry point."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(measure)
    try:
        app()
    except KeyboardInterrupt:
        typer.echo("session-reads: interrupted; what was started has been stopped.", err=True)
        sys.exit(130)


if __name__ == "__main__":
    main()
