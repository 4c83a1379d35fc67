"""When replicas agree, and what makes them."""

import asyncio
import contextlib
from collections.abc import Iterator
from itertools import islice

from cluster.ids import DocumentId, NodeId
from docservice.documents import DocumentDeleted, DocumentNotFound
from kvnode.ending import ending_of
from kvnode.errors import Unavailable
from kvnode.hashtree import HashForest
from kvnode.quarantine import State
from kvnode.record import Create, Record
from kvnode.storage.keys import RECORD_PREFIX, document_id_of, record_key
from scripts.checker.checks import judge_converged
from scripts.checker.evidence import Violation
from tests.simulation.atlas import readable
from tests.simulation.cluster import SimCluster
from tests.simulation.invariants import describe
from tests.simulation.machine import NodeMachine
from tests.simulation.ports import START_MS

#: Backoffs of handoff that a fault has left behind are over by then.
_DELIVERED_S = 120.0
#: And of anti-entropy; damage is found by a scrub.
_LEVEL_S = 150.0
#: Both ends of a connection have heard of a reset by then.
_RESET_HEARD_S = 1.0
#: Beyond what a deletion has to wait for.
_PURGED_S = 40.0
_READ_AGAIN = 5
#: How often all disks are looked through.
_LOOK_S = 0.25
#: Of what is still there: enough to see what is wrong.
_SHOWN = 5


async def settle(cluster: SimCluster, within_s: float = 10.0) -> None:
    """Wait until no hint is held and all owners of every document say the same of it."""

    def unsettled() -> list[str]:
        return hints(cluster) + unshipped(cluster) + differences(cluster)

    await cluster.until(lambda: not unsettled(), within_s, unsettled)


async def converge(cluster: SimCluster) -> None:
    """Deliver all hints, read every document through each of its owners, and wait.

    So it needs no anti-entropy: while owners differ, a read asks them all. What was acknowledged
    must then be everywhere.
    """
    await cluster.until(lambda: not hints(cluster), _DELIVERED_S, lambda: hints(cluster))
    for document_id in list(cluster.watch.commits):
        for owner in cluster.owners(document_id):
            with contextlib.suppress(DocumentDeleted):
                if difference(cluster, document_id):
                    await _read_from_all(cluster, owner, document_id)
                else:
                    await cluster.read(owner, document_id)
    await settle(cluster)
    await cluster.until(lambda: not wrong_books(cluster), _LEVEL_S, lambda: wrong_books(cluster))
    _judge(cluster)


async def _read_from_all(cluster: SimCluster, via: str, document_id: DocumentId) -> None:
    """Read at R = N; once more if a reset that was still on its way broke the first attempt."""
    try:
        await cluster.read(via, document_id, read=3, sloppy=False)
    except Unavailable:
        await asyncio.sleep(_RESET_HEARD_S)
        await cluster.ready()
        await cluster.read(via, document_id, read=3, sloppy=False)


async def level(cluster: SimCluster) -> None:
    """Wait until the cluster has repaired itself, without a read: all owners hold the same."""

    def missing() -> list[str]:
        undecided = fences(cluster) + hints(cluster) + suspects(cluster) + unshipped(cluster)
        return undecided + damage(cluster) + unlevel(cluster) or wrong_books(cluster)

    await cluster.until(lambda: not missing(), _LEVEL_S, missing, _LOOK_S)
    _judge(cluster)


async def ended(cluster: SimCluster) -> None:
    """Wait until all that has ended is off every disk; it must not come back."""
    lifecycle = cluster.settings.lifecycle
    within_s = (
        lifecycle.tombstone_retention_s
        + lifecycle.purge_bucket_s
        + 2 * lifecycle.clock_skew_max_s
        + _PURGED_S
    )

    def left() -> list[str]:
        vetoes = [str(one.serving.background.purge.vetoes) for one in cluster.alive()]
        waiting = list(islice(not_gone(cluster), _SHOWN)) + unlevel(cluster)
        waiting = waiting or wrong_books(cluster)
        return waiting + vetoes if waiting else []

    await cluster.until(lambda: not left(), within_s, left, _LOOK_S)
    for document_id in list(cluster.watch.purged)[:_READ_AGAIN]:
        for via in cluster.machines:
            with contextlib.suppress(DocumentNotFound):
                await cluster.read(via, document_id, read=2)
    _judge(cluster)


def _judge(cluster: SimCluster) -> None:
    """Clients' view and the books of every node, once replicas agree."""
    watch = cluster.watch

    def stored(document_id: DocumentId) -> list[Record | None]:
        disks = [cluster.nodes[owner].disk for owner in cluster.owners(document_id)]
        held = [readable(document_id, one.values.get(record_key(document_id))) for one in disks]
        # What an owner is about to purge, another one may have never had.
        for disk, record in zip(disks, held, strict=True):
            if record is not None:
                over = watch.below_floor(disk, document_id, record)
                held = [one or (record if over else None) for one in held]
        return held

    watch.violations += judge_converged(cluster.history, stored, watch, cluster.loop.time())
    for name, since_s in watch.undoubted.items():
        # A fence that falls before the next commit reaches no disk.
        if any(line.at_s > since_s for line in cluster.nodes[name].events("node.fenced")):
            continue
        watch.violations.append(Violation("I22", f"nobody doubts the disk of {name}"))


