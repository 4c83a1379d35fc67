"""Events of several nodes as one story: complete, and in order as far as nodes are quick."""

import json

from hypothesis import given
from hypothesis import strategies as st

from cluster.timeline import Message, MessageParser, Timeline
from kvnode.eventring import EventRing
from kvnode.eventstream import told_as

HOLD_S = 0.5
#: When it happened, on which node, and how late it was told.
_arrivals = st.lists(
    st.tuples(st.floats(0, 10), st.sampled_from(["a1", "a2", "a3"]), st.floats(0, HOLD_S - 0.01))
)


@given(_arrivals, st.floats(0.01, 1.0))
def test_what_arrives_in_time_goes_out_once_and_in_order(
    happened: list[tuple[float, str, float]], tick_s: float
) -> None:
    """However the nodes' events interleave."""
    arriving = sorted((at_s + late_s, at_s, node) for at_s, node, late_s in happened)
    timeline, out, now_s = Timeline(HOLD_S), [], 0.0
    while arriving or now_s < 12:
        while arriving and arriving[0][0] <= now_s:
            arrived_s, at_s, node = arriving.pop(0)
            timeline.add(arrived_s, at_s, node, "line")
        out += timeline.due(now_s)
        # A look at every arrival: an event may not be passed by one that came with it.
        now_s = min([now_s + tick_s, *(one[0] for one in arriving[:1])])
    out += timeline.rest()
    assert [(one.at_s, one.node) for one in out] == sorted(
        (at_s, node) for at_s, node, _ in happened
    )


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10))))
def test_what_arrives_late_goes_out_all_the_same(happened: list[tuple[float, float]]) -> None:
    """Once, and no later than it may be held back."""
    timeline, out = Timeline(HOLD_S), 0
    for now_s, at_s in sorted(happened):
        out += len(timeline.due(now_s))
        timeline.add(now_s, at_s, "a1", "line")
    out += len(timeline.due(10.0 + HOLD_S))
    assert (out, timeline.rest()) == (len(happened), [])


def test_events_of_one_moment_keep_their_nodes_order() -> None:
    """A log line that explains another comes before it."""
    timeline = Timeline(HOLD_S)
    for line in ("zebra", "ape"):
        timeline.add(0.0, 5.0, "a1", line)
    assert [one.line for one in timeline.rest()] == ["zebra", "ape"]


@given(st.lists(st.dictionaries(st.text(), st.text() | st.integers()), max_size=5))
def test_what_a_node_streams_is_read_as_it_was(events: list[dict[str, str | int]]) -> None:
    """Lines of JSON hold no line breaks, whatever their texts hold."""
    ring = EventRing("b00t")
    for event in events:
        ring.append(json.dumps(event))
    stream = "".join(told_as(ring.id_of(one), one.line) for one in ring.after(0, 10))
    parser = MessageParser("")
    messages = [parser.feed(line) for line in stream.split("\n")]
    read = [message.text for message in messages if message]
    assert [json.loads(text) for text in read] == events
    assert parser.last_id == (f"b00t-{len(events)}" if events else "")


def test_comments_and_kinds_are_told_apart() -> None:
    """And an event that was cut short is none; its id does not count as seen."""
    parser = MessageParser("old")
    lines = [": live", "event: missed", "data: 7", "", "id: new", "data: x"]
    assert [parser.feed(line) for line in lines] == [
        Message(":", "live"),
        None,
        None,
        Message("missed", "7"),
        None,
        None,
    ]
    assert parser.last_id == "old"
    assert parser.feed("") == Message("message", "x")
    assert parser.last_id == "new"
