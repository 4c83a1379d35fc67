"""The ring of events: every reader sees each one once and in order, or is told that it did not."""

from hypothesis import given
from hypothesis import strategies as st

from kvnode.eventring import EventRing, Resumed

KEPT = 4
#: What happens: so many events, or reader number n takes some, or comes back after a while.
_steps = st.lists(
    st.one_of(
        st.tuples(st.just("happen"), st.integers(1, 6)),
        st.tuples(st.just("read"), st.integers(0, 2)),
        st.tuples(st.just("return"), st.integers(0, 2)),
    )
)


@given(_steps)
def test_a_reader_gets_every_event_once_in_order_or_knows_how_many_it_missed(
    steps: list[tuple[str, int]],
) -> None:
    """What it has seen, and what it was told it missed, add up to all that happened before."""
    ring = EventRing("b00t", KEPT)
    positions, seen, missed = [0, 0, 0], [0, 0, 0], [0, 0, 0]
    last_ids: list[str | None] = [None] * 3
    for step, number in steps:
        if step == "happen":
            for _ in range(number):
                ring.append(f"line {ring.newest + 1}")
            continue
        if step == "return" and last_ids[number] is not None:
            positions[number], lost = ring.resume(last_ids[number])
            missed[number] += lost
        if ring.is_behind(positions[number]):
            continue
        for event in ring.after(positions[number], 3):
            seen[number] += 1
            assert event.number == seen[number] + missed[number]
            assert event.line == f"line {event.number}"
            positions[number] = event.number
            last_ids[number] = ring.id_of(event)


@given(st.integers(0, 12), st.integers(0, 12))
def test_nobody_is_behind_who_reads_what_is_remembered(happened: int, position: int) -> None:
    """Behind is who needs an event that was forgotten, and nobody else."""
    ring = EventRing("b00t", KEPT)
    for _ in range(happened):
        ring.append("line")
    assert ring.is_behind(position) == (position + 1 <= happened - KEPT)


@given(st.text() | st.sampled_from(["b00t-", "b00t-²", "-1", "b00t--1", "b00t-1-1"]))
def test_an_id_that_is_none_is_as_good_as_no_id(last_id: str) -> None:
    """A reader may send anything; it gets all that is remembered."""
    ring = EventRing("b00t", KEPT)
    for _ in range(10):
        ring.append("line")
    position, missed = ring.resume(last_id)
    assert position == 6
    assert missed in (0, 6)


def test_ids_of_another_boot_mean_that_all_of_this_one_was_missed() -> None:
    """A restarted node counts from 1 again: its 7th event is not the one that the reader saw."""
    before, ring = EventRing("b00t", KEPT), EventRing("0ther", KEPT)
    for _ in range(10):
        before.append("line")
        ring.append("line")
    assert before.resume("b00t-8") == Resumed(8, 0)
    assert before.resume("b00t-2") == Resumed(6, 4)
    assert before.resume("b00t-99") == Resumed(10, 0)
    assert ring.resume("b00t-8") == Resumed(6, 6)


def test_a_listener_hears_of_every_event_until_it_stops_listening() -> None:
    """And one listener's end does not disturb another."""
    heard: list[str] = []
    ring = EventRing("b00t", KEPT)

    def first() -> None:
        heard.append("first")
        ring.unlisten(first)

    def second() -> None:
        heard.append("second")

    ring.listen(first)
    ring.listen(second)
    ring.append("line")
    ring.append("line")
    assert heard == ["first", "second", "second"]
