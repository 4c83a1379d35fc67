"""The operations that travel in messages, and their fields. Numbers are on the wire: never reuse.

A request is [operation, request id, timeout_ms, *fields]; its answer is
[REPLY, request id, *fields] or [FAILED, request id, code, detail, ...]. See PROTOCOL.md.
"""

from enum import IntEnum, unique
from typing import Any, Final


@unique
class Op(IntEnum):
    """First element of a message."""

    REPLY = 0
    FAILED = 1
    HELLO = 2
    PROOF = 3
    REFUSED = 4

    # Between replicas.
    MERGE = 16  # hint_for | nil, patient, vouched_at | nil, [id, record, ...] -> see kvnode.merging
    FETCH = 17  # id, header | nil -> FetchResult, record | nil
    GOSSIP = 18  # digest -> news, digest
    NEWS = 19  # news -> (nothing)
    VOTE = 20  # id, fingerprint -> fingerprint voted for, record | nil

    # Between owners of the same partitions; see kvnode.services.exchange.
    COMPARE = 21  # first expiring, [[partition, floor, newest_deleted_ms, root]] -> [[... doubted]]
    TREE = 22  # [[first leaf, width]] -> [children's digests]
    BUCKETS = 23  # partition, first expiring -> [[family, number, digest]]
    PAGE = 24  # place, after id -> [[id, digest]]
    # See kvnode.services.purge.
    PROMISE = 25  # partition, after, floor, digest, newest_deleted_ms, versions -> why not | nil
    FLOOR = 26  # partition, floor, newest_deleted_ms -> (nothing)
    # See kvnode.services.checkin.
    CHECKIN = 27  # boot, [known] -> [remembered], [[partition, floor, newest_ms]], [[node, boot]]
    # Between regions; see kvnode.services.shipping and settling.
    SHIP = 28  # codec, batch -> (nothing)
    WATERMARK = 29  # unix ms -> wall clock in ms
    LEVEL = 30  # region, [[partition, count | nil]] -> process, count, [whether it is done]
    # See kvnode.elsewhere.
    READ_HERE = 31  # as READ, of this region only
    # See kvnode.partings.
    STANDING = 36  # [[region, word]] -> (nothing)
    # See kvnode.services.layouts.
    LAYOUT = 38  # [[region, epoch, digest]], [layout], epoch, [[node, stage]] -> the same
    # See kvnode.everywhere.
    WRITE_HERE = 35  # id, record -> as CREATE, of this region only

    # Any other request, for traces that it belongs to; see kvnode.tracing.
    TRACED = 37  # contexts, operation, its fields -> as the operation

    # From a document service to a coordinator.
    CREATE = (
        32  # id, record, keyed, w, sloppy, each region -> record, acked, required, copies, hints
    )
    READ = 33  # id, r, sloppy, seen | nil, each region -> record | nil, answered, required, copies
    DELETE = 34  # id, record, w, sloppy, each region -> record, acked, required, copies, hints

    # For operators; see kvnode.inspection.
    INSPECT = 48  # id -> owner, doubt | nil, record | nil, damaged, hints_for, quarantined | nil
    TRACES = 49  # [trace id], document id | empty -> [span]; see kvnode.traceviews


@unique
class FetchResult(IntEnum):
    """What a replica knows about an id."""

    FOUND = 0
    SAME = 1  # its record has exactly the header that came with the request
    ABSENT = 2  # an owner that vouches that it has nothing
    UNKNOWN = 3  # not an owner, or not able to vouch


#: Requests a node may have open on one connection.
OPEN_REQUESTS_MAX: Final = 65_536
#: Records of one MERGE: each may be answered with a whole one, and the answer must fit in a frame.
MERGE_RECORDS_MAX: Final = 256
Fields = list[Any]


def traced(contexts: bytes, op: Op, fields: Fields) -> tuple[Op, Fields]:
    """A request that belongs to traces; ``contexts`` are those of the spans that wait for it."""
    return Op.TRACED, [contexts, op, *fields]
