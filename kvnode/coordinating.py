"""Requests that a node coordinates for whoever asks over the wire, from fields to fields.

Each checks its fields: ValueError or TypeError, when the sender has a bug or is no peer.
"""

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from typing import Any, Final

from kvnode.codec import decode, encode
from kvnode.coordinator import Coordinator
from kvnode.record import Sighting
from kvnode.results import Fetched, Stored
from kvnode.rpc.operations import Fields, Op

#: Fields of an answer, and about how large they are.
Answer = tuple[Fields, int]
#: What becomes of a request's fields by a deadline.
Operation = Callable[[Coordinator, Fields, float], Coroutine[Any, Any, Answer]]


async def _create(coordinator: Coordinator, fields: Fields, deadline_s: float) -> Answer:
    document_id, encoded, keyed, required, sloppy, each_region = fields
    stored = await coordinator.create(
        document_id,
        decode(document_id, encoded),
        keyed=bool(keyed),
        write_quorum=_count(required),
        sloppy=bool(sloppy),
        deadline_s=deadline_s,
        each_region=bool(each_region),
    )
    return _stored_fields(document_id, stored)


async def _read(coordinator: Coordinator, fields: Fields, deadline_s: float) -> Answer:
    *fields, each_region = fields
    read = partial(coordinator.read, each_region=bool(each_region))
    return await _found(read, fields, deadline_s)


async def _read_here(coordinator: Coordinator, fields: Fields, deadline_s: float) -> Answer:
    return await _found(coordinator.read_here, fields, deadline_s)


async def _found(
    read: Callable[..., Awaitable[Fetched]], fields: Fields, deadline_s: float
) -> Answer:
    document_id, required, sloppy, sighting = fields
    fetched = await read(
        document_id,
        read_quorum=_count(required),
        sloppy=bool(sloppy),
        deadline_s=deadline_s,
        seen=_seen(sighting),
    )
    record = fetched.record
    encoded = encode(document_id, record) if record is not None else None
    answer = [encoded, fetched.answered, fetched.required, fetched.copies]
    return answer, len(encoded) if encoded else 0


async def _delete(coordinator: Coordinator, fields: Fields, deadline_s: float) -> Answer:
    document_id, encoded, required, sloppy, each_region = fields
    stored = await coordinator.delete(
        document_id,
        decode(document_id, encoded),
        write_quorum=_count(required),
        sloppy=bool(sloppy),
        deadline_s=deadline_s,
        each_region=bool(each_region),
    )
    return _stored_fields(document_id, stored)


async def _write_here(coordinator: Coordinator, fields: Fields, deadline_s: float) -> Answer:
    document_id, encoded = fields
    write = coordinator.take_in(document_id, encoded, deadline_s, late_counts=False)
    return _stored_fields(document_id, await write)


def _stored_fields(document_id: bytes, stored: Stored) -> Answer:
    encoded = encode(document_id, stored.record)
    fields = [encoded, stored.acked, stored.required, stored.copies, stored.hints]
    return fields, len(encoded)


def _count(required: object) -> int:
    if not isinstance(required, int):
        raise TypeError("a quorum is not a count")
    return required


def _seen(sighting: object) -> Sighting | None:
    if sighting is None:
        return None
    if not isinstance(sighting, list):
        raise TypeError("what was seen is not a list")
    created_at_ms, checksum_head, region = sighting
    heads = isinstance(checksum_head, bytes) and isinstance(region, bytes)
    if not (isinstance(created_at_ms, int) and heads):
        raise TypeError("what was seen is not a time and bytes")
    return Sighting(created_at_ms, checksum_head, region)


#: By what they are called on the wire.
OPERATIONS: Final[Mapping[int, Operation]] = {
    Op.CREATE: _create,
    Op.READ: _read,
    Op.READ_HERE: _read_here,
    Op.DELETE: _delete,
    Op.WRITE_HERE: _write_here,
}
