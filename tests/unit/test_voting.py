"""At most one body is ever elected for a key, whoever asks, and whatever gets lost."""

import asyncio
from collections.abc import Callable, Iterator
from itertools import combinations, permutations, product
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.ids import NodeId
from cluster.ring import Ring
from kvnode.codec import encode
from kvnode.coordinator import Coordinator
from kvnode.errors import KeyReused, Overloaded, Unavailable
from kvnode.record import Create, Record
from kvnode.results import Counts
from kvnode.rpc.connection import Lost, OnOutcome
from kvnode.sweep import DeadlineSweep
from kvnode.system import SystemClock
from kvnode.voting import Claim, Election, judge

BODIES = [b"a" * 16, b"b" * 16, b"c" * 16]
ID = bytes(16)

elections = st.lists(st.sampled_from(BODIES), min_size=1, max_size=7)


@given(elections, st.data())
def test_no_two_bodies_win_whoever_has_seen_which_votes(
    votes: list[bytes], data: st.DataObject
) -> None:
    """Rule 3 and the majority must never name different winners, for no two subsets of votes."""
    winners = set()
    for body in BODIES:
        seen = data.draw(st.lists(st.sampled_from(range(len(votes))), unique=True))
        if judge(body, [votes[voter] for voter in seen], len(votes)) is Claim.WON:
            winners.add(body)
    assert len(winners) <= 1


@given(elections, st.randoms(use_true_random=False))
def test_all_who_have_seen_every_vote_agree_on_one_winner(votes: list[bytes], rng: Any) -> None:
    """In whatever order the votes came; a body that nobody voted for has lost."""
    arrived = votes[:]
    rng.shuffle(arrived)
    claims = [judge(body, arrived, len(votes)) for body in BODIES]
    assert claims == [judge(body, votes, len(votes)) for body in BODIES]
    assert claims.count(Claim.WON) == 1
    assert claims.count(Claim.OPEN) == 0
    assert BODIES[claims.index(Claim.WON)] in votes


@given(elections, st.sampled_from(BODIES))
def test_a_decision_stands_while_more_votes_come_in(votes: list[bytes], body: bytes) -> None:
    """A coordinator may act on the first decision."""
    claims = [judge(body, votes[:seen], len(votes)) for seen in range(len(votes) + 1)]
    decided = [claim for claim in claims if claim is not Claim.OPEN]
    assert len(set(decided)) == 1
    assert claims == [Claim.OPEN] * (len(claims) - len(decided)) + decided


def test_two_coordinators_and_three_voters_in_every_interleaving() -> None:
    """The whole protocol, exhaustively: every order of arrival, every answer that may be lost.

    A voter votes for the first body that it is asked about. A coordinator may stop listening
    anywhere, which covers lost requests, lost answers and deadlines alike.
    """
    elected = set()
    for first_asked_by in product((0, 1), repeat=3):
        votes = [BODIES[coordinator] for coordinator in first_asked_by]
        won: list[set[bool]] = [set(), set()]
        for coordinator in (0, 1):
            for heard in orders_of_arrival(3):
                claim = judge(BODIES[coordinator], [votes[voter] for voter in heard], 3)
                won[coordinator].add(claim is Claim.WON)
        assert not (True in won[0] and True in won[1])
        elected.add((True in won[0], True in won[1]))
    assert elected == {(True, False), (False, True)}


def orders_of_arrival(voters: int) -> Iterator[tuple[int, ...]]:
    """Every sequence of distinct voters, from none to all."""
    for count in range(voters + 1):
        for some in combinations(range(voters), count):
            yield from permutations(some)


class Voters:
    """The primaries of one key, as an Election's coordinator shows them; no network between."""

    def __init__(self, loop: asyncio.AbstractEventLoop, body: Record | None = None) -> None:
        self.loop = loop
        self.node = NodeId("a1")
        self.sweep = DeadlineSweep(loop, SystemClock(), 0.001)
        self.counts = Counts()
        self.replica = SimpleNamespace(vote=self._vote)
        self.own_error: Exception | None = None
        self.waiting: list[OnOutcome] = []
        self._own: Callable[[bytes, bytes | None], None] | None = None

    def request(self, _node: NodeId, _op: object, *rest: Any) -> None:
        """A vote of another primary, which a test answers through ``waiting``."""
        self.waiting.append(rest[-1])

    def _vote(self, _id: bytes, _body: bytes, done: Callable[[bytes, bytes | None], None]) -> None:
        if self.own_error is not None:
            raise self.own_error
        self.waiting.append(lambda outcome: done(*cast("list[Any]", outcome)))


