"""Between two regions: how far behind one is under load, and how fast it catches up.

Rules
-----
1. Load is half of what region a takes: creates by clients that wait for their answer and no longer,
   then half as many at fixed times.
2. A document has arrived when a node of the other region finds it on its own region's disks. Probes
   have a key: their ids tell no time, so that no node asks the other region for them.
3. What is known is older: a region's watermark is told now and then, and says that everything from
   before is there.
4. Backlog is written while all nodes of the other region are stopped, and is an hour's worth at
   BACKLOG_PER_S. Catching up is from when the first batch has gone until nothing waits any more.
"""

import asyncio
import secrets
import time
from collections.abc import Iterator, Sequence
from itertools import count, cycle
from pathlib import Path
from random import Random
from typing import Any, Final

import aiohttp
import msgspec

from scripts.bench import deck, stage
from scripts.bench.sample import quantile
from scripts.local_cluster import LocalCluster, wait_until

#: How much of a second's creates a backlog of an hour holds.
BACKLOG_PER_S: Final = 50
NODES: Final = 3
_CLIENTS: Final = 16
_PROBES: Final = 8
_PROBE_S: Final = 0.005
_WATCH_S: Final = 0.05
_LOADED_AT_ONCE: Final = 20_000
_CAUGHT_UP_WITHIN_S: Final = 1_800.0


class RegionsResult(msgspec.Struct, frozen=True, kw_only=True):
    """What is written as JSON."""

    nodes: int
    #: Creates that region a takes, and those that were offered while it was measured.
    most_per_s: float
    offered_per_s: float
    seconds: float
    #: From the answer to a create until it is read in the other region.
    arrival_ms_p50: float
    arrival_ms_p99: float
    probes: int
    #: Of what the other region's nodes know, by its watermark.
    known_ms_p50: float
    known_ms_p99: float
    #: What waited, and the bytes in which it was sent.
    backlog_rows: int
    sent_bytes: int
    caught_up_s: float


class _Load:
    """Creates at the nodes of one region.

    Args:
        rate_per_s: At fixed times; None: as fast as they are answered.
    """

    def __init__(
        self, http: aiohttp.ClientSession, urls: Sequence[str], rate_per_s: float | None
    ) -> None:
        self._http = http
        self._urls = cycle(urls)
        self._rate_per_s = rate_per_s
        self._contents = cycle(list(deck.contents(256, Random(1))))
        self._turns = count()
        self.done = 0

    async def run(self, seconds: float) -> None:
        """Raises StageError: a create was refused."""
        began_s = time.monotonic()
        async with asyncio.TaskGroup() as clients:
            for _ in range(_CLIENTS):
                clients.create_task(self._client(began_s, began_s + seconds))

    async def _client(self, began_s: float, until_s: float) -> None:
        while time.monotonic() < until_s:
            if self._rate_per_s is not None:
                turn_s = began_s + next(self._turns) / self._rate_per_s
                await asyncio.sleep(turn_s - time.monotonic())
            await create(self._http, next(self._urls), next(self._contents))
            self.done += 1


async def create(http: aiohttp.ClientSession, url: str, content: str, key: str = "") -> str:
    """Its path. Raises StageError."""
    headers = {"Idempotency-Key": key} if key else {}
    body = {"content": content}
    async with http.post(f"{url}/documents", json=body, headers=headers) as answer:
        if answer.status != 201:
            raise stage.StageError(f"a create was answered {answer.status}.")
        return answer.headers["Location"]


async def _arrivals(
    http: aiohttp.ClientSession, near: Iterator[str], far: Iterator[str], until_s: float
) -> list[float]:
    """Milliseconds until documents are in the other region, one after the other."""
    took_ms = []
    while time.monotonic() < until_s:
        path = await create(http, next(near), "a probe", secrets.token_hex(8))
        created_s, url = time.monotonic(), f"{next(far)}{path}"
        while True:
            async with http.get(url) as answer:
                if answer.status == 200:
                    break
            await asyncio.sleep(_PROBE_S)
        took_ms.append((time.monotonic() - created_s) * 1000)
    return took_ms


