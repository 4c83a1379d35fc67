"""Asking several nodes for the same, one after the other, until one answers.

An answer that says how the request went, also that it failed, ends the search; only a node that
can't be reached, stays silent, has too much to do or is no member is passed over. So only what may
be carried out more than once is asked like this.
"""

import asyncio
from collections.abc import Iterable
from typing import Final, NamedTuple, Protocol

from cluster.ids import NodeId
from kvnode.errors import NotMember
from kvnode.ports import Clock
from kvnode.rpc.connection import Lost, OnOutcome, Outcome, settle
from kvnode.rpc.operations import Fields, Op

#: A request that is given up at one node leaves the rest of what remains for the next ones.
_TRY_SHARE: Final = 0.6
_PASSED_OVER: Final = ("unreachable", "timeout", "overloaded", NotMember.passed_on_as)


class Peers(Protocol):
    """Other nodes: ``kvnode.rpc.transport.Transport``, or what takes notes around it."""

    def connected(self, node: NodeId) -> bool:
        """Whether requests to ``node`` can be sent now."""

    def request(
        self,
        node: NodeId,
        op: Op,
        deadline_s: float,
        fields: Fields,
        size_bytes: int,
        on_outcome: OnOutcome,
    ) -> None:
        """See ``kvnode.rpc.connection.Connection.request``."""


class Answer(NamedTuple):
    """What became of a request."""

    #: The first answer; if nobody gave one, what the last node that was asked is lost to.
    outcome: Outcome
    #: Whether a node that was passed over may have carried it out.
    maybe_applied: bool

    @property
    def is_silence(self) -> bool:
        """Whether nobody gave an answer."""
        return isinstance(self.outcome, Lost) and self.outcome.code in _PASSED_OVER


async def ask_in_turn(
    peers: Peers,
    clock: Clock,
    nodes: Iterable[NodeId],
    op: Op,
    deadline_s: float,
    fields: Fields,
    size_bytes: int,
) -> Answer:
    """Ask them; each is given a share of the time that is left."""
    loop = asyncio.get_running_loop()
    lost = Lost("unreachable", "no node of it can be reached", sent=False)
    maybe_applied = False
    for node in nodes:
        now_s = clock.monotonic_s()
        if now_s >= deadline_s:
            break
        until_s = now_s + (deadline_s - now_s) * _TRY_SHARE
        outcome: asyncio.Future[Outcome] = loop.create_future()
        peers.request(node, op, until_s, fields, size_bytes, settle(outcome))
        found = await outcome
        if not isinstance(found, Lost) or found.code not in _PASSED_OVER:
            return Answer(found, maybe_applied)
        maybe_applied = maybe_applied or found.sent
        lost = found
    return Answer(lost, maybe_applied)
