"""When a fence falls: after comparisons that began since it was raised, and no others."""

from typing import Final

import structlog

from cluster.ids import NodeId, PartitionId
from kvnode.services.rebuild import Rebuild
from kvnode.storage.memory import MemoryDisk, MemoryEngine
from tests.support.handcranked import HandCrankedLoop
from tests.support.replicas import new_replica
from tests.support.rings import rings_with

A1, A2, A3 = NodeId("a1"), NodeId("a2"), NodeId("a3")
RINGS: Final = rings_with({"a": [(A1, A2, A3)]})
PARTITION: Final = PartitionId(0)


def _disk_failed(error: BaseException) -> None:
    raise AssertionError("a disk in memory does not fail") from error


def test_what_was_compared_before_a_fence_was_raised_anew_does_not_count() -> None:
    """It may have been with one who is not to be believed either, since an operator's word."""
    loop = HandCrankedLoop()
    engine = MemoryEngine(MemoryDisk(), loop.as_loop, failed=_disk_failed)
    replica = new_replica(engine, loop)
    rebuild = Rebuild(replica, RINGS, A1, lambda _: True, structlog.get_logger())
    rebuild.raise_all()
    rebuild.asked(PARTITION, A2, compared=True)

    rebuild.raise_all()

    rebuild.asked(PARTITION, A3, compared=True)
    assert rebuild.fenced() == [PARTITION]
    rebuild.asked(PARTITION, A2, compared=False)
    assert rebuild.fenced() == []
