"""Load documents from files: what ``stele load`` and ``make load FILE=...`` do.

Everything is created through the bulk API with idempotency keys, then everything is read back and
compared. The run keeps no state of its own, the cluster is the state: a run that was interrupted
is resumed by running it again, and what is there already is recognised by its key.

Creates ask for a strict quorum. Two of those always share a node, so whichever node a repetition
meets, also one that was down and has yet to catch up, the answer knows of the first create.

Texts that can't be documents are left out and listed.
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

import aiohttp
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cluster.launch import say
from scripts.bulk import (
    BATCH_OPERATIONS,
    BulkClient,
    BulkError,
    Operation,
    Result,
    is_transient,
    post_with,
)
from scripts.sources import Document, Refusal, SourceError, find_files, read_documents

#: Requests in flight. More only queue up in the nodes.
_CONCURRENCY: Final = 4


class Load:
    """One run: what became of every text so far."""

    def __init__(self, files: Sequence[Path], consistency: str) -> None:
        self._files = files
        self._create_query = f"?consistency={consistency}&sloppy=false"
        self.created = 0
        self.replayed = 0
        self.verified = 0
        #: Texts that can't be documents, and documents that the cluster refused for good.
        self.refused: list[Refusal] = []
        #: Documents that were stored and could not be read back as they were.
        self.lost: list[Refusal] = []
        #: By idempotency key, ids of what is stored and not yet read back.
        self._ids: dict[str, str] = {}
        self.documents, self.duplicates = self._survey()

    async def create_all(self, client: BulkClient, advance: Callable[[int], None]) -> None:
        """Create every document. Raises BulkError."""

        async def create(batch: list[Document]) -> None:
            operations = [_create_operation(document) for document in batch]
            results = await client.run(operations, query=self._create_query)
            for document, result in zip(batch, results, strict=True):
                self._note_created(document, result)
            advance(len(batch))

        await _in_batches(self._read(), create)

    async def verify_all(self, client: BulkClient, advance: Callable[[int], None]) -> None:
        """Read every stored document back and compare it. Raises BulkError."""

        async def verify(batch: list[Document]) -> None:
            gets: list[Operation] = [
                {"op": "get", "id": self._ids[document.idempotency_key]} for document in batch
            ]
            results = await client.run(gets, again=_not_there_yet)
            for document, result in zip(batch, results, strict=True):
                self._note_read(document, result)
            advance(len(batch))

        stored = (document for document in self._read() if document.idempotency_key in self._ids)
        await _in_batches(stored, verify)
        if self._ids:  # the files changed in between, so what they held is not known any more
            raise BulkError(f"{len(self._ids)} documents changed in their files during the load.")

    def _survey(self) -> tuple[int, int]:
        """Count documents and duplicates, and list what can't be a document."""
        documents = duplicates = 0
        for item in read_documents(self._files):
            if isinstance(item, Document):
                documents += 1
            elif isinstance(item, Refusal):
                self.refused.append(item)
            else:
                duplicates += 1
        return documents, duplicates

    def _read(self) -> Iterator[Document]:
        return (item for item in read_documents(self._files) if isinstance(item, Document))

    def _note_created(self, document: Document, result: Result) -> None:
        if result.problem:
            self.refused.append(Refusal(document.place, result.problem.detail))
            return
        self._ids[document.idempotency_key] = result.id
        if result.replayed:
            self.replayed += 1
        else:
            self.created += 1

    def _note_read(self, document: Document, result: Result) -> None:
        document_id = self._ids.pop(document.idempotency_key)
        if result.document and result.document.content == document.content:
            self.verified += 1
            return
        what = result.problem.detail if result.problem else "it has another content"
        self.lost.append(Refusal(document.place, f"{document_id} read back: {what}"))


async def _in_batches(
    documents: Iterator[Document], work: Callable[[list[Document]], Awaitable[None]]
) -> None:
    """Share the documents out among a few tasks. The first error ends them all."""

    async def take_turns() -> None:
        while batch := list(islice(documents, BATCH_OPERATIONS)):
            await work(batch)

    try:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(_CONCURRENCY):
                tasks.create_task(take_turns())
    except* (BulkError, SourceError) as errors:
        raise errors.exceptions[0] from None


def _create_operation(document: Document) -> Operation:
    operation: Operation = {
        "op": "create",
        "content": document.content,
        "idempotency_key": document.idempotency_key,
    }
    if document.ttl_seconds is not None:
        operation["ttl_seconds"] = document.ttl_seconds
    return operation


def _not_there_yet(result: Result) -> bool:
    """Also a 404: while nodes come and go, most replicas may not have the document for a moment."""
    return is_transient(result) or result.status == 404


async def _run(load: Load, urls: Sequence[str], patience_s: float, console: Console) -> None:
    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:>9}"),
        TimeRemainingColumn(),
    )
    connector = aiohttp.TCPConnector(limit=_CONCURRENCY)
    async with aiohttp.ClientSession(connector=connector) as session:
        client = BulkClient(post_with(session), urls, patience_s=patience_s)
        with Progress(*columns, console=console) as progress:
            await load.create_all(client, _advancing(progress, "creating", load.documents))
            stored = load.created + load.replayed
            await load.verify_all(client, _advancing(progress, "reading back", stored))


def _advancing(progress: Progress, name: str, total: int) -> Callable[[int], None]:
    task = progress.add_task(name, total=total, rate="")
    started_s, done = time.monotonic(), 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        rate = done / (time.monotonic() - started_s)
        progress.update(task, advance=count, rate=f"{rate:,.0f}/s")

    return advance


def _summarise(load: Load, elapsed_s: float, console: Console) -> None:
    for refusal in load.refused:
        say(console, f"refused {refusal.place}: {refusal.reason}")
    for refusal in load.lost:
        say(console, f"NOT STORED {refusal.place}: {refusal.reason}")
    rate = (load.created + load.replayed) / elapsed_s
    for name, count, note in (
        ("created", load.created, ""),
        ("already there", load.replayed, ""),
        ("duplicates", load.duplicates, "the same text again in the input"),
        ("refused", len(load.refused), "listed above" if load.refused else ""),
        ("read back", load.verified, "and equal, byte for byte"),
    ):
        say(console, f"{name:<14}{count:>9,}  {note}".rstrip())
    say(console, f"in {elapsed_s:.1f} s, {rate:,.0f} documents/s created and read back")


def load_files(
    files: Sequence[Path], urls: Sequence[str], *, patience_s: float, consistency: str
) -> Load:
    """Load files through the nodes at these URLs, and show how far it is and what came of it.

    Raises:
        BulkError, SourceError: it can't go on.
    """
    console = Console(width=None if sys.stdout.isatty() else 120)
    load = Load(find_files(files), consistency)
    started_s = time.monotonic()
    try:
        asyncio.run(_run(load, [one.rstrip("/") for one in urls], patience_s, console))
    except (KeyboardInterrupt, BulkError) as error:
        stored = load.created + load.replayed
        why = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error).rstrip(".")
        raise BulkError(
            f"{why}; {stored:,} of {load.documents:,} documents are stored, and the same command "
            "again continues."
        ) from None
    _summarise(load, time.monotonic() - started_s, console)
    return load
