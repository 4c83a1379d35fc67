"""Gossip: knowledge joins, suspicions are refuted, and silence is noticed by all."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.ids import NodeId
from cluster.membership import (
    DEAD_INTERVALS,
    MEMBERS_MAX,
    PEERS_PER_ROUND,
    Member,
    MemberChanged,
    Membership,
    Status,
    choose_peers,
    digest_from_wire,
    news_from_wire,
    to_wire,
)

A, B, C, D = (NodeId(name) for name in "abcd")
ALIVE, SUSPECT, DEAD = Status

peers = st.sampled_from([B, C, D])
# Narrow ranges on purpose: ties and near-ties are where merges go wrong. A ring's epoch changes
# with the heartbeat only, so here it is the heartbeat.
rows = st.builds(
    lambda node, incarnation, heartbeat, status: Member(
        node, incarnation, heartbeat, status, heartbeat
    ),
    peers,
    st.integers(0, 3),
    st.integers(0, 3),
    st.sampled_from(Status),
)
news_of_peers = st.lists(rows, max_size=8)


def member(node: NodeId, names: str = "abcd", *, now_s: float = 0.0, boots: int = 1) -> Membership:
    """What a node of a small cluster knows when it starts."""
    return Membership(node, boots, map(NodeId, names), interval_s=1.0, now_s=now_s)


def exchange(a: Membership, b: Membership, now_s: float) -> list[MemberChanged]:
    """One complete exchange, begun by ``a``; what it changed on both sides."""
    changes = a.receive(b.news_for(a.digest()), now_s)
    return changes + b.receive(a.news_for(b.digest()), now_s)


def status(of: NodeId, at: Membership) -> Status:
    """What one node believes of another."""
    return next(known.status for known in at.members() if known.node == of)


def silence(listener: Membership, start_s: float, seconds: float) -> list[MemberChanged]:
    """Let a listener judge once a second and hear nothing."""
    return [
        change
        for second in range(1, int(seconds) + 1)
        for change in listener.judge(start_s + second)
    ]


@given(news_of_peers, st.randoms(use_true_random=False))
def test_knowledge_does_not_depend_on_the_order_of_news(news: list[Member], random: Random) -> None:
    """Late, doubled, reordered and regrouped messages end in the same knowledge."""
    at_once, piecemeal = member(A), member(A)
    at_once.receive(news, 1.0)

    redelivered = news + random.choices(news or [Member(B, 0, 0, ALIVE, 0)], k=3)
    random.shuffle(redelivered)
    for row in redelivered:
        piecemeal.receive([row], 1.0)

    assert piecemeal.members() == at_once.members()
    assert piecemeal.up == at_once.up


@given(news_of_peers, rows)
def test_knowledge_only_grows(news: list[Member], row: Member) -> None:
    """Nothing that arrives makes a node forget: versions never go back."""
    knower = member(A)
    knower.receive(news, 1.0)
    before = {known.node: known.order() for known in knower.members()}
    knower.receive([row], 2.0)
    assert all(known.order() >= before[known.node] for known in knower.members())


@given(news_of_peers, news_of_peers)
def test_after_one_exchange_both_know_the_same(left: list[Member], right: list[Member]) -> None:
    """Two messages there and one back are enough, whatever each knew alone."""
    a, b = member(A), member(B)
    a.receive([row for row in left if row.node != B], 1.0)
    b.receive([row for row in right if row.node != B], 1.0)

    exchange(a, b, 2.0)

    assert a.members() == b.members()
    assert a.news_for(b.digest()) == ()


@given(news_of_peers)
def test_news_is_exactly_what_the_other_lacks(news: list[Member]) -> None:
    """A quiet cluster sends digests and no news."""
    knower, stranger = member(A), member(A)
    knower.receive(news, 1.0)
    missing = knower.news_for(stranger.digest())
    assert missing == tuple(
        known
        for known, old in zip(knower.members(), stranger.members(), strict=True)
        if known != old
    )
    assert knower.news_for(knower.digest()) == ()
    assert knower.news_for(()) == knower.members()


@settings(deadline=None)
@given(st.integers(2, 5), st.randoms(use_true_random=False), st.lists(st.integers(0, 9)))
def test_a_cluster_converges_from_any_confusion(
    size: int, random: Random, steps: list[int]
) -> None:
    """Lost legs, restarts, and hours in which some judged and others slept: then all is well."""
    names = "abcde"[:size]
    nodes = [member(NodeId(name), names) for name in names]
    now_s = 0.0
    for step in steps:
        a, b = random.sample(nodes, 2)
        now_s += random.choice([0.1, 1.0, 1.0, 30.0])
        a.beat(1)
        if step < 6:
            b.receive(a.news_for(b.digest()), now_s)  # the other leg is lost
        elif step < 9:
            for second in range(random.choice([1, 10, 60])):
                a.judge(now_s + second)
            now_s += 60
        else:
            at = nodes.index(b)
            nodes[at] = member(b.node, names, now_s=now_s, boots=b.own().incarnation + 1)

    for _ in range(2):  # one round to refute, one to tell
        for a in nodes:
            for b in nodes:
                exchange(a, b, now_s)

    assert all(node.members() == nodes[0].members() for node in nodes)
    assert all(known.status is ALIVE for known in nodes[0].members())
    assert all(node.up == frozenset(map(NodeId, names)) for node in nodes)


def test_a_silent_peer_is_suspected_then_dead() -> None:
    """Each verdict once, with the length of the silence for the log."""
    a, b = member(A, "ab"), member(B, "ab")
    for second in range(10):
        b.beat(1)
        exchange(a, b, float(second))
        assert a.judge(float(second)) == []

    changes = silence(a, 9.0, 60)

    assert changes == [
        MemberChanged(B, ALIVE, SUSPECT, 4.0),
        MemberChanged(B, SUSPECT, DEAD, DEAD_INTERVALS),
    ]
    assert a.up == {A}


def test_a_heartbeat_brings_a_dead_member_back() -> None:
    """Nobody has to decide it: a newer heartbeat beats any verdict about an older one."""
    a, b = member(A, "ab"), member(B, "ab")
    exchange(a, b, 0.0)
    silence(a, 0.0, 60)

    b.beat(1)

    assert a.receive(b.news_for(a.digest()), 61.5) == [MemberChanged(B, DEAD, ALIVE, 61.5)]
    assert a.up == {A, B}


@pytest.mark.parametrize("verdict", [SUSPECT, DEAD])
def test_a_member_refutes_a_doubt_about_itself_at_once(verdict: Status) -> None:
    """Without waiting for its next beat: every second in doubt makes hints of its writes."""
    a, b = member(A, "ab"), member(B, "ab")
    b.beat(1)
    exchange(a, b, 0.0)
    silence(a, 0.0, 10 if verdict is SUSPECT else 60)
    assert status(B, a) is verdict

    exchange(a, b, 61.0)
    assert (b.own().status, b.own().heartbeat) == (ALIVE, 2)

    exchange(a, b, 61.1)
    assert status(B, a) is ALIVE


def test_a_doubt_spreads_to_those_who_know_nothing_newer() -> None:
    """One node's detector is enough; the others need not wait for theirs."""
    a, b, c = (member(node, "abc") for node in (A, B, C))
    exchange(b, a, 0.0)
    exchange(b, c, 0.0)
    silence(a, 0.0, 10)

    changes = exchange(a, c, 1.0)

    assert MemberChanged(B, ALIVE, SUSPECT, 1.0) in changes
    assert status(B, c) is SUSPECT


