"""What operators see, ask for and follow: clocks, copies of a document, a comparison now."""

import asyncio

from cluster.ids import NodeId
from cluster.settings import AntiEntropySettings
from kvnode.health import Weight, check, troubles
from kvnode.jobs import JobState
from kvnode.ringviews import owners
from tests.simulation.cluster import SimCluster, settings_of
from tests.simulation.run import seeds, simulate

SELDOM = settings_of(antientropy=AntiEntropySettings(interval_s=600.0))


@seeds(2)
def test_a_repair_is_done_when_every_peer_was_compared_to_the_end(seed: int) -> None:
    """It waits for the one that is away, and says so."""

    async def scenario(cluster: SimCluster) -> None:
        antientropy = cluster.nodes["a1"].serving.background.antientropy
        cluster.kill("a3")
        await cluster.noticed("a3")
        job = antientropy.repair_now()
        assert job.total == 2 * len(cluster.ring.partitions_of(NodeId("a1")))
        await cluster.until(lambda: job.detail["peers"] == ["a3"], 20.0, lambda: job)
        assert (job.state, job.done) == (JobState.RUNNING, job.total // 2)
        assert antientropy.repair_now() is job
        await cluster.restart("a3")
        await cluster.until(lambda: job.state is JobState.DONE, 90.0, lambda: job)
        assert job.done == job.total

    simulate(scenario, seed, SELDOM)


@seeds(2)
def test_a_clock_that_is_set_wrong_is_a_warning_within_five_seconds(seed: int) -> None:
    """Of every node that hears of it, and of nobody once it is right again."""

    def warned(cluster: SimCluster, name: str) -> list[str]:
        return troubles(check(cluster.nodes[name].serving), Weight.WARNING)

    async def scenario(cluster: SimCluster) -> None:
        for machine in cluster.nodes.values():
            machine.clock.jump(-machine.clock.ahead_s)
        await asyncio.sleep(5.0)
        assert not any(warned(cluster, name) for name in cluster.nodes)
        cluster.nodes["a2"].clock.jump(4.0)
        await asyncio.sleep(5.0)
        assert warned(cluster, "a1")[0].endswith("s from a2's")
        assert "a1's" in warned(cluster, "a2")[0]
        assert "a3's" in warned(cluster, "a2")[0]
        *_, line = cluster.nodes["a3"].events("clock.diverged")
        assert line.fields["peer"] == "a2"
        assert abs(line.fields["ahead_s"] - 4.0) < 0.1
        assert cluster.nodes["a1"].serving.unready_reasons() == []
        cluster.nodes["a2"].clock.jump(-4.0)
        await asyncio.sleep(5.0)
        assert not any(warned(cluster, name) for name in cluster.nodes)
        assert cluster.nodes["a3"].events("clock.converged")

    simulate(scenario, seed)


@seeds(2)
def test_a_clock_in_another_region_is_followed_too(seed: int) -> None:
    """It was measured once, when the regions met, and believed for as long as they stayed so."""

    async def scenario(cluster: SimCluster) -> None:
        skews = cluster.nodes["a1"].serving.gossip.skews
        clock = cluster.nodes["b2"].clock

        def is_known() -> bool:
            skew = skews.of(NodeId("b2"))
            true_s = clock.ahead_s - cluster.nodes["a1"].clock.ahead_s
            return skew is not None and abs(skew.ahead_s - true_s) <= skew.error_s + 0.1

        for seconds in (0.0, 9.0, -9.0):
            clock.jump(seconds)
            await cluster.until(is_known, 5.0, lambda: skews.of(NodeId("b2")))

    simulate(scenario, seed, settings_of(regions="ab"))


@seeds(2)
def test_every_node_tells_what_all_hold_of_a_document(seed: int) -> None:
    """Also that one does not answer, and who keeps a copy for it."""

    async def scenario(cluster: SimCluster) -> None:
        cluster.kill("a3")
        await cluster.noticed("a3")
        document_id = (await cluster.create("a1", "secret")).document_id
        await asyncio.sleep(1.0)
        shown = await owners(cluster.nodes["a1"].serving, document_id)
        assert shown == await owners(cluster.nodes["a2"].serving, document_id)
        replicas = {replica["node"]: replica for replica in shown["replicas"]}
        assert list(replicas) == [*shown["owners"], *(replicas.keys() - shown["owners"])]
        assert (replicas["a3"]["answered"], replicas["a3"]["reason"]) == (False, "unreachable")
        holders = [one["node"] for one in shown["replicas"] if one.get("hints_for") == ("a3",)]
        assert len(holders) == 1
        assert "secret" not in repr(shown)

    simulate(scenario, seed)


@seeds(2)
def test_a_repair_that_is_called_off_ends_at_once(seed: int) -> None:
    """The rounds go on as if nobody had asked."""

    async def scenario(cluster: SimCluster) -> None:
        serving = cluster.nodes["a1"].serving
        job = serving.background.antientropy.repair_now()
        serving.jobs.cancel(job)
        assert job.state is JobState.CANCELLED
        again = serving.background.antientropy.repair_now()
        assert again is not job
        await cluster.until(lambda: again.state is JobState.DONE, 30.0, lambda: again)

    simulate(scenario, seed, SELDOM)
