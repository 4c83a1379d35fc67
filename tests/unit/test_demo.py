"""What the demo counts, compares and prints; its acts are real processes (``make demo``)."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from cluster.regionpairs import Pair
from docservice.client import AsyncClient, CreatedDocument, Document, Session
from docservice.client.errors import Deleted, NotFound, Problem, SteleError, Unavailable
from scripts.demo.__main__ import paragraphs
from scripts.demo.proof import Shown, compare
from scripts.demo.screen import WIDTH, line
from scripts.demo.visitors import Tally, Visitors
from tests.simulation.loop import SimLoop

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def document(content: str) -> Document:
    """As a read gives it."""
    return Document(id="x", content=content, created_at=NOW, delete_at=None, checksum=content)


def refused(kind: type[Any]) -> SteleError:
    """As the client raises it."""
    error: SteleError = kind(Problem(code=kind.code, status=500))
    return error


SHOWN: list[Shown] = [document("one"), document("two"), *map(refused, (Deleted, NotFound))]


@given(st.lists(st.tuples(st.sampled_from(SHOWN), st.sampled_from(SHOWN)), max_size=8))
def test_documents_are_the_same_if_both_regions_show_the_same_bytes_or_that_it_is_deleted(
    both: list[tuple[Shown, Shown]],
) -> None:
    """A document that neither region has is not the same in both: it is lost."""
    ids = [f"{number}" for number in range(len(both))]

    found = compare(ids, [[a for a, _ in both], [b for _, b in both]])

    same = [a is b and not isinstance(a, NotFound) for a, b in both]
    assert found.differing == [one for one, alike in zip(ids, same, strict=True) if not alike]
    assert found.alive == sum(a is b and isinstance(a, Document) for a, b in both)
    assert found.deleted == sum(a is b and isinstance(a, Deleted) for a, b in both)


class Region:
    """A client of a region that lacks what the other one has, but for whom its session tells."""

    retry_count = 0

    def __init__(self, deleted: dict[str, None]) -> None:
        self._deleted = deleted
        self._session: str | None = None
        self._created = 0

    @contextlib.contextmanager
    def session(self, token: str = "") -> Iterator[Session]:
        """As the real one."""
        before, self._session = self._session, token
        try:
            yield Session("token")
        finally:
            self._session = before

    async def create(self, content: str) -> CreatedDocument:
        """Each third is refused."""
        self._created += 1
        if self._created % 3 == 0:
            raise refused(Unavailable)
        return CreatedDocument(
            id=f"{id(self)}-{self._created}", created_at=NOW, delete_at=None, checksum=content
        )

    async def delete(self, document_id: str) -> None:
        """The other region does not know, until it is told."""
        self._deleted[document_id] = None

    async def get(self, document_id: str) -> Document:
        """From the other region."""
        if self._session == "token":
            if document_id in self._deleted:
                raise refused(Deleted)
            return document("here")
        if document_id in self._deleted:
            return document("still here")
        raise refused(NotFound)


def test_what_the_other_region_shows_too_early_is_counted_apart_from_failures() -> None:
    """With the token it shows everything, so that every read without one is stale."""
    deleted: dict[str, None] = {}
    visitors = Visitors({"a": ["http://a"], "b": ["http://b"]}, ["text"])
    visitors.clients = {region: cast("AsyncClient", Region(deleted)) for region in visitors.clients}

    async def watch() -> None:
        working = asyncio.ensure_future(visitors.work())
        await asyncio.sleep(3.0)
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)

    with contextlib.closing(SimLoop(0)) as loop:
        loop.run(watch())
    seen = visitors.take()

    assert deleted
    assert list(seen.failed) == ["Unavailable"]
    creates = len(visitors.documents)
    assert seen.stale_without_token == creates + len(deleted)
    assert seen.stale_with_token == 0
    assert seen.requests == 3 * (creates + len(deleted)) + seen.failed.total()
    assert visitors.take() == Tally()


@given(st.lists(st.tuples(st.integers(0, 9), st.floats(0, 9)), max_size=5))
def test_what_was_seen_in_an_act_is_what_was_seen_in_its_seconds(
    seconds: Sequence[tuple[int, float]],
) -> None:
    """Counts add up, and the slowest is the slowest."""
    act = Tally()
    for count, slowest_s in seconds:
        act.add(Tally(count, Counter(x=count), count, slowest_s, count, count))

    total = sum(count for count, _ in seconds)
    assert (act.requests, act.failed.total(), act.retried) == (total, total, total)
    assert (act.stale_without_token, act.stale_with_token) == (total, total)
    assert act.slowest_s == max((slowest_s for _, slowest_s in seconds), default=0.0)


def test_a_line_shows_what_clients_saw_and_how_far_the_regions_are() -> None:
    """With what is unusual in colour, and a question mark for what nobody there knows."""
    there = Pair("a", "b", 1_767_225_600_000, 9.5, "a1", 1200, 0.0, 0, None, [])
    back = Pair("b", "a", None, None, None, 0, 0.0, 0, None, [])
    seen = Tally(84, Counter(Unavailable=2), 3, 0.031, 27, 0)

    shown = line(75.2, seen, [there, back], wide=True)

    assert " ".join(shown.plain.split()) == "1:15 84 2 3 31 ms 27 0 00:00:00 9.5 s 1,200 ? ? 0"
    assert len(shown.plain) == WIDTH
    assert len(line(75.2, seen, [there, back], wide=False).plain) < 80
    red = [
        shown.plain[span.start : span.end].strip() for span in shown.spans if span.style == "red"
    ]
    assert red == ["2"]


def test_a_machine_without_fortunes_has_enough_to_load() -> None:
    """The project's own pages; each text is a document that the API takes."""
    found = paragraphs(sorted((Path(__file__).parents[2] / "docs").glob("*.md")))

    assert len(found) > 100
    assert len({one.content for one in found}) == len(found)
    assert all(len(one.content.encode()) <= 2048 for one in found)
