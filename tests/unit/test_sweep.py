"""Deadlines under one timer: none early, none forgotten, none twice."""

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from kvnode.sweep import DeadlineSweep
from tests.support.handcranked import HandCrankedLoop

TICK_S = 0.5


class Entry:
    """Something with a deadline that notes when it expired."""

    def __init__(
        self, loop: HandCrankedLoop, deadline_s: float, then: Callable[[], None] | None = None
    ) -> None:
        self.deadline_s = deadline_s
        self.expired_s: list[float] = []
        self._loop = loop
        self._then = then

    def expire(self) -> None:
        """See ``kvnode.sweep.Expiring``."""
        self.expired_s.append(self._loop.now_s)
        if self._then is not None:
            self._then()


def sweep_of(loop: HandCrankedLoop) -> DeadlineSweep:
    """A sweep on a loop that is its clock as well."""
    return DeadlineSweep(loop.as_loop, loop, TICK_S)


@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0, 5), st.booleans()), max_size=12))
def test_each_entry_expires_once_at_most_a_tick_late_unless_it_was_taken_out(
    entries: list[tuple[float, float, bool]],
) -> None:
    """Added at any time, with deadlines in any order, some of them in the past."""
    loop = HandCrankedLoop()
    sweep = sweep_of(loop)
    added: list[tuple[Entry, float, bool]] = []
    for added_s, deadline_s, taken_out in sorted(entries):
        loop.run_until(added_s)
        entry = Entry(loop, deadline_s)
        number = sweep.add(entry)
        if taken_out:
            assert sweep.pop(number) is entry
        added.append((entry, added_s, taken_out))
    loop.run_until(20.0)
    for entry, added_s, taken_out in added:
        if taken_out:
            assert entry.expired_s == []
            continue
        (expired_s,) = entry.expired_s
        due_s = max(added_s, entry.deadline_s)
        assert due_s <= expired_s <= due_s + TICK_S + 1e-9
    assert len(sweep) == 0


def test_no_timer_runs_while_nothing_waits() -> None:
    """An idle node sleeps."""
    loop = HandCrankedLoop()
    sweep = sweep_of(loop)
    assert loop.timers == []
    sweep.pop(sweep.add(Entry(loop, 10.0)))
    loop.run_until(10.0 + TICK_S)
    assert loop.timers == []
    entry = Entry(loop, loop.now_s)
    sweep.add(entry)
    assert len(loop.timers) == 1, "and starts again with the next entry"
    loop.run_until(10.0 + 2 * TICK_S)
    assert len(entry.expired_s) == 1


def test_requests_that_are_answered_in_time_cost_one_look_per_deadline() -> None:
    """Thousands are, for each that is not; a look is at all that wait."""
    loop = HandCrankedLoop()
    looks = 0

    class Watched(DeadlineSweep):
        def _sweep(self) -> None:
            nonlocal looks
            looks += 1
            super()._sweep()

    sweep = Watched(loop.as_loop, loop, TICK_S)
    for number in range(1, 1001):
        sweep.pop(sweep.add(Entry(loop, loop.now_s + 10.0)))
        loop.run_until(number / 10)
    assert 9 <= looks <= 11


def test_one_timer_serves_all_entries() -> None:
    """A timer per request is what this is there to avoid."""
    loop = HandCrankedLoop()
    sweep = sweep_of(loop)
    for _ in range(100):
        sweep.add(Entry(loop, 100.0))
    assert len(loop.timers) == 1


def test_an_entry_may_add_and_take_out_others_while_it_expires() -> None:
    """What a write that has timed out asks next has a deadline as well."""
    loop = HandCrankedLoop()
    sweep = sweep_of(loop)
    later = Entry(loop, 0.0)
    victim = Entry(loop, 0.0)

    def on_expiry() -> None:
        sweep.pop(victim_number)
        sweep.add(later)

    sweep.add(Entry(loop, 0.0, on_expiry))
    victim_number = sweep.add(victim)
    loop.run_until(TICK_S)
    assert (victim.expired_s, later.expired_s) == ([], [])
    loop.run_until(2 * TICK_S)
    assert len(later.expired_s) == 1


def test_draining_gives_everything_back_in_order_of_arrival_and_expires_nothing() -> None:
    """A connection that is gone tells each request why itself."""
    loop = HandCrankedLoop()
    sweep = sweep_of(loop)
    entries = [Entry(loop, deadline_s) for deadline_s in (3.0, 1.0, 2.0)]
    for entry in entries:
        sweep.add(entry)
    assert sweep.drain() == entries
    loop.run_until(10.0)
    assert [entry.expired_s for entry in entries] == [[], [], []]
    assert len(sweep) == 0


def test_an_expired_entry_can_not_be_taken_out_again() -> None:
    """Else an answer that comes with the deadline would make two outcomes."""
    loop = HandCrankedLoop()
    sweep = sweep_of(loop)
    number = sweep.add(Entry(loop, 0.0))
    loop.run_until(TICK_S)
    assert sweep.pop(number) is None
