"""Proving that removed documents are gone, beside a sweep that removes more of them."""

import asyncio
from typing import Any, cast

import pytest
import structlog

from cluster.ids import DocumentId, NodeId
from kvnode.codec import encode
from kvnode.ending import Family
from kvnode.record import NEVER_MS, Create, Record, Tombstone
from kvnode.rpc.connection import Outcome
from kvnode.rpc.operations import FetchResult
from kvnode.services.asking import CoOwners
from kvnode.services.sweep import Sweep
from kvnode.services.verify import Verify
from kvnode.storage.memory import MemoryDisk, MemoryEngine
from tests.support.http import NOW_MS, StoppedWallClock
from tests.support.replicas import new_replica

#: When the documents of these tests were removed, by a clock that may be as wrong as it may be.
BEFORE_MS = NOW_MS - 5_000
CREATED_MS = NOW_MS - 3_600_000


def copy(created_at_ms: int, expires_at_ms: int = NEVER_MS, *, deleted: bool = False) -> list[Any]:
    """An owner that has one."""
    tombstone = Tombstone(NOW_MS, NOW_MS) if deleted else None
    record = Record(Create(b"x", created_at_ms, expires_at_ms, bytes(32)), tombstone)
    return [FetchResult.FOUND, encode(bytes(16), record)]


class Peer:
    """The other owner. It says what it is told to, and lets something happen before."""

    node = NodeId("a1")

    def __init__(self, sweep: Sweep, answer: list[Any]) -> None:
        self._sweep = sweep
        self._answer = answer

    def fetch(self, _: bytes) -> "dict[NodeId, asyncio.Future[Outcome]]":
        """See ``CoOwners``. Meanwhile the sweep purges a thousand other documents."""
        outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        outcome.set_result(self._answer)
        for number in range(1000):
            later = DocumentId(b"later" + number.to_bytes(11, "big"))
            self._sweep.remember(Family.DELETED, later, BEFORE_MS)
        return {NodeId("a2"): outcome}


async def _verify(answer: list[Any], family: Family = Family.DELETED) -> tuple[Verify, Sweep]:
    loop = asyncio.get_running_loop()
    engine = MemoryEngine(MemoryDisk(), loop, failed=_fail)
    replica = new_replica(engine, StoppedWallClock())
    log = structlog.get_logger()
    sweep = Sweep(replica, 1, interval_s=1.0, log=log)
    for number in range(100):
        sweep.remember(family, DocumentId(bytes([number]) * 16), BEFORE_MS)
    owners = cast("CoOwners", Peer(sweep, answer))
    verify = Verify(replica, sweep, owners, interval_s=1.0, log=log)
    await verify.run_once()
    return verify, sweep


def _fail(error: BaseException) -> None:
    raise error


async def test_ids_that_the_sweep_forgets_meanwhile_are_verified_all_the_same() -> None:
    """They were found before; nothing is left to take out."""
    verify, sweep = await _verify([FetchResult.ABSENT, None])
    assert verify.verified_count > 1
    assert verify.contradicted_count == 0
    assert len(sweep.sampled[Family.DELETED]) <= 256


async def test_an_id_of_which_an_owner_is_not_sure_is_asked_about_again() -> None:
    """And what waits stays bounded."""
    verify, sweep = await _verify([FetchResult.UNKNOWN, None])
    assert verify.verified_count == 0
    sampled = sweep.sampled[Family.DELETED]
    assert DocumentId(bytes([0]) * 16) in sampled or len(sampled) == 256


@pytest.mark.parametrize(
    ("family", "answer"),
    [
        (Family.DELETED, copy(CREATED_MS)),
        (Family.DELETED, copy(CREATED_MS, NOW_MS + 1)),
        (Family.EXPIRING, copy(CREATED_MS)),
        (Family.EXPIRING, copy(CREATED_MS, NOW_MS + 1)),
        (Family.EXPIRING, copy(BEFORE_MS)),
    ],
)
async def test_a_copy_that_an_owner_would_serve_contradicts_the_removal(
    family: Family, answer: list[Any]
) -> None:
    """Of a deleted document as of one whose time to live had passed."""
    verify, _ = await _verify(answer, family)
    assert verify.contradicted_count > 1
    assert verify.verified_count == 0


@pytest.mark.parametrize(
    ("family", "answer"),
    [
        (Family.DELETED, copy(CREATED_MS, deleted=True)),
        (Family.EXPIRING, copy(CREATED_MS, BEFORE_MS)),
        (Family.DELETED, copy(BEFORE_MS + 1)),
        (Family.EXPIRING, copy(BEFORE_MS + 1, NOW_MS + 9)),
    ],
)
async def test_what_an_owner_has_yet_to_remove_and_what_is_new_contradict_nothing(
    family: Family, answer: list[Any]
) -> None:
    """Regression: a key that made a new document after its old one was purged was an alarm."""
    verify, sweep = await _verify(answer, family)
    assert (verify.contradicted_count, verify.verified_count) == (0, 0)
    assert sweep.sampled[family]
