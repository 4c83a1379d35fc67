"""A node that is taken out of service: what it has handed on when it says that it is drained."""

import asyncio

import pytest

from cluster.settings import EdgeSettings, HintSettings, RegionSettings
from kvnode.drains import drain, end_drain
from kvnode.errors import Refused
from kvnode.jobs import JobState
from kvnode.services.draining import INTERVAL_S, Draining
from tests.simulation.cluster import SimCluster, settings_of
from tests.simulation.convergence import level
from tests.simulation.run import seeds, simulate
from tests.simulation.test_handoff import create_while_down
from tests.simulation.test_regions import TWO, cut_off

#: How long balancers need to hear of it.
QUIET_S = EdgeSettings().drain_s
#: What is kept for others is not handed on at once.
SLOW = settings_of(
    regions="ab",
    hints=HintSettings(rate_bytes_per_s=2_000),
    between=RegionSettings(ship_interval_s=20.0),
)
#: Two looks of the service, and the jitter between them.
LOOKS_S = 2.5 * INTERVAL_S


def draining(cluster: SimCluster, name: str) -> Draining:
    """What an operator tells a node."""
    return cluster.nodes[name].serving.background.draining


@seeds(2)
def test_a_drained_node_can_be_lost_and_nothing_with_it(seed: int) -> None:
    """Neither what it kept for a node of its region, nor what another region had yet to get."""

    async def scenario(cluster: SimCluster) -> None:
        missed = await create_while_down(cluster, "a3", count=40)
        cluster.nodes["a3"].start()
        await cluster.until(lambda: cluster.agree("a1", "a3"), 10.0, "a1 does not hold a3 for up")
        replica = cluster.nodes["a1"].serving.replica
        job = draining(cluster, "a1").begin()
        assert replica.hints.held > 0
        assert replica.outbox.waiting("b") > 0
        assert job.total == replica.hints.held + replica.outbox.waiting("b")
        assert cluster.nodes["a1"].serving.unready_reasons() == ["draining, as an operator asked"]
        await cluster.until(lambda: job.state is JobState.DONE, 60.0, lambda: job)
        assert (job.done, job.detail["writes"]) == (job.total, 0)
        cluster.power_off("a1")
        for name in ("a3", *cluster.region("b")):
            for document_id in missed:
                assert cluster.nodes[name].stored(document_id) is not None, name
        assert cluster.nodes["a1"].events("node.drained")

    simulate(scenario, seed, SLOW)


@seeds(2)
def test_what_can_not_be_handed_on_holds_up_no_draining(seed: int) -> None:
    """It is on the node's disk, and there when it is started again."""

    async def scenario(cluster: SimCluster) -> None:
        cut_off(cluster)
        missed = await create_while_down(cluster, "a3", count=5)
        job = draining(cluster, "a1").begin()
        await asyncio.sleep(QUIET_S + LOOKS_S)
        assert (job.state, job.total) == (JobState.DONE, 0)
        cluster.kill("a1")
        cluster.loop.network.heal_all()
        await cluster.restart("a1", "a3")
        assert cluster.nodes["a1"].serving.unready_reasons() == []
        await level(cluster)
        for name in ("a3", *cluster.region("b")):
            assert all(cluster.nodes[name].stored(document_id) for document_id in missed), name

    simulate(scenario, seed, TWO)


@seeds(2)
def test_a_node_is_drained_only_when_clients_have_left_it(seed: int) -> None:
    """Those that balancers still send, and the one request that takes long."""

    async def scenario(cluster: SimCluster) -> None:
        leaving = draining(cluster, "a1")
        requests = {"answered": 0, "under way": 0}
        leaving.requests = lambda: (requests["answered"], requests["under way"])
        job = leaving.begin()
        states: list[JobState] = []
        for _ in range(8):
            requests["answered"] += 1
            await asyncio.sleep(QUIET_S / 2)
        states.append(job.state)
        requests["under way"] = 1
        await asyncio.sleep(QUIET_S + LOOKS_S)
        states.append(job.state)
        requests["under way"] = 0
        await asyncio.sleep(QUIET_S - LOOKS_S)
        states.append(job.state)
        await asyncio.sleep(2 * LOOKS_S)
        assert states == [JobState.RUNNING] * 3
        assert job.state is JobState.DONE

    simulate(scenario, seed)


@pytest.mark.parametrize("done", [False, True])
def test_an_operator_takes_it_back(done: bool) -> None:
    """Before it is done, which calls the job off, and after; and can begin anew."""

    async def scenario(cluster: SimCluster) -> None:
        node = cluster.nodes["a1"].serving
        leaving = draining(cluster, "a1")
        leaving.end()
        job = leaving.begin()
        assert leaving.begin() is job
        if done:
            await asyncio.sleep(QUIET_S + LOOKS_S)
            assert node.unready_reasons() == ["drained, as an operator asked"]
            leaving.end()
        else:
            node.jobs.cancel(job)
        assert job.state is (JobState.DONE if done else JobState.CANCELLED)
        assert node.unready_reasons() == []
        assert leaving.begin() is not job

    simulate(scenario, 0)


@pytest.mark.parametrize(("name", "words"), [("a2", "a2:10000/admin/nodes/a2/drain"), ("c1", "a3")])
def test_a_node_drains_itself_only(name: str, words: str) -> None:
    """And says where the one that was meant is told so, or which there are."""

    async def scenario(cluster: SimCluster) -> None:
        node = cluster.nodes["a1"].serving
        for tell in (drain, end_drain):
            with pytest.raises(Refused, match=words):
                tell(node, name)
        assert node.unready_reasons() == []
        assert drain(node, "a1").kind == "drain"
        end_drain(node, "a1")
        assert node.unready_reasons() == []

    simulate(scenario, 0)


def test_a_process_that_stops_can_not_be_told_to_stay() -> None:
    """It has said goodbye to its balancers already."""

    async def scenario(cluster: SimCluster) -> None:
        leaving = draining(cluster, "a1")
        leaving.leave()
        with pytest.raises(Refused, match="about to stop"):
            leaving.begin()
        leaving.end()
        assert cluster.nodes["a1"].serving.unready_reasons() == ["draining"]

    simulate(scenario, 0, settings_of())
