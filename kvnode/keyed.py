"""Creating a document under an idempotency key: a retry, on any node, meets the same record.

The id follows from the key (``cluster.ids``), so there is nothing to look up: what is stored under
it is the answer to a retry, or the refusal of another body. With W above half of N no body is
stored before it has won (``kvnode.voting``).
"""

from typing import TYPE_CHECKING

from cluster.ids import partition_of
from kvnode.errors import CorruptRecord, KeyReused, Unavailable
from kvnode.idempotency import first_create
from kvnode.record import Record
from kvnode.results import Stored
from kvnode.voting import Election

if TYPE_CHECKING:
    from kvnode.coordinator import Coordinator


async def create_keyed(
    coordinator: "Coordinator",
    document_id: bytes,
    record: Record,
    required: int,
    deadline_s: float,
    *,
    sloppy: bool,
    each_region: bool,
) -> Stored:
    """See ``docservice.store.DocumentStore.create``."""
    existing = await _peek(coordinator, document_id, deadline_s)
    if existing is not None:
        # Stored again, so that a retry of a write whose outcome was unknown ends on W replicas.
        _check(coordinator, existing, record)
        coordinator.counts.replays += 1
        record = existing
    elif required > coordinator.copies // 2:
        record = await elect(coordinator, document_id, record, deadline_s, each_region=each_region)
    stored = await coordinator.put(
        document_id, record, required, deadline_s, sloppy=sloppy, each_region=each_region
    )
    _check(coordinator, stored.record, record)
    return stored


async def _peek(coordinator: "Coordinator", document_id: bytes, deadline_s: float) -> Record | None:
    """What one replica knows about a key's document; None when it can't be told."""
    partition = partition_of(document_id, coordinator.rings.partitions)
    if coordinator.placement.answers(partition) and coordinator.replica.believes(partition):
        try:
            local = coordinator.replica.get(document_id)
        except CorruptRecord:
            pass
        else:
            return local[0] if local is not None else None
    try:
        fetched = await coordinator.read(
            document_id, read_quorum=1, sloppy=True, deadline_s=deadline_s
        )
    except Unavailable:
        return None
    return fetched.record


async def elect(
    coordinator: "Coordinator",
    document_id: bytes,
    record: Record,
    deadline_s: float,
    *,
    each_region: bool,
) -> Record:
    """Make sure that no other body can be acknowledged for this key; see ``kvnode.voting``.

    Returns:
        The record to store: this one, or one that a replica holds already.

    Raises:
        KeyReused: another body has won, or has the better claim.
        Unavailable: the votes that are known don't decide.
    """
    assert record.create is not None
    fingerprint = record.create.fingerprint
    if each_region:
        held = await coordinator.everywhere.elect(document_id, fingerprint, deadline_s)
    else:
        ring = coordinator.placement.ring
        election = Election(coordinator, document_id, fingerprint, ring, deadline_s)
        election.start()
        held = await election.answer
    if held is None:
        return record
    _check(coordinator, held, record)
    return held


def _check(coordinator: "Coordinator", held: Record, wanted: Record) -> None:
    """Raise when a key's document is not the one that the caller wants to create."""
    assert wanted.create is not None
    try:
        first_create(held, wanted.create.fingerprint, coordinator.clock.wall_ms())
    except KeyReused:
        coordinator.counts.key_conflicts += 1
        raise
