"""What operators ask of a change of owners: refused in words, begun once, followed to its end."""

import asyncio
import re
from collections.abc import Callable
from functools import partial

import msgspec
import pytest

from cluster.findings import LAYOUT_STUCK_S
from kvnode.changing import Changing
from kvnode.errors import Malformed, Refused
from kvnode.health import Weight, check, troubles
from kvnode.jobs import Job, JobState
from kvnode.layoutviews import layout as layout_view
from tests.simulation.cluster import REGION, SimCluster, settings_of
from tests.simulation.run import seeds, simulate
from tests.simulation.test_ringchange import FOUR, changed, spare


def changing(cluster: SimCluster, name: str = "a1") -> Changing:
    """Of a node."""
    return cluster.nodes[name].serving.changing


def stage(cluster: SimCluster, at: str = "a1", **wanted: object) -> None:
    """As ``POST /admin/layout/stage``."""
    changing(cluster, at).stage(msgspec.json.encode(wanted))


def commit(cluster: SimCluster, epoch: int, at: str = "a1") -> Job:
    """As ``POST /admin/layout/commit``."""
    return changing(cluster, at).commit(msgspec.json.encode({"epoch": epoch}))


def refused(do: Callable[[], object], reason: str) -> None:
    """It is declined, in these words."""
    with pytest.raises(Refused, match=re.escape(reason)):
        do()


@seeds(1)
def test_what_is_staged_is_planned_committed_and_followed_to_its_end(seed: int) -> None:
    """The job counts replicas, and can't be called off once it has begun."""

    async def scenario(cluster: SimCluster) -> None:
        first = changing(cluster)
        for number in range(20):
            await cluster.create("a2", f"body {number}", write=2)
        refused(first.plan, "nothing is staged here")
        stage(cluster, add=[msgspec.to_builtins(spare(cluster))])
        stage(cluster, weights={"a2": 2})
        plan = first.plan()
        assert [one.id for one in plan.nodes if one.joining] == ["a4"]
        assert plan.moves > 0
        refused(lambda: commit(cluster, plan.epoch + 1), "plan it again")
        job = commit(cluster, plan.epoch)
        assert not first.staged
        assert (job.total, job.state) == (plan.moves, JobState.RUNNING)
        jobs = cluster.nodes["a1"].serving.jobs
        refused(lambda: jobs.cancel(job), "goes on to its end")
        refused(lambda: first.leave("a2"), "is being changed")
        await asyncio.sleep(1.0)  # the others hear of it
        refused(lambda: changing(cluster, "a2").replace("a2"), "wait until that has ended")
        seen = []
        while job.state is JobState.RUNNING:
            seen.append((job.done, job.detail["phase"]))
            await asyncio.sleep(0.5)
        assert seen == sorted(seen, key=lambda one: one[0])
        assert list(dict.fromkeys(phase for _, phase in seen))[:4] == [
            "fill",
            "level",
            "switch",
            "retire",
        ]
        await changed(cluster)
        assert job.done == job.total
        view = layout_view(cluster.nodes["a3"].serving)
        its = {one["id"]: one for one in view["regions"][REGION]["members"]}
        assert {name: its[name]["now"] for name in its} == {
            one.id: one.at_end for one in plan.nodes
        }
        assert its["a2"]["weight"] == 2

    simulate(scenario, seed, FOUR)


