"""The acts: what happens, in which order, and what is said of it."""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec

from cluster import operations
from cluster.ids import parse_document_id
from cluster.operations import NoAnswer
from cluster.regionpairs import Pair, RegionSeen, pairs
from cluster.secret import read_secret
from cluster.settings import NodeSettings
from docservice.client import CreatedDocument, NewDocument
from scripts.chaos.arena import Arena
from scripts.chaos.proxy import Trouble
from scripts.chaos.replicas import Replicas
from scripts.demo.proof import read_everywhere
from scripts.demo.screen import Screen
from scripts.demo.visitors import Tally, Visitors
from scripts.local_cluster import ClusterError

#: A node that hangs must not hold up the line of the second.
_ASK_WITHIN_S: Final = 0.4
_LINE_S: Final = 1.0
_BACK_WITHIN_S: Final = 30.0
#: At the copies on all disks, until they agree; a second apart.
_LOOKS: Final = 30
_CUT: Final = Trouble(holds=True)


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """How long each act takes, beside the time that the cluster needs."""

    quiet_s: float = 5.0
    kill_s: float = 8.0
    pause_s: float = 7.0
    cut_s: float = 14.0
    after_s: float = 3.0


class Play:
    """One performance, in an arena that is up.

    Args:
        retries_of_edge: How often the edge has asked another node; None: there is no edge.
    """

    def __init__(
        self,
        arena: Arena,
        visitors: Visitors,
        documents: Sequence[NewDocument],
        screen: Screen,
        pace: Pace,
        retries_of_edge: Callable[[], int | None],
    ) -> None:
        self._arena = arena
        self._visitors = visitors
        self._documents = documents
        self._screen = screen
        self._pace = pace
        self._retries_of_edge = retries_of_edge
        self._began_s = time.monotonic()
        #: Of each act, what clients saw, and retries of the edge.
        self.acts: dict[str, tuple[Tally, int | None]] = {}

    async def perform(self) -> bool:
        """All of it; whether both regions hold the same, and no token was let down."""
        await self._load()
        working = asyncio.create_task(self._visitors.work())
        try:
            await self._act("Clients at work", _QUIET, self._rest(self._pace.quiet_s))
            await self._act("A node is killed", _KILL, self._kill("a2"))
            await self._act("A node hangs", _PAUSE, self._hang("b1"))
            await self._act("A region is cut off", _APART, self._cut("b"))
            await self._act("A third is deleted", _DELETE, self._delete())
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
        return await self._prove()

    # Acts ---------------------------------------------------------------------------------------

    async def _load(self) -> None:
        self._screen.heading("Documents are loaded")
        began_s = time.monotonic()
        client = self._visitors.clients["a"]
        created = await client.create_many(self._documents)
        loaded = [one.id for one in created if isinstance(one, CreatedDocument)]
        if len(loaded) < len(created):
            raise ClusterError(f"{len(created) - len(loaded)} documents could not be created")
        self._visitors.documents |= dict.fromkeys(loaded)
        took_s = time.monotonic() - began_s
        await asyncio.to_thread(self._arena.local.wait_level)
        there_s = time.monotonic() - began_s
        self._screen.tell(
            f"{len(loaded):,} documents in {took_s:.1f} s, in region a; after {there_s:.1f} s "
            "region b knows that it has them all."
        )

    async def _kill(self, node: str) -> None:
        await self._arena.kill(node)
        await self._rest(self._pace.kill_s)
        self._arena.start(node)
        await self._arena.ready(self._arena.nodes, _BACK_WITHIN_S)
        self._screen.tell(f"{node} is back; what it missed, the others had kept for it.")
        await self._rest(self._pace.after_s)

    async def _hang(self, node: str) -> None:
        self._arena.signal(node, signal.SIGSTOP)
        try:
            await self._rest(self._pace.pause_s)
        finally:
            self._arena.signal(node, signal.SIGCONT)
        await self._arena.ready(self._arena.nodes, _BACK_WITHIN_S)
        self._screen.tell(f"{node} goes on.")
        await self._rest(self._pace.after_s)

    async def _cut(self, region: str) -> None:
        links = self._arena.network.around(self._arena.local.regions[region])
        for link in links:
            link.add(_CUT)
        await self._rest(self._pace.cut_s)
        for link in links:
            link.remove(_CUT)
        self._screen.tell("The network is back. Each region ships what the other one lacks.")
        await self._arena.ready(self._arena.nodes, _BACK_WITHIN_S)
        await asyncio.to_thread(self._arena.local.wait_level)
        await self._rest(self._pace.after_s)

    async def _delete(self) -> None:
        doomed = list(self._visitors.documents)[: len(self._documents) : 3]
        await self._visitors.clients["a"].delete_many(doomed)
        self._screen.tell(f"{len(doomed):,} documents were deleted in region a.")
        await self._rest(self._pace.after_s)

    async def _prove(self) -> bool:
        """Every document, in both regions and on every disk."""
        self._screen.heading("Do both regions hold the same?")
        local = self._arena.local
        await asyncio.to_thread(local.wait_level)
        ids = list(self._visitors.documents)
        urls = {
            region: [local.http_url(node) for node in nodes]
            for region, nodes in local.regions.items()
        }
        found = await read_everywhere(urls, ids)
        self._screen.tell(
            f"{len(ids):,} documents, read in each region at quorum: {found.alive:,} are there "
            f"with the same bytes, {found.deleted:,} are deleted in both, {len(found.differing)} "
            "differ."
        )
        differing = await self._differing_on_disk(ids)
        copies = self._arena.settings.replication.copies * len(urls)
        self._screen.tell(
            f"And on disk, {copies} copies of each: {len(differing)} documents have copies that "
            "differ."
        )
        self._screen.heading("What clients saw")
        self._screen.summary(self.acts)
        whole = Tally()
        for tally, _ in self.acts.values():
            whole.add(tally)
        self._screen.tell(
            f"{whole.requests:,} requests, of which {whole.failed.total():,} failed. Without the "
            f"session's token {whole.stale_without_token:,} reads in the other region showed less "
            f"than their client had seen; with it, {whole.stale_with_token:,}."
        )
        return not (found.differing or differing or whole.stale_with_token)

    async def _differing_on_disk(self, document_ids: Sequence[str]) -> Sequence[object]:
        """Documents whose copies differ; repairs that are under way are waited for."""
        ids = [one for text in document_ids if (one := parse_document_id(text)) is not None]
        secret = read_secret(self._arena.local.var.secret_file)
        replicas = Replicas(self._arena.settings, secret, self._arena.rings)
        try:
            for _ in range(_LOOKS):
                differing = await replicas.differing(ids)
                if not differing:
                    break
                await asyncio.sleep(_LINE_S)
            return differing
        finally:
            await replicas.close()

    # What is seen meanwhile ---------------------------------------------------------------------

    async def _rest(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def _act(self, title: str, words: str, deeds: Awaitable[None]) -> None:
        """Say what is about to happen, let it happen, and print a line each second."""
        self._screen.heading(title)
        self._screen.tell(words)
        before = self._retries_of_edge()
        seen = Tally()
        self._visitors.take()
        watching = asyncio.create_task(self._watch(seen))
        try:
            await deeds
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        seen.add(self._visitors.take())
        after = self._retries_of_edge()
        by_edge = None if before is None or after is None else after - before
        self.acts[title] = (seen, by_edge)
        for error, count in sorted(seen.failed.items()):
            self._screen.tell(f"failed: {count} x {error}")

    async def _watch(self, seen: Tally) -> None:
        self._screen.head(await self._pairs())
        while True:
            await asyncio.sleep(_LINE_S)
            progress = await self._pairs()
            tally = self._visitors.take()
            seen.add(tally)
            self._screen.line(time.monotonic() - self._began_s, tally, progress)

    async def _pairs(self) -> list[Pair]:
        nodes = self._arena.settings.node
        said = await asyncio.gather(*(asyncio.to_thread(_regions_seen, one) for one in nodes))
        by_node = {node.id: its for node, its in zip(nodes, said, strict=True)}
        return pairs(self._arena.local.regions, by_node)


def _regions_seen(node: NodeSettings) -> dict[str, RegionSeen]:
    """What a node says of the other regions; nothing if it does not answer."""
    try:
        return operations.node_status(node, _ASK_WITHIN_S).regions
    except NoAnswer:
        return {}


_QUIET: Final = (
    "Two clients in each region create documents, and read each at once in the other region: "
    "without their session's token, and with it. Now and then they delete one. 'Behind' is the age "
    "of the watermark: every write before it has arrived."
)
_KILL: Final = (
    "SIGKILL to a2. The edge sends its clients elsewhere; the other owners answer for it, and keep "
    "what it misses. What it may have acknowledged and not told region b holds up the watermark."
)
_PAUSE: Final = (
    "SIGSTOP to b1: it takes connections, and says nothing. The edge asks a second node when the "
    "first one is silent. What b1 has yet to tell holds up the watermark of its region."
)
_APART: Final = (
    "No byte passes between the regions any more. Both serve all their clients; what one writes, "
    "the other does not see, and each keeps a log of it. A client with a token goes to the region "
    "that has what it has seen."
)
_DELETE: Final = (
    "Of what was loaded, in region a. Whoever has the token of a deletion sees it everywhere at "
    "once."
)
