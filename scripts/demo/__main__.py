"""``python -m scripts.demo``: two regions behind an edge, and what clients see when things break.

Exit codes: 0 both regions held the same in the end, and no session was shown less than it had seen;
1 otherwise; 2 bad arguments; 130 interrupted. Whatever the code, nothing that was started still
runs, and its files are gone.
"""

import asyncio
import contextlib
import secrets
import signal
import sys
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from cluster.balancer import edge_url, region_urls
from cluster.interrupts import Interrupted
from cluster.settings import ClusterSettings
from docservice.client import NewDocument
from scripts.chaos.arena import Arena
from scripts.demo.play import Pace, Play
from scripts.demo.screen import Screen
from scripts.demo.visitors import Visitors
from scripts.failover.balancers import ENVOY, balancing, missing
from scripts.local_cluster import ClusterError, call
from scripts.sources import Document, SourceError, find_files, read_documents

_NODES: Final = 3
_REGIONS: Final = 2
_LOADED_MAX: Final = 600
_FORTUNES: Final = Path("/usr/share/games/fortunes")
_PAGES: Final = Path(__file__).parents[2] / "docs"
_PARAGRAPH_MIN: Final = 80
_CONFIG: Final = """\
[storage]
ballast_bytes = 0
[antientropy]
interval_s = 5
[gossip]
interval_s = 0.5
"""


def documents_in(files: list[Path]) -> list[NewDocument]:
    """The first that are in JSON lines or fortune files. Raises SourceError."""
    found = (one for one in read_documents(files) if isinstance(one, Document))
    return [
        NewDocument(one.content, one.ttl_seconds, one.idempotency_key)
        for one in islice(found, _LOADED_MAX)
    ]


def paragraphs(pages: list[Path]) -> list[NewDocument]:
    """Of this project's own pages, for a machine without fortunes."""
    texts = (text for page in pages for text in page.read_text(encoding="utf-8").split("\n\n"))
    long_enough = (text for text in texts if _PARAGRAPH_MIN <= len(text.encode()) <= 2048)
    return [NewDocument(text) for text in dict.fromkeys(islice(long_enough, _LOADED_MAX))]


def _documents(file: Path | None) -> list[NewDocument]:
    if file is None and not _FORTUNES.is_dir():
        return paragraphs(sorted(_PAGES.glob("*.md")))
    return documents_in(find_files([file or _FORTUNES]))


def demo(
    file: Annotated[
        Path | None, typer.Argument(help="JSON lines, fortune files, or a directory of these.")
    ] = None,
) -> None:
    """Break two regions behind an edge while clients use them, and tell what these see."""
    try:
        documents = _documents(file)
    except SourceError as error:
        raise typer.BadParameter(str(error)) from error
    with tempfile.TemporaryDirectory(prefix="stele-demo-") as directory:
        try:
            proved = _play(Path(directory), documents)
        except (ClusterError, OSError, ExceptionGroup) as error:
            typer.echo(f"demo: {error}", err=True)
            raise typer.Exit(1) from error
    if not proved:
        typer.echo("demo: something is not as it should be; see above", err=True)
        raise typer.Exit(1)


def _play(directory: Path, documents: list[NewDocument]) -> bool:
    console = Console(highlight=False)
    screen = Screen(console)
    seed = secrets.randbelow(1 << 32)
    arena = Arena(directory, _NODES, _REGIONS, seed, config=_CONFIG, edge=not missing(ENVOY))

    async def main() -> bool:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        try:
            screen.tell(f"Two regions, a and b, each of {_NODES} nodes in as many zones, start ...")
            await arena.up()
            with _edge(arena, screen) as settings:
                urls = _urls(arena, settings)
                async with Visitors(urls, [one.content for one in documents]) as visitors:
                    play = Play(
                        arena, visitors, documents, screen, Pace(), lambda: edge_retries(settings)
                    )
                    return await play.perform()
        finally:
            await arena.close()

    try:
        return asyncio.run(main())
    except (asyncio.CancelledError, KeyboardInterrupt):
        raise Interrupted from None


@contextlib.contextmanager
def _edge(arena: Arena, screen: Screen) -> Iterator[ClusterSettings | None]:
    """Envoy before the arena's nodes, if this machine has it."""
    if why := missing(ENVOY):
        screen.tell(f"{why}: clients choose among the nodes by themselves.")
        yield None
        return
    with balancing(ENVOY, arena.settings, arena.directory) as balancer:
        screen.tell(f"One URL for clients: {edge_url(balancer.settings)}.")
        yield balancer.settings


def _urls(arena: Arena, settings: ClusterSettings | None) -> dict[str, list[str]]:
    """Where the clients of each region connect."""
    if settings is not None:
        return {region: [url] for region, url in region_urls(settings).items()}
    nodes = arena.local.regions.items()
    return {region: [arena.local.http_url(one) for one in its] for region, its in nodes}


def edge_retries(settings: ClusterSettings | None) -> int | None:
    """Requests that Envoy has sent to a second node; None: there is no edge."""
    if settings is None:
        return None
    edge = settings.edge
    stats = call("GET", f"http://{edge.host}:{edge.admin_port}/stats?filter=upstream_rq_retry$")
    return sum(int(line.rpartition(b" ")[2]) for line in stats.body.splitlines())


_app: Final = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
)
_app.command()(demo)


def main() -> None:
    """Entry point."""
    try:
        _app()
    except Interrupted:
        typer.echo("demo: interrupted; what was started has been stopped.", err=True)
        sys.exit(130)


if __name__ == "__main__":
    main()
