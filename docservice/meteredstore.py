"""Counting calls to the store: what was asked for, what came of it, how long that took."""

from asyncio import Future
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Protocol

from docservice.store import DocumentStore
from kvnode.errors import StoreError
from kvnode.ports import Clock
from kvnode.record import Record, Sighting
from kvnode.results import Fetched, Stored


class Count(Protocol):
    """Of one operation at one level of consistency; see ``kvnode.calls``."""

    def add(self, duration_s: float, outcome: str = ..., /) -> None:
        """One call has ended, well or by an error's code."""


class Counts(Protocol):
    """By operation (create, read, delete): of a quorum in this region, and of one in each."""

    @property
    def here(self) -> Mapping[str, Mapping[int, Count]]: ...

    @property
    def everywhere(self) -> Mapping[str, Count]: ...


class MeteredStore:
    """A ``DocumentStore`` that does what the one behind it does."""

    def __init__(self, store: DocumentStore, clock: Clock, counts: Counts) -> None:
        self._store = store
        self._now_s = clock.monotonic_s
        self._counts = counts
        self._reads = counts.here["read"]
        self.mint_partition = store.mint_partition

    def create(
        self,
        document_id: bytes,
        record: Record,
        *,
        keyed: bool,
        write_quorum: int,
        sloppy: bool,
        deadline_s: float,
        each_region: bool = False,
    ) -> Awaitable[Stored]:
        """See ``DocumentStore``."""
        ended = self._ended("create", write_quorum, each_region=each_region)
        try:
            answer = self._store.create(
                document_id,
                record,
                keyed=keyed,
                write_quorum=write_quorum,
                sloppy=sloppy,
                deadline_s=deadline_s,
                each_region=each_region,
            )
        except StoreError as error:
            ended(error)
            raise
        if not isinstance(answer, Future):
            return self._awaited(answer, ended)
        answer.add_done_callback(partial(_of_future, ended))
        return answer

    async def read(
        self,
        document_id: bytes,
        *,
        read_quorum: int,
        sloppy: bool,
        deadline_s: float,
        seen: Sighting | None = None,
        each_region: bool = False,
    ) -> Fetched:
        """See ``DocumentStore``."""
        count = self._counts.everywhere["read"] if each_region else self._reads[read_quorum]
        begun_s = self._now_s()
        try:
            fetched = await self._store.read(
                document_id,
                read_quorum=read_quorum,
                sloppy=sloppy,
                deadline_s=deadline_s,
                seen=seen,
                each_region=each_region,
            )
        except StoreError as error:
            count.add(self._now_s() - begun_s, error.code)
            raise
        count.add(self._now_s() - begun_s)
        return fetched

    async def delete(
        self,
        document_id: bytes,
        record: Record,
        *,
        write_quorum: int,
        sloppy: bool,
        deadline_s: float,
        each_region: bool = False,
    ) -> Stored:
        """See ``DocumentStore``."""
        ended = self._ended("delete", write_quorum, each_region=each_region)
        answer = self._store.delete(
            document_id,
            record,
            write_quorum=write_quorum,
            sloppy=sloppy,
            deadline_s=deadline_s,
            each_region=each_region,
        )
        return await self._awaited(answer, ended)

    async def _awaited(self, answer: Awaitable[Stored], ended: "_Ended") -> Stored:
        try:
            stored = await answer
        except StoreError as error:
            ended(error)
            raise
        ended(None)
        return stored

    def _ended(self, operation: str, quorum: int, *, each_region: bool) -> "_Ended":
        counts = self._counts
        count = counts.everywhere[operation] if each_region else counts.here[operation][quorum]
        begun_s = self._now_s()

        def ended(error: BaseException | None) -> None:
            duration_s = self._now_s() - begun_s
            if isinstance(error, StoreError):
                count.add(duration_s, error.code)
            else:
                count.add(duration_s)

        return ended


_Ended = Callable[[BaseException | None], None]


def _of_future(ended: _Ended, answer: "Future[Stored]") -> None:
    """A client that went away has cancelled it: nothing ended then."""
    if not answer.cancelled():
        ended(answer.exception())
