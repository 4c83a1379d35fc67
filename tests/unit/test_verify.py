"""Proving that purged documents are gone, beside a sweep that purges more of them."""

import asyncio
from typing import cast

import structlog

from cluster.ids import DocumentId, NodeId
from kvnode.rpc.connection import Outcome
from kvnode.rpc.operations import FetchResult
from kvnode.services.asking import CoOwners
from kvnode.services.sweep import Sweep
from kvnode.services.verify import Verify
from kvnode.storage.memory import MemoryDisk, MemoryEngine
from tests.support.http import StoppedWallClock
from tests.support.replicas import new_replica


class Peer:
    """The other owner. It says what it is told to, and lets something happen before."""

    node = NodeId("a1")

    def __init__(self, sweep: Sweep, answer: FetchResult) -> None:
        self._sweep = sweep
        self._answer = answer

    def fetch(self, _: bytes) -> "dict[NodeId, asyncio.Future[Outcome]]":
        """See ``CoOwners``. Meanwhile the sweep purges a thousand other documents."""
        outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        outcome.set_result([self._answer, None])
        for number in range(1000):
            self._sweep.remember(DocumentId(b"later" + number.to_bytes(11, "big")))
        return {NodeId("a2"): outcome}


async def _verify(answer: FetchResult) -> tuple[Verify, Sweep]:
    loop = asyncio.get_running_loop()
    engine = MemoryEngine(MemoryDisk(), loop, failed=_fail)
    replica = new_replica(engine, StoppedWallClock())
    log = structlog.get_logger()
    sweep = Sweep(replica, 1, interval_s=1.0, log=log)
    for number in range(100):
        sweep.remember(DocumentId(bytes([number]) * 16))
    owners = cast("CoOwners", Peer(sweep, answer))
    verify = Verify(replica, sweep, owners, interval_s=1.0, log=log)
    await verify.run_once()
    return verify, sweep


def _fail(error: BaseException) -> None:
    raise error


async def test_ids_that_the_sweep_forgets_meanwhile_are_verified_all_the_same() -> None:
    """They were found before; nothing is left to take out."""
    verify, sweep = await _verify(FetchResult.ABSENT)
    assert verify.verified_count > 1
    assert verify.contradicted_count == 0
    assert len(sweep.purged) <= 256


async def test_an_id_of_which_an_owner_is_not_sure_is_asked_about_again() -> None:
    """And what waits stays bounded."""
    verify, sweep = await _verify(FetchResult.UNKNOWN)
    assert verify.verified_count == 0
    assert DocumentId(bytes([0]) * 16) in sweep.purged or len(sweep.purged) == 256