def test_a_node_that_was_cut_off_harms_nobody_when_it_is_back() -> None:
    """It took all others for dead, but they have beaten since: its verdicts are about the past."""
    a, b, c = nodes = [member(node, "abc") for node in (A, B, C)]
    for x in nodes:
        for y in nodes:
            exchange(x, y, 0.0)
    for second in range(1, 61):
        c.judge(float(second))
        for x in (a, b):
            x.beat(1)
        exchange(a, b, float(second))
    assert (status(A, c), status(B, c)) == (DEAD, DEAD)

    changes = a.receive(c.news_for(a.digest()), 61.0) + b.receive(c.news_for(b.digest()), 61.0)

    assert changes == []
    exchange(c, a, 61.0)
    assert c.up == {A, B, C}


def test_a_restart_outbids_the_life_before() -> None:
    """Its heartbeat begins at 0 again, and the incarnation is what makes it news."""
    a, b = member(A, "ab"), member(B, "ab")
    for _ in range(1000):
        b.beat(1)
    exchange(a, b, 0.0)
    silence(a, 0.0, 60)

    restarted = member(B, "ab", now_s=60.0, boots=2)
    exchange(restarted, a, 61.0)

    assert restarted.own() == Member(B, 2, 0, ALIVE, 0)
    assert restarted.own() in a.members()


def test_a_node_that_lost_its_boot_counter_is_still_believed() -> None:
    """An old copy of its directory boots as a life that peers know as past; it outbids that."""
    a, b = member(A, "ab"), member(B, "ab", boots=7)
    b.beat(1)
    exchange(a, b, 0.0)
    silence(a, 0.0, 60)

    old_copy = member(B, "ab", now_s=60.0, boots=3)
    exchange(old_copy, a, 61.0)

    assert (old_copy.own().incarnation, old_copy.own().heartbeat) == (7, 2)
    assert status(B, a) is ALIVE


def test_a_judge_that_slept_judges_nobody() -> None:
    """A paused process wakes to old clocks: it was the one that was away."""
    a = member(A)
    for second in range(5):
        for peer in (B, C, D):
            a.receive([Member(peer, 1, second, ALIVE, 1)], float(second))
        assert a.judge(float(second)) == []

    assert a.judge(604.0) == []
    assert a.judge(605.0) == []
    assert len(silence(a, 605.0, 5)) == 3  # but the silence goes on from where it was


