"""Tallies against references that are too dumb to be wrong: recount everything at each reply."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from cluster.ids import NodeId
from kvnode.quorum import ReadTally, Verdict, WriteTally

NODES = [NodeId(f"n{i}") for i in range(4)]

#: What becomes of one request: (node, "hint" | "copy" | "lost").
write_replies = st.lists(
    st.tuples(st.sampled_from(NODES), st.sampled_from(["copy", "hint", "lost"])), max_size=7
)
read_replies = st.lists(st.sampled_from(["live", "tombstone", "absent", "unknown"]), max_size=6)


def write_verdict(required: int, asked: int, replies: list[tuple[NodeId, str]]) -> Verdict:
    """Rules 2 and 3, by recounting."""
    nodes = {node for node, reply in replies if reply != "lost"}
    if len(nodes) >= required:
        return Verdict.REACHED
    if len(nodes) + asked - len(replies) < required:
        return Verdict.LOST
    return Verdict.PENDING


def read_verdict(required: int, copies: int, askable: int, replies: list[str]) -> Verdict:
    """Rules 4 and 5, by recounting."""
    found = [reply for reply in replies if reply in ("live", "tombstone")]
    absent = replies.count("absent")
    answered = len(found) + absent
    still_open = askable - len(replies)
    if "tombstone" in found or (found and answered >= required):
        return Verdict.REACHED
    if not found and absent >= required and absent > copies / 2:
        return Verdict.REACHED
    if still_open == 0 or answered + still_open < required:
        return Verdict.LOST
    return Verdict.PENDING


def first_decision(verdicts: list[Verdict]) -> Verdict:
    """Rule 1: the first that is not PENDING stands."""
    return next((one for one in verdicts if one is not Verdict.PENDING), Verdict.PENDING)


def feed(tally: WriteTally, node: NodeId, reply: str) -> None:
    """Give a tally one reply."""
    if reply == "lost":
        tally.fail(maybe_stored=True)
    else:
        tally.acknowledge(node, hint=reply == "hint")


@given(st.integers(1, 4), write_replies)
def test_a_write_is_judged_as_by_recounting(
    required: int, replies: list[tuple[NodeId, str]]
) -> None:
    """W distinct nodes, whatever their role and however often they answer."""
    tally = WriteTally(required)
    for _ in replies:
        tally.asked()
    for count, (node, reply) in enumerate(replies, start=1):
        feed(tally, node, reply)
        assert tally.verdict is write_verdict(required, len(replies), replies[:count])
    assert tally.open_count == 0
    assert tally.unknown == [reply for _, reply in replies].count("lost")


@given(st.integers(1, 3), st.integers(1, 3), write_replies)
def test_a_write_once_decided_stays_decided(
    required: int, asked: int, replies: list[tuple[NodeId, str]]
) -> None:
    """Rule 1, for a caller that asks spares while the verdict is open, as ``Write`` does."""
    tally = WriteTally(required)
    for _ in range(asked):
        tally.asked()
    seen = [tally.verdict]
    for node, reply in replies:
        if tally.open_count == 0:
            break
        if reply == "lost" and tally.verdict is Verdict.PENDING:
            tally.asked()  # the replacement, before the loss is counted
        feed(tally, node, reply)
        seen.append(tally.verdict)
    assert all(before in (Verdict.PENDING, after) for before, after in pairwise(seen))


@given(write_replies)
def test_a_node_counts_once_and_as_what_it_was_first(replies: list[tuple[NodeId, str]]) -> None:
    """Rule 2: a coordinator that holds a replica and a hint is one disk, not two."""
    tally = WriteTally(required=3)
    roles: dict[NodeId, str] = {}
    for node, reply in replies:
        tally.asked()
        feed(tally, node, reply)
        if reply != "lost":
            roles.setdefault(node, reply)
    assert tally.acked_by == list(roles)
    assert (tally.acked, tally.hints) == (len(roles), list(roles.values()).count("hint"))


@given(st.integers(1, 3), st.integers(1, 5), read_replies)
def test_a_read_is_judged_as_by_recounting(required: int, copies: int, replies: list[str]) -> None:
    """Found, absent, unknown and deleted, in any order, up to the first decision."""
    askable = max(len(replies), required)
    tally = ReadTally(required, copies, askable)
    references = [read_verdict(required, copies, askable, [])]
    assert tally.verdict is references[0]
    for count, reply in enumerate(replies, start=1):
        if reply in ("live", "tombstone"):
            tally.find(tombstone=reply == "tombstone")
        elif reply == "absent":
            tally.miss()
        else:
            tally.fail()
        references.append(read_verdict(required, copies, askable, replies[:count]))
        assert tally.verdict is first_decision(references)


@given(st.integers(1, 3), read_replies)
def test_a_read_is_decided_when_all_have_answered(required: int, replies: list[str]) -> None:
    """A caller may wait for exactly as many replies as there are; none is left hanging."""
    tally = ReadTally(required, 3, len(replies))
    for reply in replies:
        if reply in ("live", "tombstone"):
            tally.find(tombstone=reply == "tombstone")
        elif reply == "absent":
            tally.miss()
        else:
            tally.fail()
    assert tally.verdict is not Verdict.PENDING


@given(st.integers(1, 5), st.integers(1, 5))
def test_absence_needs_a_majority_of_the_owners_however_small_r_is(
    required: int, copies: int
) -> None:
    """Rule 4: one lagging replica's "nothing here" is never a 404."""
    tally = ReadTally(required, copies, copies + required)
    missed = 0
    while tally.verdict is Verdict.PENDING:
        tally.miss()
        missed += 1
    assert tally.verdict is Verdict.REACHED
    assert missed == max(required, copies // 2 + 1)


def test_a_tombstone_settles_a_read_that_needs_all() -> None:
    """Rule 5: nothing that the other two hold can undo it."""
    tally = ReadTally(required=3, copies=3, askable=3)
    tally.find(tombstone=True)
    assert tally.verdict is Verdict.REACHED


def test_a_tombstone_that_comes_after_a_read_was_lost_changes_nothing() -> None:
    """Regression: rule 1 goes before rule 5, for the caller has been answered."""
    tally = ReadTally(required=3, copies=3, askable=3)
    tally.fail()
    assert tally.verdict is Verdict.LOST
    tally.find(tombstone=True)
    assert tally.verdict is Verdict.LOST
