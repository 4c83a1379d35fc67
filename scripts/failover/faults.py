"""What befalls nodes while clients are at work, and is made good again while they go on."""

import asyncio
import signal
from collections.abc import Sequence
from typing import Final

from scripts.failover.balancers import Balancer
from scripts.failover.clients import Seen, prepare, watch
from scripts.local_cluster import LocalCluster

FAULTS: Final = ("kill", "drain", "hang")
_BEFORE_S: Final = 0.5
#: A kill and a drain are felt at once or not at all; that a node hangs must be noticed first.
_AFTER_S: Final = {"kill": 1.0, "drain": 0.3, "hang": 2.0}


async def strike(
    fault: str,
    nodes: Sequence[str],
    cluster: LocalCluster,
    balancers: Sequence[Balancer],
    *,
    per_second: int,
) -> list[Seen]:
    """Do ``fault`` to nodes while clients use each balancer, until they are back in rotation."""
    documents = await asyncio.gather(*(prepare(one.url) for one in balancers))
    await asyncio.to_thread(cluster.wait_level)
    struck = asyncio.ensure_future(_meanwhile(fault, nodes, cluster, balancers))
    return list(
        await asyncio.gather(
            *(
                watch(one.url, its, per_second=per_second, meanwhile=struck)
                for one, its in zip(balancers, documents, strict=True)
            )
        )
    )


async def _meanwhile(
    fault: str, nodes: Sequence[str], cluster: LocalCluster, balancers: Sequence[Balancer]
) -> None:
    await asyncio.sleep(_BEFORE_S)
    if fault == "kill":
        for node in nodes:
            await asyncio.to_thread(cluster.kill, node)
    elif fault == "drain":
        await asyncio.to_thread(cluster.stele, "stop", *nodes)
    else:
        for node in nodes:
            cluster.send_signal(node, signal.SIGSTOP)
    await asyncio.sleep(_AFTER_S[fault])
    if fault == "hang":
        for node in nodes:
            cluster.send_signal(node, signal.SIGCONT)
    else:
        await asyncio.to_thread(cluster.stele, "start", *nodes)
    for one in balancers:
        await asyncio.to_thread(one.wait_for, cluster.nodes)
    await asyncio.to_thread(cluster.wait_connected)
