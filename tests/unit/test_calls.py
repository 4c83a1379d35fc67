"""What is counted of calls to a store: every one once, by its outcome, whichever way it ends."""

import asyncio
from collections.abc import Awaitable, Callable
from math import inf
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docservice.meteredstore import MeteredStore
from docservice.store import DocumentStore
from kvnode.calls import BOUNDS_S, Calls, Count
from kvnode.errors import DiskLow, StoreError, WriteTimeout
from kvnode.record import Record
from tests.support.http import StoppedWallClock

RECORD = cast("Record", object())


@given(st.lists(st.floats(0, 10)), st.lists(st.floats(0, 10)))
def test_a_histogram_counts_each_duration_in_every_bucket_that_holds_it(
    some: list[float], others: list[float]
) -> None:
    """As Prometheus reads it, over all levels together."""
    count, other = Count(), Count()
    for span_s in some:
        count.add(span_s)
    for span_s in others:
        other.add(span_s, "write-timeout")
    buckets, total_s = count.plus([other])
    assert buckets == [
        (str(bound) if bound < inf else "+Inf", sum(span_s <= bound for span_s in some + others))
        for bound in [*BOUNDS_S, inf]
    ]
    assert total_s == pytest.approx(sum(some + others))
    assert (count.outcomes["ok"], other.outcomes["ok"]) == (len(some), 0)


@pytest.mark.parametrize("copies", range(1, 10))
def test_every_quorum_has_one_name(copies: int) -> None:
    """A closed set: no client can make a series of its own."""
    calls = Calls(copies)
    counts = [calls.here["read"][quorum] for quorum in range(1, copies + 1)]
    names = {id(count): name for name, count in calls.counts["read"].items()}
    levels = [names[id(count)] for count in counts]
    assert len(set(levels)) == copies
    assert levels[0] == "one"
    assert "each_quorum" not in levels
    if copies > 2:
        assert (levels[copies // 2], levels[copies - 1]) == ("quorum", "all")


class Store:
    """Ends each call as it is told to."""

    def __init__(self, error: StoreError | None, *, at_once: bool = False) -> None:
        self._error = error
        self._at_once = at_once

    def mint_partition(self) -> int | None:
        """See ``DocumentStore``."""
        return 3

    def create(self, *_: Any, keyed: bool, **__: Any) -> Awaitable[Any]:
        """A future; a coroutine for a keyed one."""
        if self._at_once and self._error:
            raise self._error
        if keyed:
            return self._end()
        return asyncio.ensure_future(self._end())

    async def read(self, *_: Any, **__: Any) -> Any:
        """See ``DocumentStore``."""
        return await self._end()

    async def delete(self, *_: Any, **__: Any) -> Any:
        """See ``DocumentStore``."""
        return await self._end()

    async def _end(self) -> Any:
        await asyncio.sleep(0)
        if self._error:
            raise self._error
        return "an answer"


@pytest.mark.parametrize(
    ("store", "outcome"),
    [
        (Store(None), "ok"),
        (Store(WriteTimeout("late")), "write-timeout"),
        (Store(DiskLow("low"), at_once=True), "disk-low"),
    ],
)
async def test_each_call_is_counted_once_by_its_outcome(store: Store, outcome: str) -> None:
    """And its answer, or its failure, is the store's."""
    calls = Calls(3)
    metered = MeteredStore(cast("DocumentStore", store), StoppedWallClock(), calls)
    assert metered.mint_partition() == 3
    how: dict[str, Any] = {"write_quorum": 2, "sloppy": True, "deadline_s": 1.0}
    asked: list[Callable[[], Awaitable[Any]]] = [
        lambda: metered.create(b"", RECORD, keyed=True, **how),
        lambda: metered.create(b"", RECORD, keyed=False, **how),
        lambda: metered.delete(b"", RECORD, **how),
        lambda: metered.read(b"", read_quorum=2, sloppy=True, deadline_s=1.0),
    ]
    answers: list[object] = []
    for ask in asked:
        try:
            answers.append(await ask())
        except StoreError as error:
            answers.append(error.code)
    await asyncio.sleep(0)
    assert set(answers) == {"an answer" if outcome == "ok" else outcome}
    counted = {
        (operation, level, how): times
        for operation, levels in calls.counts.items()
        for level, count in levels.items()
        for how, times in count.outcomes.items()
        if times
    }
    assert counted == {
        ("create", "quorum", outcome): 2,
        ("delete", "quorum", outcome): 1,
        ("read", "quorum", outcome): 1,
    }
