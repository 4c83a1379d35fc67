"""The space of what was removed goes back to the file system, and nothing else goes with it."""

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from random import Random

import structlog

from cluster.settings import LifecycleSettings
from kvnode.codec import encode
from kvnode.ending import ending_of
from kvnode.record import Create, Record
from kvnode.replica import Replica
from kvnode.services.budget import Budget
from kvnode.services.loop import Service, Work
from kvnode.services.reclaim import Reclaim
from kvnode.services.sweep import Sweep
from tests.contract.engines import Bench, LevelDBBench
from tests.support.http import StoppedWallClock
from tests.support.replicas import new_replica

BUCKET_S = 10.0
DOCUMENTS = 2000
CONTENT_BYTES = 1000
PARTITIONS = 4


def test_compaction_changes_nothing_that_can_be_read(bench: Bench) -> None:
    """Also not what is written while it goes on."""
    for number in range(100):
        bench.engine.put(b"%03d" % number, b"v" * 1000)
    bench.settle()
    for number in range(0, 100, 2):
        bench.engine.delete(b"%03d" % number)
    bench.settle()

    async def compact() -> None:
        bench.engine.put(b"050", b"again")
        assert await bench.engine.compact(b"0", b"1") > 0

    bench.run(compact())
    bench.settle()
    bench.reopen()
    found = bench.engine.scan(b"0", b"1", 200)
    odd = [b"%03d" % number for number in range(1, 100, 2)]
    assert [key for key, _ in found] == sorted([*odd, b"050"])
    assert dict(found)[b"050"] == b"again"


def documents(clock: StoppedWallClock, ttl_ms: int) -> Iterator[tuple[bytes, bytes]]:
    """(id, encoded record) of documents that LevelDB can't compress."""
    chance = Random(ttl_ms)
    for _ in range(DOCUMENTS):
        content, document_id = chance.randbytes(CONTENT_BYTES), chance.randbytes(16)
        expires_at_ms = clock.now_ms + ttl_ms if ttl_ms else 0
        create = Create(content, clock.now_ms, expires_at_ms, sha256(content).digest())
        yield document_id, encode(document_id, Record(create))


def test_the_space_of_expired_documents_is_given_back(tmp_path: Path) -> None:
    """Half of the documents expire, and with them goes half of the directory."""
    bench, clock = LevelDBBench(tmp_path), StoppedWallClock()
    lifecycle = LifecycleSettings(purge_bucket_s=BUCKET_S, clock_skew_max_s=0.0)
    replica = new_replica(bench.engine, clock, partitions=PARTITIONS, lifecycle=lifecycle)
    for ttl_ms in (0, 1000):
        for document_id, encoded in documents(clock, ttl_ms):
            replica.records.put(document_id, encoded, ending_of(encoded), None)
        bench.settle()
    full_bytes = size_bytes(bench)
    assert full_bytes > 2 * DOCUMENTS * CONTENT_BYTES
    clock.now_ms += int(2 * BUCKET_S * 1000)
    sweep, reclaim = services_of(replica, clock)
    bench.run(until_idle(sweep))
    assert replica.records.count == DOCUMENTS
    bench.run(until_idle(reclaim))
    assert size_bytes(bench) < 0.6 * full_bytes
    bench.close()
    assert bench.failures == []


def services_of(replica: Replica, clock: StoppedWallClock) -> tuple[Sweep, Reclaim]:
    """The two that give space back, with bytes to spare."""
    log = structlog.get_logger()
    sweep = Sweep(replica, PARTITIONS, interval_s=1.0, log=log)
    reclaim = Reclaim(
        replica,
        sweep,
        lambda: PARTITIONS,
        interval_s=1.0,
        budget=Budget({Reclaim.name: 1 << 30}),
        clock=clock,
        log=log,
    )
    return sweep, reclaim


async def until_idle(service: Service) -> None:
    """Let a service do all that there is to do."""
    while await service.run_once() is not Work.IDLE:
        pass


def size_bytes(bench: LevelDBBench) -> int:
    """Of the directory; a log that is not in a table yet counts as well."""
    return sum(file.stat().st_size for file in bench.directory.iterdir())