@seeds(1)
def test_what_can_t_be_done_is_refused_before_anything_is_begun(seed: int) -> None:
    """A change that has begun can't be called off: it must be one that can end."""

    async def scenario(cluster: SimCluster) -> None:
        first, here = changing(cluster), msgspec.to_builtins(spare(cluster))
        there = msgspec.to_builtins(cluster.settings.node[0])
        for body in (
            b"",
            b"[1]",
            b'{"ad": []}',
            b'{"add": [{"id": "a4"}]}',
            b'{"weights": {"a1": 0}}',
        ):
            with pytest.raises(Malformed):
                first.stage(body)
        for wanted, reason in (
            ({"remove": ["a9"]}, "a9 is no member"),
            ({"remove": ["a1"]}, "2 nodes would be left"),
            ({"weights": {"a4": 2}}, "a4 is no member"),
            ({"add": [here | {"region": "b"}]}, "another region"),
            ({"add": [there]}, "a1 is a member of region a already"),
            (
                {"add": [here | {"rpc_port": there["rpc_port"], "host": there["host"]}]},
                "port of a1",
            ),
        ):
            refused(partial(stage, cluster, **wanted), reason)
        assert not first.staged
        refused(lambda: first.leave("a3"), "2 nodes would be left")
        refused(lambda: first.replace("a2"), "this is a1")

        stage(cluster, add=[here])
        refused(lambda: first.leave("a3"), "another change is staged here")
        stage(cluster, at="a2", add=[here])
        await asyncio.sleep(1.0)
        refused(lambda: commit(cluster, 1, at="a2"), "begin at a1")
        cluster.kill("a4")
        await asyncio.sleep(5.0)
        refused(lambda: commit(cluster, 1), "a4 is not reached at")
        await cluster.restart("a4")
        cluster.kill("a3")
        await asyncio.sleep(8.0)
        refused(lambda: commit(cluster, 1), "a3: not connected")
        assert not first.revert()
        assert cluster.rings.layouts[REGION].epoch == 1

    simulate(scenario, seed, FOUR)


@seeds(1)
def test_a_change_that_a_dead_member_holds_up_is_told_and_goes_on_when_it_is_back(
    seed: int,
) -> None:
    """Who waits for whom is said at once, and by the checks after some minutes."""

    async def scenario(cluster: SimCluster) -> None:
        await cluster.create("a2", "body", write=2)
        job = changing(cluster).leave("a4")
        await asyncio.sleep(1.0)
        cluster.kill("a3")
        node = cluster.nodes["a1"].serving
        await asyncio.sleep(60.0)
        assert layout_view(node)["waits_for"] == {"a3": "to settle"}
        assert 40.0 < node.changing.still_s < 61.0
        assert not [one for one in troubles(check(node), Weight.WARNING) if "owners" in one]
        await asyncio.sleep(LAYOUT_STUCK_S)
        (told,) = [one for one in troubles(check(node), Weight.WARNING) if "owners" in one]
        assert told.startswith("waits for a3 to change owners")
        assert job.state is JobState.RUNNING
        await cluster.restart("a3")
        await changed(cluster)
        await asyncio.sleep(1.0)
        assert (job.state, node.changing.still_s) == (JobState.DONE, 0.0)
        assert job.detail["waits_for"] == {}
        left = cluster.nodes["a4"].serving
        assert "no member" in layout_view(left)["outside"]

    simulate(scenario, seed, settings_of(nodes=4))


@seeds(1)
def test_a_disk_that_is_not_trusted_is_believed_again_only_when_it_was_rebuilt(seed: int) -> None:
    """Its peers answer meanwhile; without them it must not begin."""

    async def scenario(cluster: SimCluster) -> None:
        created = [await cluster.create("a1", f"body {n}", write=3) for n in range(20)]
        node = cluster.nodes["a2"].serving
        cluster.kill("a3")
        await asyncio.sleep(8.0)
        refused(lambda: node.changing.replace("a2"), "too few other owners are up")
        assert node.background.rebuild.fenced() == []
        await cluster.restart("a3")
        await asyncio.sleep(8.0)
        job = node.changing.replace("a2")
        assert node.changing.replace("a2") is job
        assert len(node.background.rebuild.fenced()) == job.total
        refused(lambda: node.jobs.cancel(job), "rebuilt")
        for one in created:
            assert (await cluster.read("a1", one.document_id, read=2)).create is not None
        await cluster.until(lambda: job.state is JobState.DONE, 60.0, lambda: job.done)
        assert (job.done, node.background.rebuild.fenced()) == (job.total, [])

    simulate(scenario, seed, settings_of())
