"""When replicas agree, and what makes them."""

import contextlib

from docservice.documents import DocumentDeleted
from kvnode.record import Create, Record
from tests.simulation.checks import judge_converged
from tests.simulation.cluster import SimCluster

#: Backoffs of handoff that a fault has left behind are over by then.
_DELIVERED_S = 120.0


async def settle(cluster: SimCluster, within_s: float = 10.0) -> None:
    """Wait until no hint is held and all owners of every document say the same of it."""

    def unsettled() -> list[str]:
        return hints(cluster) + differences(cluster)

    await cluster.until(lambda: not unsettled(), within_s, unsettled)


async def converge(cluster: SimCluster) -> None:
    """Deliver all hints, read every document through each of its owners, and wait.

    This is all that heals replicas while there is no anti-entropy. What was acknowledged must
    then be everywhere.
    """
    await cluster.until(lambda: not hints(cluster), _DELIVERED_S, lambda: hints(cluster))
    for document_id in list(cluster.watch.commits):
        for owner in cluster.owners(document_id):
            with contextlib.suppress(DocumentDeleted):
                await cluster.read(owner, document_id, read=3, sloppy=False)
    await settle(cluster)

    def stored(document_id: bytes) -> list[Record | None]:
        return [cluster.nodes[owner].stored(document_id) for owner in cluster.owners(document_id)]

    cluster.watch.violations += judge_converged(cluster.history, stored)
    for machine in cluster.nodes.values():
        counted, there = machine.serving.replica.records.count, machine.disk.record_count()
        assert counted == there, f"{machine.name} counts {counted} records and has {there}"


def hints(cluster: SimCluster) -> list[str]:
    """Which hints are still held."""
    return [
        f"{machine.name} holds {held.count} hints for {target}"
        for machine in cluster.alive()
        for target, held in machine.serving.replica.hints.targets()
    ]


def differences(cluster: SimCluster) -> list[str]:
    """Documents of which two owners would say different things.

    Two owners of a deleted document agree, whatever else they know of it: only anti-entropy
    compares what no client can see.
    """
    found = []
    for document_id in cluster.watch.commits:
        owners = cluster.owners(document_id)
        held = {name: visible(cluster.nodes[name].stored(document_id)) for name in owners}
        first, *others = held.values()
        if any(other != first for other in others):
            found.append(f"{document_id.hex()}: {held}")
    return found


def visible(record: Record | None) -> Create | str:
    """What a client could learn from one replica."""
    if record is None:
        return "absent"
    return record.create if record.tombstone is None and record.create else "deleted"