def test_news_of_strangers_and_of_oneself_change_nobody_else() -> None:
    """The cluster file says who is a member; and only a member speaks for itself."""
    a = member(A, "ab")
    a.receive([Member(C, 1, 1, ALIVE, 1), Member(A, 1, 0, ALIVE, 9)], 1.0)
    assert [known.node for known in a.members()] == [A, B]
    assert a.own() == Member(A, 1, 0, ALIVE, 0)


def test_the_ring_epoch_travels_with_the_heartbeat() -> None:
    """So every node learns who has a newer ring, from whoever it talks to."""
    a, b, c = (member(node, "abc") for node in (A, B, C))
    b.beat(5)
    exchange(a, b, 1.0)
    exchange(a, c, 1.0)
    assert {known.node: known.ring_epoch for known in c.members()} == {A: 0, B: 5, C: 0}


@given(news_of_peers)
def test_rows_survive_the_wire(news: list[Member]) -> None:
    """Digests and news, as plain lists."""
    knower = member(A)
    knower.receive(news, 1.0)
    as_lists = [list(row) for row in to_wire(knower.members())]
    assert news_from_wire(as_lists) == knower.members()
    assert digest_from_wire([list(row) for row in to_wire(knower.digest())]) == knower.digest()


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.binary(max_size=3)
)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner)
)
almost_rows = st.lists(
    st.tuples(st.sampled_from(["a", "", 1]), *[st.integers(-1, 3) | scalars] * 4).map(list)
)


@given(anything | almost_rows)
def test_garbage_is_refused_with_a_value_error(raw: object) -> None:
    """Whatever a broken peer sends, nothing else comes out than rows or that one error."""
    for decode in (news_from_wire, digest_from_wire):
        try:
            decoded = decode(raw)
        except ValueError:
            continue
        assert [list(row) for row in to_wire(decoded)] == raw


@pytest.mark.parametrize(
    "row",
    [
        ["a", 1, 2, 0],  # too short
        ["a", 1, 2, 0, 1, 1],  # too long
        ["a", 1, 2, 3, 1],  # no such status
        ["a", -1, 2, 0, 1],
        ["a", 1 << 62, 2, 0, 1],  # would not fit into 64 bits for long
        ["a", True, 2, 0, 1],
        ["a", 1.0, 2, 0, 1],
        ["", 1, 2, 0, 1],
        ["a" * 65, 1, 2, 0, 1],
        [b"a", 1, 2, 0, 1],
        {"node": "a", "incarnation": 1, "heartbeat": 2, "status": 0, "ring_epoch": 1},
    ],
)
def test_a_row_out_of_bounds_is_refused(row: object) -> None:
    """Each field has a type and a range."""
    assert news_from_wire([["a", 1, 2, 0, 1]]) == (Member(A, 1, 2, ALIVE, 1),)
    with pytest.raises(ValueError, match=r"\$\[0\]"):
        news_from_wire([row])


def test_a_message_of_too_many_rows_is_refused() -> None:
    """A bound on memory and time, far above any cluster."""
    rows = [["a", 1, 1, 0, 1]] * MEMBERS_MAX
    assert len(news_from_wire(rows)) == MEMBERS_MAX
    with pytest.raises(ValueError, match="length"):
        news_from_wire([*rows, rows[0]])


def peers_with(alive: int, doubted: int) -> list[Member]:
    """Members to choose from."""
    return [Member(NodeId(f"n{i:02}"), 1, 0, ALIVE, 1) for i in range(alive)] + [
        Member(NodeId(f"x{i:02}"), 1, 0, Status(1 + i % 2), 1) for i in range(doubted)
    ]


@given(st.integers(0, 30), st.integers(0, 30), st.floats(0, 1, exclude_max=True))
def test_a_round_goes_to_distinct_peers_and_at_most_one_doubted(
    alive: int, doubted: int, random: float
) -> None:
    """For every number of them, and every random number."""
    chosen = choose_peers(peers_with(alive, doubted), random)
    assert len(set(chosen)) == len(chosen)
    assert sum(node.startswith("n") for node in chosen) == min(PEERS_PER_ROUND, alive)
    assert sum(node.startswith("x") for node in chosen) <= 1


def test_peers_are_chosen_evenly() -> None:
    """Neither a live one nor a doubted one is left out."""
    random = Random(5)
    chosen = Counter(
        node for _ in range(6_000) for node in choose_peers(peers_with(9, 5), random.random())
    )
    assert all(1_800 < chosen[NodeId(f"n{i:02}")] < 2_200 for i in range(9))  # 3 of 9
    assert all(500 < chosen[NodeId(f"x{i:02}")] < 700 for i in range(5))  # 1 of 10


def test_a_node_that_doubts_all_others_still_speaks_to_one() -> None:
    """Or the two halves of a healed cluster would stay apart for ever."""
    random = Random(5)
    assert all(len(choose_peers(peers_with(0, 4), random.random())) == 1 for _ in range(100))
    assert choose_peers([], 0.5) == ()
