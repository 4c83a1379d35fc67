"""What one node holds of a document: everything but its content, for operators who ask.

It says what is on the disk, also where the node itself would not believe it, and why not.
"""

from typing import Literal

import msgspec

from cluster.ids import NodeId
from kvnode.codec import decode
from kvnode.errors import CorruptRecord
from kvnode.record import NEVER_MS, Record
from kvnode.replica import Replica
from kvnode.rpc.operations import Fields


class Held(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A record. None: that part of it is not there."""

    created_at_ms: int | None
    expires_at_ms: int | None
    checksum: bytes | None
    size_bytes: int | None
    deleted_at_ms: int | None
    #: When it leaves the disk, as far as this replica knows.
    delete_at_ms: int | None


class Inspection(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A node's answer."""

    #: Whether it is one of the document's owners.
    owner: bool
    #: Why its word doesn't count now.
    doubt: Literal["fenced", "joining"] | None
    record: Held | None
    #: A record is there, and fails its checksum.
    damaged: bool
    #: Nodes for which a copy is kept here as a hint.
    hints_for: tuple[NodeId, ...]
    #: What is known of a copy that was set aside.
    quarantined: Literal["asked", "orphan"] | None


def inspect(replica: Replica, document_id: bytes, partition: int) -> Inspection:
    """Look at what is durable here."""
    damaged = False
    record: Record | None = None
    try:
        encoded = replica.records.durable(document_id)
        if encoded is not None:
            record = decode(document_id, encoded)
    except CorruptRecord:
        damaged = True
    doubt: Literal["fenced", "joining"] | None = None
    if replica.fenced[partition]:
        doubt = "fenced"
    elif not replica.believes(partition):
        doubt = "joining"
    return Inspection(
        owner=replica.owns(partition),
        doubt=doubt,
        record=_held(record) if record is not None else None,
        damaged=damaged,
        hints_for=tuple(replica.hint_store.targets_with(document_id)),
        quarantined=replica.quarantine.state_of(document_id),
    )


def to_wire(inspection: Inspection) -> Fields:
    """In plain types."""
    plain: Fields = list(msgspec.to_builtins(inspection, builtin_types=(bytes,)))
    return plain


def from_wire(raw: object) -> Inspection:
    """The inverse of ``to_wire``. Raises ValueError for anything that it can't have made."""
    return msgspec.convert(raw, Inspection)


def _held(record: Record) -> Held:
    create, tombstone = record.create, record.tombstone
    expires_at_ms = create.expires_at_ms if create and create.expires_at_ms != NEVER_MS else None
    return Held(
        created_at_ms=create.created_at_ms if create else None,
        expires_at_ms=expires_at_ms,
        checksum=create.checksum if create else None,
        size_bytes=len(create.content) if create else None,
        deleted_at_ms=tombstone.deleted_at_ms if tombstone else None,
        delete_at_ms=tombstone.delete_at_ms if tombstone else expires_at_ms,
    )
