"""What operators ask for: a comparison now, trust in a disk that nobody else can vouch for."""

import msgspec

from cluster.ids import NodeId, PartitionId
from cluster.settings import AntiEntropySettings
from kvnode.jobs import JobState
from tests.simulation.cluster import SimCluster, settings_of
from tests.simulation.run import seeds, simulate

SELDOM = settings_of(antientropy=AntiEntropySettings(interval_s=600.0))
OFTEN = settings_of(antientropy=AntiEntropySettings(interval_s=2.0))


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


@seeds(2)
def test_when_all_owners_are_fenced_an_operator_can_trust_one_of_them(seed: int) -> None:
    """Without that nobody has anything to rebuild from, and the documents are out of reach."""

    async def scenario(cluster: SimCluster) -> None:
        created = await cluster.create("a1", "out of reach", write=3)
        for machine in cluster.nodes.values():
            fence_all(cluster, machine.name)
        with_quorum = [name for name in cluster.nodes if not unready(cluster, name)]
        assert with_quorum == []
        trusted = cluster.nodes["a2"].serving
        trusted.background.rebuild.trust(trusted.jobs)
        await cluster.until(
            lambda: not any(unready(cluster, name) for name in cluster.nodes),
            60.0,
            lambda: [unready(cluster, name) for name in cluster.nodes],
        )
        for name in cluster.nodes:
            found = await cluster.read(name, created.document_id, read=3)
            assert found.create.content == b"out of reach"

    simulate(scenario, seed, OFTEN)


@seeds(2)
def test_two_fenced_owners_are_rebuilt_from_the_third(seed: int) -> None:
    """They must not wait for each other."""

    async def scenario(cluster: SimCluster) -> None:
        created = await cluster.create("a1", "on the third", write=3)
        for name in ("a1", "a2"):
            fence_all(cluster, name)
        assert unready(cluster, "a1")
        await cluster.until(
            lambda: not any(unready(cluster, name) for name in cluster.nodes),
            60.0,
            lambda: [unready(cluster, name) for name in cluster.nodes],
        )
        found = await cluster.read("a1", created.document_id, read=3)
        assert found.create.content == b"on the third"

    simulate(scenario, seed, OFTEN)


def fence_all(cluster: SimCluster, name: str) -> None:
    """As if its disk were an old copy."""
    replica = cluster.nodes[name].serving.replica
    for partition in range(cluster.ring.partitions):
        floor = replica.lifecycle.floor(partition)
        replica.set_floor(PartitionId(partition), msgspec.structs.replace(floor, fenced=True))


def unready(cluster: SimCluster, name: str) -> list[str]:
    """Why a node does not serve."""
    return cluster.nodes[name].serving.unready_reasons()
