"""What operators ask for and follow: a comparison now."""

from cluster.ids import NodeId
from cluster.settings import AntiEntropySettings
from kvnode.jobs import JobState
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