RING = Ring(1, 1, 3, ((NodeId("a1"), NodeId("a2"), NodeId("a3")),))


def election(voters: Voters, *, deadline_s: float = 60.0) -> Election:
    """One coordinator's round for the first body."""
    started = Election(
        cast("Coordinator", voters), ID, BODIES[0], RING, voters.loop.time() + deadline_s
    )
    started.start()
    return started


LOST = Lost("unreachable", "", sent=False)


async def test_a_majority_elects_before_the_last_vote_is_in() -> None:
    """The slowest replica is not waited for."""
    voters = Voters(asyncio.get_running_loop())
    running = election(voters)
    voters.waiting[0]([BODIES[0], None])
    assert not running.answer.done()
    voters.waiting[2]([BODIES[0], None])
    assert await running.answer is None
    assert len(voters.sweep) == 1
    voters.waiting[1](LOST)
    assert len(voters.sweep) == 0, "nothing more can come, so nothing is watched"


async def test_another_body_with_a_majority_is_a_conflict() -> None:
    """422, and counted: one key met two bodies."""
    voters = Voters(asyncio.get_running_loop())
    running = election(voters)
    for answer in voters.waiting[:2]:
        answer([BODIES[1], None])
    with pytest.raises(KeyReused):
        await running.answer
    assert voters.counts.key_conflicts == 1


async def test_a_record_that_a_replica_holds_ends_the_election() -> None:
    """It was elected before: its body is the key's, whatever the other votes are."""
    held = Record(Create(b"x", 1, 0, b"c" * 32, BODIES[1]))
    voters = Voters(asyncio.get_running_loop())
    running = election(voters)
    voters.waiting[1]([BODIES[1], encode(ID, held)])
    assert await running.answer == held


async def test_a_vote_with_a_damaged_record_does_not_count() -> None:
    """The replica may have forgotten more than the record."""
    voters = Voters(asyncio.get_running_loop())
    running = election(voters)
    voters.waiting[0]([BODIES[0], None])
    voters.waiting[1]([BODIES[0], b"damaged"])
    assert not running.answer.done()
    voters.waiting[2](LOST)
    with pytest.raises(Unavailable, match="1 of 3 replicas voted"):
        await running.answer


async def test_two_votes_for_two_bodies_and_a_silent_third_leave_the_election_open() -> None:
    """The third may decide either way: nothing may be stored, and the client may repeat."""
    voters = Voters(asyncio.get_running_loop())
    running = election(voters, deadline_s=0.0)
    voters.waiting[0]([BODIES[0], None])
    voters.waiting[1]([BODIES[1], None])
    with pytest.raises(Unavailable, match="no answer in time") as caught:
        await running.answer
    assert (caught.value.acked, caught.value.required) == (2, 2)
    assert caught.value.outcome == "not_applied"
    voters.waiting[2]([BODIES[0], None])  # too late: the answer stands


async def test_a_coordinator_that_cannot_vote_itself_asks_the_others() -> None:
    """Its disk is behind; two of three are a majority all the same."""
    voters = Voters(asyncio.get_running_loop())
    voters.own_error = Overloaded("the disk does not keep up")
    running = election(voters)
    for answer in voters.waiting:
        answer([BODIES[0], None])
    assert await running.answer is None


async def test_the_outcome_never_arrives_while_the_votes_are_being_asked_for() -> None:
    """A refusal of the own replica must not overtake the requests that are yet to be sent."""
    voters = Voters(asyncio.get_running_loop())
    voters.own_error = Overloaded("the disk does not keep up")
    running = election(voters)
    assert not running.answer.done()
    assert len(voters.waiting) == 2
    for answer in voters.waiting:
        answer(LOST)
    with pytest.raises(Unavailable):
        await running.answer