async def _known(http: aiohttp.ClientSession, ops_url: str, until_s: float) -> list[float]:
    """Milliseconds by which what a node knows of region a is old, looked at again and again."""
    old_ms = []
    while time.monotonic() < until_s:
        async with http.get(f"{ops_url}/admin/regions") as answer:
            lag_s = (await answer.json())["regions"]["a"]["lag_s"]
        if lag_s is None:
            raise stage.StageError("a watermark is not known.")
        old_ms.append(lag_s * 1000)
        await asyncio.sleep(_WATCH_S)
    return old_ms


async def _lag(cluster: LocalCluster, seconds: float) -> dict[str, Any]:
    near, far = ([cluster.http_url(one) for one in cluster.regions[name]] for name in "ab")
    ops = [cluster.ops_url(node) for node in cluster.regions["b"]]
    async with aiohttp.ClientSession() as http:
        most = _Load(http, near, None)
        await most.run(seconds / 3)
        most_per_s = most.done / (seconds / 3)
        await asyncio.to_thread(cluster.wait_level)
        until_s = time.monotonic() + seconds
        probing, probed = cycle(near), cycle(far)
        half = _Load(http, near, most_per_s / 2)
        _, arrivals, known = await asyncio.gather(
            half.run(seconds),
            asyncio.gather(*(_arrivals(http, probing, probed, until_s) for _ in range(_PROBES))),
            asyncio.gather(*(_known(http, one, until_s) for one in ops)),
        )
    took = [(one, 1.0) for some in arrivals for one in some]
    old = [(one, 1.0) for some in known for one in some]
    return {
        "most_per_s": most_per_s,
        "offered_per_s": most_per_s / 2,
        "seconds": seconds,
        "arrival_ms_p50": quantile(took, 0.5),
        "arrival_ms_p99": quantile(took, 0.99),
        "probes": len(took),
        "known_ms_p50": quantile(old, 0.5),
        "known_ms_p99": quantile(old, 0.99),
    }


def _catch_up(cluster: LocalCluster, rows: int) -> dict[str, Any]:
    near, far = cluster.regions["a"], cluster.regions["b"]
    urls = [cluster.http_url(node) for node in near]
    cluster.stele("stop", *far)
    random = Random(2)
    for start in range(0, rows, _LOADED_AT_ONCE):
        contents = list(deck.contents(min(_LOADED_AT_ONCE, rows - start), random))
        stage.load_documents(urls, contents, None, lambda _: None)
    held = _sums(cluster)
    for node in far:
        cluster.start_at_once(node)
    wait_until(lambda: _sums(cluster)["shipped_bytes"] > held["shipped_bytes"])
    began_s = time.monotonic()
    wait_until(lambda: not _sums(cluster)["waiting"], _CAUGHT_UP_WITHIN_S)
    return {
        "backlog_rows": held["waiting"],
        "sent_bytes": _sums(cluster)["shipped_bytes"] - held["shipped_bytes"],
        "caught_up_s": time.monotonic() - began_s,
    }


def _of_b(cluster: LocalCluster, node: str) -> dict[str, Any]:
    said: dict[str, Any] = cluster.view(node, "regions")["regions"]["b"]
    return said


def _sums(cluster: LocalCluster) -> dict[str, int]:
    views = [_of_b(cluster, node) for node in cluster.regions["a"]]
    names = ("waiting", "shipped_bytes")
    return {name: sum(view[name] for view in views) for name in names}


def measure_regions(directory: Path, seconds: float, backlog_rows: int) -> RegionsResult:
    """On a cluster of its own, with default settings, that writes to ``directory``.

    Raises:
        ClusterError, StageError, BulkError: nothing that was started runs.
    """
    cluster = LocalCluster(directory, nodes=NODES, regions=2)
    try:
        cluster.up()
        lag = asyncio.run(_lag(cluster, seconds))
        cluster.wait_level()
        return RegionsResult(nodes=NODES, **lag, **_catch_up(cluster, backlog_rows))
    except (OSError, aiohttp.ClientError, ExceptionGroup) as error:
        raise stage.StageError(f"between regions: {error!r}.") from error
    finally:
        cluster.close()
