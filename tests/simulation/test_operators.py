"""What operators see, ask for and follow: clocks, copies of a document, a comparison now."""

import asyncio

import pytest

from cluster.ids import NodeId, uuid7
from cluster.settings import AntiEntropySettings
from docservice.documents import DocumentNotFound
from kvnode.health import Weight, check, troubles
from kvnode.jobs import JobState
from kvnode.metrics import NodeCollector
from kvnode.regionviews import regions
from kvnode.ringviews import members, owners, ring
from tests.simulation.cluster import SimCluster, settings_of
from tests.simulation.convergence import level
from tests.simulation.run import seeds, simulate
from tests.simulation.test_regions import SHIPPED, TWO, cut_off, heal

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
    """Of the node whose clock it is, and of nobody once it is right again."""

    def warned(cluster: SimCluster, name: str) -> list[str]:
        return troubles(check(cluster.nodes[name].serving), Weight.WARNING)

    async def scenario(cluster: SimCluster) -> None:
        for machine in cluster.nodes.values():
            machine.clock.jump(-machine.clock.ahead_s)
        await asyncio.sleep(5.0)
        assert not any(warned(cluster, name) for name in cluster.nodes)
        cluster.nodes["a2"].clock.jump(4.0)
        await asyncio.sleep(5.0)
        (warning,) = warned(cluster, "a2")
        assert warning.startswith("has a clock that is ")
        assert warning.endswith(" s from those of a1, a3")
        assert warned(cluster, "a1") == warned(cluster, "a3") == []
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
def test_a_node_tells_of_all_regions_also_of_one_that_is_cut_off(seed: int) -> None:
    """Who owns what there, who is up, and what each replica there holds of a document."""

    async def scenario(cluster: SimCluster) -> None:
        document_id = (await cluster.create("a1", "secret", write=2)).document_id
        await level(cluster)
        await asyncio.sleep(5.0)
        serving = cluster.nodes["a1"].serving

        shown = await owners(serving, document_id)
        held, besides = shown["replicas"][:6], shown["replicas"][6:]
        assert [one["region"] for one in held] == ["a"] * 3 + ["b"] * 3
        assert [one["node"] for one in held] == shown["owners"]
        assert [one["record"] for one in held] == [held[0]["record"]] * 6
        assert [one["region"] for one in besides] == ["a", "b"]
        assert not any(one["owner"] for one in besides)
        other = ring(serving)["other_regions"]["b"]
        assert other["digest"] == ring(cluster.nodes["b1"].serving)["digest"]
        assert (other["under_replicated"], other["quorum_share"]) == (0, 1.0)
        *_, b1, _, _, _ = members(serving)["members"]
        assert (b1["id"], b1["region"], b1["state"]) == ("b1", "b", "alive")
        assert b1["told_ms"] >= regions(serving)["regions"]["b"]["watermark_ms"]
        assert "reaches" not in repr(troubles(check(serving), Weight.WARNING))

        cut_off(cluster)
        cut_ms = serving.clock.wall_ms()
        await asyncio.sleep(20.0)
        shown = await owners(serving, document_id)
        assert all(one["answered"] == (one["region"] == "a") for one in shown["replicas"])
        other = ring(serving)["other_regions"]["b"]
        assert (other["under_replicated"], other["quorum_share"]) == (other["partitions"], 0.0)
        assert members(serving)["members"][-1]["state"] == "unreachable"
        since_ms = regions(serving)["regions"]["b"]["cut_off_since_ms"]
        assert cut_ms <= since_ms < cut_ms + 15_000
        assert "reaches no node of region b" in troubles(check(serving), Weight.WARNING)
        await heal(cluster)
        await level(cluster)
        assert regions(serving)["regions"]["b"]["cut_off_since_ms"] is None

    simulate(scenario, seed, settings_of(4, regions="ab", between=SHIPPED))


@seeds(2)
def test_reads_that_ask_other_regions_are_counted(seed: int) -> None:
    """And those for which that was worth it."""

    async def scenario(cluster: SimCluster) -> None:
        serving = cluster.nodes["b1"].serving
        await cluster.read("b1", (await cluster.create("a1", "young", write=2)).document_id)
        with pytest.raises(DocumentNotFound):
            await cluster.read("b1", uuid7(serving.clock.wall_ms(), bytes(10)))
        counts = {
            sample.name: sample.value
            for family in NodeCollector(serving).collect()
            for sample in family.samples
        }
        assert counts["stele_reads_elsewhere_total"] == 2
        assert counts["stele_reads_found_elsewhere_total"] == 1
        await level(cluster)

    simulate(scenario, seed, TWO)


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