def wrong_books(cluster: SimCluster) -> list[str]:
    """Nodes whose count or trees are not what their disk adds up to."""
    found = []
    for machine in cluster.nodes.values():
        records = machine.serving.replica.records
        counted, there = records.count, machine.disk.record_count()
        if counted != there:
            found.append(f"{machine.name} counts {counted} records and has {there}")
        anew = forest_of(machine, records.forest)
        if anew.total != records.forest.total or differing(anew, records.forest):
            wrong = differing(anew, records.forest)
            found.append(f"{machine.name}'s trees are wrong, in partitions {wrong}")
    return found


def damage(cluster: SimCluster) -> list[str]:
    """Records that can't be read, and of which another owner has a copy."""
    return [
        f"{machine.name} has {key.hex()} damaged"
        for machine in cluster.nodes.values()
        for key, encoded in machine.disk.values.items()
        if key.startswith(RECORD_PREFIX)
        and readable(document_id_of(key), encoded) is None
        and sum(key in other.disk.values for other in cluster.nodes.values()) > 1
    ]


def forest_of(machine: NodeMachine, like: HashForest) -> HashForest:
    """The trees of what is on a disk, made anew."""
    forest = HashForest(like.partitions, like.bucket_ms)
    for key, encoded in machine.disk.values.items():
        if key.startswith(RECORD_PREFIX) and readable(document_id_of(key), encoded) is not None:
            forest.toggle(document_id_of(key), encoded, ending_of(encoded))
    return forest


def differing(one: HashForest, other: HashForest) -> list[int]:
    """Partitions whose trees are not the same."""
    return [
        partition
        for partition in range(one.partitions)
        if one.root(partition, 0, 0) != other.root(partition, 0, 0)
    ]


def fences(cluster: SimCluster) -> list[str]:
    """Nodes that are not sure of their disk."""
    found = []
    for machine in cluster.alive():
        if machine.documents is not None:
            fenced = machine.serving.background.rebuild.fenced()
            joining = len(machine.serving.checkin.joining)
            if fenced or joining:
                found.append(f"{machine.name}: {len(fenced)} fenced, {joining} joining")
    return found


def suspects(cluster: SimCluster) -> list[str]:
    """Copies in quarantine about which nothing was decided."""
    counts = {one.name: one.serving.replica.quarantine.counts for one in cluster.alive()}
    return [f"{name} asks about {one}" for name, one in counts.items() if one[State.ASKED]]


def unlevel(cluster: SimCluster) -> list[str]:
    """Partitions of which two owners hold different records, or floors."""
    found = []
    replicas = {one.name: one.serving.replica for one in cluster.alive()}
    expiring = max(one.lifecycle.first_compared_expiring() for one in replicas.values())
    for partition in range(cluster.rings.partitions):
        seen = {}
        for owner in cluster.rings.owners(partition):
            floor = replicas[owner].lifecycle.floor(partition).bucket
            root = replicas[owner].records.forest.root(partition, expiring, floor)
            seen[owner] = (floor, root)
        if len(set(seen.values())) > 1:
            found.append(f"partition {partition}: {seen}")
    return found


def not_gone(cluster: SimCluster) -> Iterator[str]:
    """What has been deleted, or expired long ago, and is still on a disk."""
    lifecycle = cluster.settings.lifecycle
    late_s = 2 * lifecycle.clock_skew_max_s + lifecycle.purge_bucket_s
    expired_ms = START_MS + int((cluster.loop.time() - late_s) * 1000)
    expires_ms = cluster.watch.expires_ms
    for machine in cluster.nodes.values():
        for key, encoded in machine.disk.values.items():
            if not key.startswith(RECORD_PREFIX):
                continue
            document_id = document_id_of(key)
            record = readable(document_id, encoded)
            if record is not None and (
                record.tombstone is not None or expires_ms.get(document_id, expired_ms) < expired_ms
            ):
                yield f"{machine.name} still has {document_id.hex()}: {describe(record)}"


def hints(cluster: SimCluster) -> list[str]:
    """Which hints are still held; a node that starts may hold some."""
    found = []
    for machine in cluster.alive():
        if machine.documents is None:
            found.append(f"{machine.name} starts")
        else:
            held_for = machine.serving.replica.hints.targets()
            found += [f"{machine.name} holds {held.count} hints for {t}" for t, held in held_for]
    return found


def unshipped(cluster: SimCluster) -> list[str]:
    """What other regions have yet to get, or to be compared with; of nodes that have started."""
    found = []
    for machine in cluster.alive():
        if machine.documents is None:
            continue
        outbox = machine.serving.replica.outbox
        for region in outbox.regions:
            waiting, owed = outbox.waiting(region), len(outbox.owed(region))
            if waiting or owed:
                found.append(f"{machine.name}: {waiting} for {region}, {owed} comparisons owed")
    return found


def differences(cluster: SimCluster) -> list[str]:
    """Documents of which two owners would say different things."""
    return [
        f"{document_id.hex()}: {held}"
        for document_id in cluster.watch.commits
        if (held := difference(cluster, document_id))
    ]


def difference(cluster: SimCluster, document_id: DocumentId) -> dict[NodeId, Create | str] | None:
    """What each owner would say of a document, if not all the same.

    Two owners of a deleted document agree, whatever else they know of it: only anti-entropy
    compares what no client can see.
    """
    owners = cluster.owners(document_id)
    held = {name: visible(cluster.nodes[name].stored(document_id)) for name in owners}
    first, *others = held.values()
    return held if any(other != first for other in others) else None


def visible(record: Record | None) -> Create | str:
    """What a client could learn from one replica."""
    if record is None:
        return "absent"
    return record.create if record.tombstone is None and record.create else "deleted"
