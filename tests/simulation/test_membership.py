"""Who takes whom for dead, and what both sides of a cut can still do."""

import asyncio
import contextlib
from typing import Final

import pytest

from cluster.ids import NodeId
from cluster.membership import DEAD_INTERVALS, Member, Status
from docservice.documents import DocumentDeleted
from kvnode.errors import StoreError, Unavailable, WriteTimeout
from kvnode.health import CONNECT_GRACE_S
from tests.simulation.cluster import DOCS, SimCluster, settings_of
from tests.simulation.convergence import converge
from tests.simulation.run import seeds, simulate

#: A silence after which phi passes its threshold, and some more; see ``cluster.detector``.
SUSPECTED_S: Final = 8.0
#: A few rounds of gossip.
ROUNDS_S: Final = 5.0
DOUBTS: Final = ("member.suspected", "member.declared_dead")


def seen(cluster: SimCluster, watcher: str, name: str) -> Member:
    """What a node knows of another one."""
    members = cluster.nodes[watcher].serving.gossip.membership.members()
    return next(member for member in members if member.node == name)


@seeds(3)
def test_a_dead_node_is_revived_by_its_restart(seed: int) -> None:
    """Suspected, then dead; the next boot's incarnation outbids every doubt about this one."""

    async def scenario(cluster: SimCluster) -> None:
        await asyncio.sleep(ROUNDS_S)
        cluster.kill("a3")
        await asyncio.sleep(SUSPECTED_S)
        assert seen(cluster, "a1", "a3").status is Status.SUSPECT
        await asyncio.sleep(DEAD_INTERVALS)
        for watcher in ("a1", "a2", "a4", "a5"):
            assert seen(cluster, watcher, "a3").status is Status.DEAD
        await cluster.restart("a3")
        await asyncio.sleep(ROUNDS_S)
        for watcher in cluster.nodes:
            assert seen(cluster, watcher, "a3").status is Status.ALIVE
            assert seen(cluster, watcher, "a3").incarnation == 2
        assert not [line for event in DOUBTS for line in cluster.nodes["a3"].events(event)]

    simulate(scenario, seed, settings_of(5))


@seeds(12)
def test_a_node_that_was_away_for_a_moment_is_not_doubted_when_it_is_back(seed: int) -> None:
    """Its silence has nearly been long enough, and the next round of gossip is yet to come."""

    async def scenario(cluster: SimCluster) -> None:
        await asyncio.sleep(ROUNDS_S)
        cluster.kill("a3")
        await asyncio.sleep(cluster.loop.stream("away").uniform(1.5, 3.5))
        await cluster.restart("a3")
        back_s = cluster.loop.time()
        await asyncio.sleep(ROUNDS_S)
        for machine in cluster.nodes.values():
            doubts = [line for event in DOUBTS for line in machine.events(event)]
            assert not [line for line in doubts if line.at_s > back_s]

    simulate(scenario, seed)


@seeds(3)
def test_a_peer_that_dies_right_after_the_start_takes_no_other_node_with_it(seed: int) -> None:
    """Nodes wait for peers that are late; one that was there and is gone is not late.

    A load balancer would otherwise find nobody ready, because one node was killed.
    """

    async def scenario(cluster: SimCluster) -> None:
        await cluster.ready()
        others = [cluster.nodes[name].serving for name in ("a1", "a2")]
        await asyncio.sleep(0.2)
        assert all(node.transport.connected(NodeId("a3")) for node in others)
        cluster.kill("a3")
        await asyncio.sleep(0.2)
        assert not any(node.transport.connected(NodeId("a3")) for node in others)
        assert all(node.up_s < CONNECT_GRACE_S for node in others)
        assert [node.unready_reasons() for node in others] == [[], []]

    simulate(scenario, seed, settings_of(3))


@seeds(1)
def test_healthy_nodes_never_doubt_each_other(seed: int) -> None:
    """Five virtual minutes with jitter, drifting clocks and unequal latencies."""

    async def scenario(cluster: SimCluster) -> None:
        cluster.loop.network.latency_s["a1", "a2"] = (0.0, 0.4)
        await asyncio.sleep(300.0)
        for machine in cluster.nodes.values():
            assert not [line for event in DOUBTS for line in machine.events(event)]
            assert not machine.events("peer.disconnected")

    simulate(scenario, seed, settings_of(5))


