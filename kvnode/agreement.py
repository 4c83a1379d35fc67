"""One node's part in agreeing on a purge floor; the rules are ``kvnode.services.purge``'s."""

from collections.abc import Sequence
from functools import reduce
from operator import xor

import msgspec

from cluster.layout import Rings
from kvnode.ending import Family
from kvnode.hashtree import Bucket
from kvnode.replica import Replica
from kvnode.rpc.operations import Fields

_PAGE = 1000


class Proposal(msgspec.Struct, frozen=True):
    """A floor, and what the proposer holds below it."""

    partition: int
    #: The proposer's floor so far.
    after: int
    #: The floor proposed.
    bucket: int
    digest: int
    #: When the latest deletion below the floor was made.
    newest_deleted_ms: int

    def to_wire(self) -> Fields:
        """The fields of PROMISE."""
        return [self.partition, self.after, self.bucket, self.digest, self.newest_deleted_ms]


class Agreement:
    """Proposes and promises for one replica."""

    def __init__(self, replica: Replica, rings: Rings) -> None:
        self._replica = replica
        self._rings = rings
        self._lifecycle = replica.lifecycle

    def layouts(self) -> list[list[object]] | None:
        """Which layouts the regions that take part have; None while one of them is changed."""
        standing = self._replica.standing
        taking_part = (standing.own, *standing.others)
        layouts = [list(one) for one in self._rings.versions if one[0] in taking_part]
        return layouts if self.knows(layouts) else None

    def knows(self, layouts: Sequence[Sequence[object]]) -> bool:
        """Whether these are what this node knows, and no change is under way in them."""
        versions = list(map(list, self._rings.versions))
        return all(
            list(one) in versions and self._rings.layouts[str(one[0])].is_stable for one in layouts
        )

    def propose(self, partition: int) -> Proposal | None:
        """The floor that is due; None while nothing is."""
        due = self._lifecycle.first_kept()
        oldest = self._replica.records.forest.oldest(Family.DELETED, partition)
        floor = self._lifecycle.floor(partition)
        if oldest is None or not floor.bucket <= oldest < due:
            return None
        return Proposal(
            partition,
            floor.bucket,
            due,
            self._digest(partition, floor.bucket, due),
            self._newest_deleted_ms(partition, floor.bucket, due),
        )

    def own_veto(self, proposal: Proposal) -> str | None:
        """Why this node, an owner, can't agree; None if it can. To be promised at once then."""
        partition = proposal.partition
        floor = self._lifecycle.floor(partition)
        if floor.fenced:
            return "fenced"
        if floor.bucket != proposal.after:
            return "floor"
        if proposal.digest != self._digest(partition, floor.bucket, proposal.bucket):
            return "differs"
        return self.holder_veto(proposal)

    def holder_veto(self, proposal: Proposal) -> str | None:
        """Why a node that is no owner can't agree: it may keep the deleted for others."""
        if self._replica.hint_store.holds_in(proposal.partition):
            return "hints"
        outbox = self._replica.outbox
        newest_ms = proposal.newest_deleted_ms + self._lifecycle.skew_ms
        shipped = all(outbox.watermark_ms(region) > newest_ms for region in outbox.regions)
        return None if shipped else "outbox"

    def promise(self, proposal: Proposal) -> str | None:
        """Agree, if nothing speaks against it; the answer waits until that is durable."""
        if proposal.bucket > self._lifecycle.first_compared_expiring():
            return "clock"  # its end has not passed here, however wrong clocks may be
        veto = self.own_veto(proposal)
        if veto is None:
            floor = self._lifecycle.floor(proposal.partition)
            self._replica.set_floor(proposal.partition, floor.promise(proposal.bucket))
        return veto

    def conclude(self, proposal: Proposal) -> None:
        """All have promised."""
        floor = self._lifecycle.floor(proposal.partition)
        self._replica.set_floor(
            proposal.partition, floor.advance(proposal.bucket, proposal.newest_deleted_ms)
        )

    def _digest(self, partition: int, after: int, bucket: int) -> int:
        buckets = self._replica.records.forest.buckets(Family.DELETED, partition, after)
        return reduce(xor, (digest for number, digest in buckets if number < bucket), 0)

    def _newest_deleted_ms(self, partition: int, after: int, bucket: int) -> int:
        newest_ms = 0
        for number, _ in self._replica.records.forest.buckets(Family.DELETED, partition, after):
            if number >= bucket:
                break
            last = b""
            place = Bucket(Family.DELETED, partition, number)
            while page := self._replica.records.in_bucket(place, last, _PAGE):
                newest_ms = max([newest_ms, *(deleted_ms for _, deleted_ms in page)])
                last = page[-1][0]
        return newest_ms
