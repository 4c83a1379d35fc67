"""What a node does when an operator says that a region is gone, or that it is back.

Rules
-----
1. Two nodes talk with each other only while each has been told the same word (``kvnode.standing``)
   of both their regions, on this very connection, and neither region is gone. Whoever hears of
   another word ends the connections to those who have not: nothing that was under way from before
   is believed after.
2. The first thing that a node says on a connection, talking or not, is which words it knows, and
   whenever one rises it tells all at once. So whatever else it says was preceded by the words under
   which that became true; a purge that went on without a region is never heard of before the word.
3. A node of a region whose word has risen fences all that it holds, in the same batch: others may
   have purged without it. It serves nothing while its region is gone; when it is back it is rebuilt
   from another region like any fenced node (``kvnode.services.rebuild``).
4. For a region that is gone nothing is kept (``kvnode.outbox``). To one that is back everything is
   owed.
5. Nobody purges without a region before all other nodes know its word (``agrees``): one that does
   not may still take a copy from there that others have purged.

If the word was wrong, and the region lives and serves clients, no copy of it comes back to life:
until its nodes hear the word none of the others talks with them, and from then on they are fenced.
"""

from collections.abc import Callable, Mapping
from typing import Final

from cluster.ids import NodeId
from cluster.layout import Rings
from kvnode.errors import Refused
from kvnode.log import Log
from kvnode.ports import Clock
from kvnode.replica import Replica
from kvnode.rpc.operations import Fields, Op
from kvnode.rpc.transport import Transport
from kvnode.standing import WORD_MAX, is_gone

_TELL_WITHIN_S: Final = 5.0


class Partings:
    """Of one node.

    Args:
        fence: Rule 3.
    """

    def __init__(
        self,
        replica: Replica,
        rings: Rings,
        node: NodeId,
        *,
        fence: Callable[[], None],
        transport: Transport,
        clock: Clock,
        log: Log,
    ) -> None:
        self._replica = replica
        self._standing = replica.standing
        self._outbox = replica.outbox
        self._rings = rings
        self._node = node
        self._fence = fence
        self._transport = transport
        self._clock = clock
        self._log = log
        #: What each linked peer has told.
        self._told: dict[NodeId, Mapping[str, int]] = {}

    # Peers --------------------------------------------------------------------------------------

    def linked(self, peer: NodeId) -> None:
        """There is a new connection to a peer; see rule 2."""
        self._told.pop(peer, None)
        if self._standing.words:
            self._tell(peer)

    def heard(self, peer: NodeId, rows: Fields) -> None:
        """A peer has told its words. Raises ValueError or TypeError for what is none."""
        told: dict[str, int] = {}
        for region, word in rows:
            if region not in self._rings.by_region:
                raise ValueError("no such region")
            if not (isinstance(word, int) and 0 < word <= WORD_MAX):
                raise ValueError("not a region's word")
            told[region] = word
        self._told[peer] = told
        self._take(told, source=peer)
        self._transport.review()

    def may_talk(self, peer: NodeId) -> bool:
        """Rule 1."""
        told = self._told.get(peer, {})
        regions = (self._standing.own, self._rings.region_of[peer])
        return all(
            told.get(region, 0) == self._standing.word(region)
            and not self._standing.is_gone(region)
            for region in regions
        )

    def hears(self, asker: str) -> bool:
        """As ``may_talk``, also of a client."""
        peer = NodeId(asker)
        return peer not in self._rings.region_of or self.may_talk(peer)

    def agrees(self, peer: NodeId) -> bool:
        """Whether a peer knows the same words of all regions as this node."""
        return self._told.get(peer, {}) == self._standing.words

    @property
    def unaware(self) -> list[NodeId]:
        """The nodes of regions that take part which are not known to know the same words."""
        return [
            peer
            for region in (self._standing.own, *self._standing.others)
            for peer in self._rings.nodes_of(region)
            if peer != self._node and not self.agrees(peer)
        ]

    # Operators ----------------------------------------------------------------------------------

    def say(self, region: str, *, gone: bool) -> None:
        """An operator's word; to say what is known already changes nothing.

        Raises:
            Refused: there is no such region, or this is not the node to tell.
        """
        standing = self._standing
        if region not in self._rings.by_region:
            known = ", ".join(self._rings.by_region)
            raise Refused(f"there is no region {region}; there are {known}")
        if gone and region == standing.own:
            raise Refused(f"{self._node} is in region {region} itself: tell a node of another one")
        if gone and standing.is_own_gone:
            raise Refused(f"{self._node} is in region {standing.own}, which is gone itself")
        if standing.is_gone(region) != gone:
            self._take({region: standing.word(region) + 1}, source=None)
            self._transport.review()

    # inside

    def _take(self, words: Mapping[str, int], *, source: NodeId | None) -> None:
        risen = self._standing.take(words)
        for region in risen:
            if region == self._standing.own:
                self._fence()
            elif self._standing.is_gone(region):
                self._outbox.leave_out(region)
            else:
                self._outbox.take_back(region)
            word = self._standing.word(region)
            event = "region.gone" if is_gone(word) else "region.back"
            self._log.warning(event, region=region, word=word, source=source or "an operator")
        if risen:
            self._tell()

    def _tell(self, only: NodeId | None = None) -> None:
        words = [[region, word] for region, word in sorted(self._standing.words.items())]
        deadline_s = self._clock.monotonic_s() + _TELL_WITHIN_S
        self._transport.tell(Op.STANDING, [words], deadline_s, only=only)