@seeds(3)
def test_a_stopped_node_doubts_nobody_afterwards(seed: int) -> None:
    """SIGSTOP for longer than it takes to be dead: it refutes that, and the silence was its own."""

    async def scenario(cluster: SimCluster) -> None:
        await asyncio.sleep(ROUNDS_S)
        cluster.pause("a3")
        await asyncio.sleep(DEAD_INTERVALS + SUSPECTED_S)
        assert seen(cluster, "a1", "a3").status is Status.DEAD
        cluster.resume("a3")
        await cluster.ready()
        await asyncio.sleep(ROUNDS_S)
        for watcher in cluster.nodes:
            assert seen(cluster, watcher, "a3").status is Status.ALIVE
            assert seen(cluster, watcher, "a3").incarnation == 1
        assert not [line for event in DOUBTS for line in cluster.nodes["a3"].events(event)]

    simulate(scenario, seed, settings_of(5))


@seeds(3)
def test_a_link_that_is_cut_one_way_makes_nobody_dead(seed: int) -> None:
    """The two ends can't talk, but hear of each other through the third, and so do clients."""

    async def scenario(cluster: SimCluster) -> None:
        cluster.loop.network.cut("a1", "a3")
        await asyncio.sleep(SUSPECTED_S)
        assert not cluster.nodes["a1"].serving.is_up(NodeId("a3"))
        assert not cluster.nodes["a3"].serving.is_up(NodeId("a1"))
        for via in ("a1", "a3"):
            await cluster.create(via, f"via {via}", write=2)
            with pytest.raises(Unavailable):
                await cluster.create(via, f"not via {via}", write=3)
        await cluster.create("a2", "via a2", write=3)
        await asyncio.sleep(DEAD_INTERVALS)
        for machine in cluster.nodes.values():
            assert not machine.events("member.declared_dead")
        await cluster.calm()
        await converge(cluster)

    simulate(scenario, seed)


@seeds(3)
def test_both_sides_of_a_cut_serve_what_their_quorums_allow_and_merge_afterwards(
    seed: int,
) -> None:
    """A document that one side deletes while the other reads it ends deleted (scenario 23)."""

    async def scenario(cluster: SimCluster) -> None:
        majority, minority = ("a1", "a2", DOCS), ("a3",)
        before = await cluster.create("a1", "before", write=3)
        cluster.loop.network.partition(majority, minority)
        with pytest.raises(WriteTimeout):  # nobody has noticed yet, so it may have been written
            await cluster.create("a3", "unnoticed", write=2, timeout_s=0.5)
        await asyncio.sleep(SUSPECTED_S)
        for via in majority:
            created = await cluster.create(via, f"majority, via {via}", write=2)
            await cluster.read(via, created.document_id, read=2)
        with pytest.raises(Unavailable):
            await cluster.create("a3", "two of one", write=2)
        with pytest.raises(Unavailable):
            await cluster.read("a3", before.document_id, read=2)
        await cluster.create("a3", "minority", write=1)
        await cluster.delete("a1", before.document_id, write=2)
        await cluster.read("a3", before.document_id, read=1)
        await cluster.calm()
        await converge(cluster)
        for via in cluster.machines:
            with pytest.raises(DocumentDeleted):
                await cluster.read(via, before.document_id)

    simulate(scenario, seed)


@seeds(3)
def test_a_write_that_timed_out_is_settled_once_the_cut_is_over(seed: int) -> None:
    """Nobody could tell whether it happened; afterwards everybody says the same (scenario 45)."""

    async def scenario(cluster: SimCluster) -> None:
        document_id = (await cluster.create("a1", "to be deleted", write=3)).document_id
        cluster.loop.network.partition(["a1", DOCS], ["a2", "a3"])
        with pytest.raises(WriteTimeout):
            await cluster.delete("a1", document_id, write=2, timeout_s=0.3)
        await cluster.read("a2", document_id, read=2)
        await cluster.calm()
        await converge(cluster)
        for via in cluster.machines:
            with pytest.raises(DocumentDeleted):
                await cluster.read(via, document_id)

    simulate(scenario, seed)


@seeds(3)
def test_connections_that_break_are_made_again_and_cost_no_request_its_answer(seed: int) -> None:
    """Resets between two nodes, again and again, under load: every request ends definitely."""

    async def scenario(cluster: SimCluster) -> None:
        async def client(via: str) -> None:
            for count in range(40):
                with contextlib.suppress(StoreError):
                    await cluster.create(via, f"{via}/{count}", write=3, timeout_s=0.5)

        clients = asyncio.gather(*(client(via) for via in cluster.machines))
        for one, other in [("a1", "a2"), ("a2", "a3"), ("a1", "a3")] * 5:
            await asyncio.sleep(0.02)
            cluster.loop.network.reset(one, other)
        await clients
        await cluster.ready()
        await converge(cluster)

    simulate(scenario, seed)
