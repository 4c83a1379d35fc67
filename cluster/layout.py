"""Who owns what, as every node and every tool computes it from the cluster file."""

from typing import Final

from cluster.claim import Candidate, claim
from cluster.ring import Ring
from cluster.settings import ClusterSettings

_FIRST_EPOCH: Final = 1


def ring_of(settings: ClusterSettings, region: str) -> Ring:
    """The ring of a region."""
    candidates = [
        Candidate(node.node_id, node.zone, node.host, node.weight)
        for node in settings.region_nodes(region)
    ]
    replication = settings.replication
    owners = claim(candidates, replication.partitions, replication.copies)
    return Ring(_FIRST_EPOCH, replication.partitions, replication.copies, owners)
