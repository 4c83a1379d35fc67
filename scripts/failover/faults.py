"""What befalls a node while clients are at work, and what is made good again."""

import asyncio
import signal
from typing import Final

from scripts.failover.balancers import Balancer
from scripts.failover.clients import Seen, watch
from scripts.local_cluster import LocalCluster

FAULTS: Final = ("kill", "drain", "hang")
#: Before the fault, and after it: longer than a balancer takes to notice.
_BEFORE_S: Final = 0.5
_AFTER_S: Final = 2.0


async def strike(
    fault: str, node: str, cluster: LocalCluster, balancer: Balancer, *, per_second: int
) -> Seen:
    """Do ``fault`` to a node under load; it is back in rotation, and connected, on return."""

    async def meanwhile() -> None:
        await asyncio.sleep(_BEFORE_S)
        if fault == "kill":
            await asyncio.to_thread(cluster.kill, node)
        elif fault == "drain":
            await asyncio.to_thread(cluster.stele, "stop", node)
        else:
            cluster.send_signal(node, signal.SIGSTOP)
        await asyncio.sleep(_AFTER_S)
        if fault == "hang":
            cluster.send_signal(node, signal.SIGCONT)

    seen = await watch(balancer.url, per_second=per_second, meanwhile=meanwhile)
    if fault != "hang":
        await asyncio.to_thread(cluster.start, node)
    await asyncio.to_thread(balancer.wait_for, cluster.nodes)
    await asyncio.to_thread(cluster.wait_connected)
    return seen
