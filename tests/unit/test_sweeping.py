"""What has ended leaves the disk, also what was on its way there when its time was over."""

import asyncio

import structlog

from cluster.settings import LifecycleSettings
from kvnode.codec import encode
from kvnode.ending import Family
from kvnode.record import Create, Record
from kvnode.services.sweep import Sweep
from kvnode.storage.memory import MemoryDisk, MemoryEngine
from tests.support.handcranked import HandCrankedLoop
from tests.support.replicas import new_replica

ID = bytes(16)


async def test_a_record_whose_commit_takes_longer_than_its_life_is_removed_all_the_same() -> None:
    """The trees know it at once, the index on disk not yet: so finding nothing is no finding."""
    clock = HandCrankedLoop()
    engine = MemoryEngine(MemoryDisk(), asyncio.get_running_loop(), failed=_raise)
    life = LifecycleSettings(purge_bucket_s=1.0, clock_skew_max_s=1.0)
    replica = new_replica(engine, clock, lifecycle=life)
    sweep = Sweep(replica, 1, interval_s=1.0, log=structlog.get_logger())
    replica.join(ID, encode(ID, Record(Create(b"x", 1, 2000, b"c" * 32))))
    clock.now_s = 60.0
    await sweep.run_once()
    await replica.durable()
    assert replica.records.durable(ID) is not None
    await sweep.run_once()
    await replica.durable()
    assert replica.records.durable(ID) is None
    assert (replica.records.count, replica.records.forest.total) == (0, 0)
    # Its owners are asked later whether it is gone everywhere.
    assert sweep.sampled == {Family.DELETED: {}, Family.EXPIRING: {ID: 59_000}}


def _raise(error: BaseException) -> None:
    raise error
