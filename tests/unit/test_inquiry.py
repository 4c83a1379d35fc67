"""What other owners say of a document while it is being purged."""

import asyncio
from typing import cast

import pytest
import structlog

from cluster.ids import DocumentId, NodeId
from cluster.settings import LifecycleSettings
from kvnode.codec import encode
from kvnode.errors import LateCopy
from kvnode.floors import Floor
from kvnode.quarantine import State
from kvnode.record import Create, Record, Tombstone
from kvnode.replica import Replica
from kvnode.rpc.connection import Outcome
from kvnode.rpc.operations import FetchResult
from kvnode.services.asking import CoOwners
from kvnode.services.budget import Budget
from kvnode.services.inquiry import Inquiry
from kvnode.services.scrub import Scrub
from kvnode.storage.keys import record_key
from kvnode.storage.memory import MemoryDisk, MemoryEngine
from tests.support.handcranked import HandCrankedLoop
from tests.support.replicas import new_replica

ID = DocumentId(bytes(16))
CREATE = Create(b"x", 1000, 0, b"c" * 32)
TOMBSTONE = Tombstone(2000, 5000)
PURGED = Floor(bucket=9, promised=9, newest_deleted_ms=2000)
BEFORE = Floor(bucket=3, promised=3, newest_deleted_ms=1500)


class OtherOwner:
    """Has not removed yet what all have agreed to purge."""

    def fetch(self, document_id: bytes) -> "dict[NodeId, asyncio.Future[Outcome]]":
        """See ``CoOwners``."""
        outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        outcome.set_result([FetchResult.FOUND, encode(document_id, Record(CREATE, TOMBSTONE))])
        return {NodeId("a2"): outcome}


class OvertakenOwner:
    """Has the document, says so, and agrees on a purge before that is heard."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica

    def fetch(self, document_id: bytes) -> "dict[NodeId, asyncio.Future[Outcome]]":
        """See ``CoOwners``."""
        outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

        def answer() -> None:
            self.overtake()
            outcome.set_result([FetchResult.FOUND, encode(document_id, Record(CREATE))])

        asyncio.get_running_loop().call_soon(answer)
        return {NodeId("a2"): outcome}

    def overtake(self) -> None:
        """All have agreed."""
        self._replica.set_floor(0, PURGED)


async def test_an_answer_from_before_a_purge_decides_nothing() -> None:
    """The owner has nothing by now; it is asked again."""
    replica = _with_a_suspect(BEFORE)
    await replica.durable()
    owners = cast("CoOwners", OvertakenOwner(replica))
    await Inquiry(replica, owners, interval_s=1.0, log=structlog.get_logger()).run_once()
    assert replica.records.durable(ID) is None
    assert replica.quarantine.counts[State.ASKED]


async def test_a_copy_from_before_a_purge_takes_no_damaged_ones_place() -> None:
    """The damaged one was deleted, and purged, before the answer was heard."""
    replica, disk = _replica(BEFORE)
    replica.join(ID, encode(ID, Record(CREATE)), vouched=True)
    await replica.durable()
    disk.apply({record_key(ID): disk.values[record_key(ID)][:-1] + b"?"})

    class Deleted(OvertakenOwner):
        def overtake(self) -> None:
            replica.join(ID, encode(ID, Record(CREATE, TOMBSTONE)), vouched=True)
            super().overtake()
            replica.records.forget([ID])

    scrub = Scrub(
        replica,
        cast("CoOwners", Deleted(replica)),
        interval_s=1.0,
        budget=Budget({"scrub": 1 << 30}),
        clock=HandCrankedLoop(),
        log=structlog.get_logger(),
    )
    await scrub.run_once()
    await replica.durable()
    assert (scrub.corrupt_count, scrub.healed_count) == (1, 0)
    assert replica.records.durable(ID) is None


async def test_a_late_copy_of_what_an_owner_is_about_to_purge_is_not_stored() -> None:
    """That owner's tombstone is over here already; without it the copy would be a live document."""
    replica = _with_a_suspect(PURGED)
    await replica.durable()
    owners = cast("CoOwners", OtherOwner())
    await Inquiry(replica, owners, interval_s=1.0, log=structlog.get_logger()).run_once()
    assert replica.records.durable(ID) is None
    assert not replica.quarantine.counts[State.ASKED], "it is decided"


def _replica(floor: Floor) -> tuple[Replica, MemoryDisk]:
    disk = MemoryDisk()
    engine = MemoryEngine(disk, asyncio.get_running_loop(), failed=_raise)
    life = LifecycleSettings(purge_bucket_s=1.0)
    replica = new_replica(engine, HandCrankedLoop(), lifecycle=life)
    replica.set_floor(0, floor)
    return replica, disk


def _with_a_suspect(floor: Floor) -> Replica:
    replica, _ = _replica(floor)
    with pytest.raises(LateCopy):
        replica.join(ID, encode(ID, Record(CREATE)))
    return replica


def _raise(error: BaseException) -> None:
    raise error
