"""What a coordinator tells its caller: the record, and honestly what happened."""

import msgspec

from kvnode.record import Record


class Stored(msgspec.Struct, frozen=True, gc=False):
    """A write that reached its quorum."""

    #: The join of what the answering replicas hold: for a replayed key, the first create.
    record: Record
    #: Distinct nodes that had it on disk when the caller was answered; hints included.
    acked: int
    required: int
    copies: int
    #: How many of ``acked`` were hints kept for a primary that was down.
    hints: int


class Fetched(msgspec.Struct, frozen=True, gc=False):
    """A read that reached its quorum. ``record`` is None when the document is absent."""

    record: Record | None
    #: Distinct replicas whose answer counted.
    answered: int
    required: int
    copies: int


class Counts(msgspec.Struct):
    """What one node's coordinator has met since it started."""

    #: Second requests for slow reads.
    hedged_reads: int = 0
    #: Reads that met a stale replica, and replicas that were brought up to date by them.
    stale_reads: int = 0
    read_repairs: int = 0
    #: Idempotency keys that came again, with the same body and with another one.
    replays: int = 0
    key_conflicts: int = 0
