"""All background work of a node, put together: one place to see what runs beside requests.

Gossip, the disk's guard and placement are not here: requests depend on them.
"""

from collections.abc import Callable, Sequence
from typing import Final

from cluster.ids import NodeId, PartitionId
from cluster.ring import Ring
from cluster.settings import ClusterSettings
from kvnode.jobs import Jobs
from kvnode.log import Log
from kvnode.merging import MergeSender
from kvnode.ports import Clock, Entropy
from kvnode.replica import Replica
from kvnode.rpc.transport import Transport
from kvnode.services.antientropy import AntiEntropy
from kvnode.services.asking import Asker, CoOwners
from kvnode.services.budget import Budget
from kvnode.services.handoff import Handoff
from kvnode.services.indexing import Indexing
from kvnode.services.inquiry import Inquiry
from kvnode.services.loop import Service
from kvnode.services.purge import Purge
from kvnode.services.rebuild import Rebuild
from kvnode.services.reclaim import Reclaim
from kvnode.services.scrub import Scrub
from kvnode.services.sweep import Sweep
from kvnode.services.verify import Verify

HANDOFF_INTERVAL_S: Final = 0.5


class Background:
    """The services, by name.

    Args:
        nodes: All of the region.
        is_up: Whether requests to a node have a chance now.
        is_absent: Whether a node was silent for longer than tombstones are kept.
    """

    def __init__(
        self,
        settings: ClusterSettings,
        node: NodeId,
        nodes: list[NodeId],
        ring: Ring,
        *,
        replica: Replica,
        transport: Transport,
        merges: MergeSender,
        is_up: Callable[[NodeId], bool],
        is_absent: Callable[[NodeId], bool],
        jobs: Jobs,
        clock: Clock,
        entropy: Entropy,
        log: Log,
    ) -> None:
        asker = Asker(transport, clock)
        owners = CoOwners(asker, ring, node)
        self.budget = _budget_of(settings)
        self.handoff = Handoff(
            replica,
            merges,
            interval_s=HANDOFF_INTERVAL_S,
            budget=self.budget,
            is_up=is_up,
            clock=clock,
            log=log,
        )
        self.rebuild = Rebuild(replica, ring, node, is_up, log)
        self.antientropy = AntiEntropy(
            replica,
            ring,
            node,
            rebuild=self.rebuild,
            asker=asker,
            merges=merges,
            round_interval_s=settings.antientropy.interval_s,
            budget=self.budget,
            is_up=is_up,
            jobs=jobs,
            clock=clock,
            entropy=entropy,
            log=log,
        )
        self.scrub = Scrub(
            replica,
            owners,
            interval_s=settings.antientropy.interval_s,
            budget=self.budget,
            clock=clock,
            log=log,
        )
        self.sweep = Sweep(
            replica, ring.partitions, interval_s=settings.lifecycle.sweep_interval_s, log=log
        )
        self.purge = Purge(
            replica,
            ring,
            node,
            nodes,
            interval_s=self.sweep.interval_s,
            asker=asker,
            is_up=is_up,
            is_absent=is_absent,
            clock=clock,
            log=log,
        )
        self._follow_sweep(replica, ring.partitions_of(node), owners, clock, log)
        self._indexing = Indexing(replica.records)

    def _follow_sweep(
        self,
        replica: Replica,
        owned: Sequence[PartitionId],
        owners: CoOwners,
        clock: Clock,
        log: Log,
    ) -> None:
        """What there is to do once records are gone."""
        interval_s = self.sweep.interval_s
        self.reclaim = Reclaim(
            replica,
            self.sweep,
            len(owned),
            interval_s=interval_s,
            budget=self.budget,
            clock=clock,
            log=log,
        )
        self.verify = Verify(replica, self.sweep, owners, interval_s=interval_s, log=log)
        self.inquiry = Inquiry(replica, owners, interval_s=interval_s, log=log)

    def services(self) -> list[Service]:
        """Everything that runs."""
        return [
            self.handoff,
            self.antientropy,
            self.sweep,
            self.reclaim,
            self.purge,
            self.verify,
            self.inquiry,
            self.scrub,
            self._indexing,
        ]


def _budget_of(settings: ClusterSettings) -> Budget:
    return Budget(
        {
            Handoff.name: settings.hints.rate_bytes_per_s,
            AntiEntropy.name: settings.antientropy.rate_bytes_per_s,
            Scrub.name: settings.antientropy.rate_bytes_per_s,
            Reclaim.name: settings.antientropy.rate_bytes_per_s,
        }
    )
