"""Owners change while clients write, read and delete: nothing is lost, and nothing comes back."""

import asyncio
import contextlib

from cluster.ids import NodeId
from cluster.ringchange import Layout, Phase
from cluster.settings import AntiEntropySettings, HintSettings, NodeSettings
from kvnode.errors import StoreError
from scripts.checker.history import NoAnswer
from tests.simulation.cluster import REGION, SimCluster, settings_of
from tests.simulation.convergence import differences, level
from tests.simulation.run import seeds, simulate
from tests.simulation.test_partings import purged
from tests.simulation.test_regions import COMPARED
from tests.simulation.words import say

FOUR = settings_of(spares=1, antientropy=AntiEntropySettings(interval_s=5.0))


def spare(cluster: SimCluster, name: str = "a4") -> NodeSettings:
    """A node that is no member yet."""
    return next(one for one in cluster.settings.node if one.id == name)


def begin(
    cluster: SimCluster, *, add: tuple[str, ...] = (), remove: tuple[str, ...] = ()
) -> Layout:
    """Begin a change of owners at the first member."""
    first = cluster.rings.layouts[REGION].ids[0]
    layouts = cluster.nodes[first].serving.layouts
    layout = layouts.planned(
        add=[spare(cluster, name) for name in add], remove=[NodeId(name) for name in remove]
    )
    layouts.begin(layout)
    return layout


def phases(cluster: SimCluster) -> list[str]:
    """What each node knows of its region's layout."""
    found = []
    for machine in cluster.alive():
        if machine.node is not None:
            layouts = machine.serving.layouts
            own = layouts.own
            found.append(
                f"{machine.name}: {own.epoch} {own.phase.name}, {layouts._stages}, "
                f"{machine.serving.background.moving.progress()}, "
                f"{machine.serving.background.moving.held_back()}, unaware {layouts.unaware()}"
            )
    return found


async def changed(cluster: SimCluster, within_s: float = 300.0) -> None:
    """Wait until a change is over, for every node that is a member then."""

    def over() -> bool:
        layout = cluster.rings.layouts[REGION]
        return layout.is_stable and all(
            cluster.nodes[node].serving.layouts.own == layout for node in layout.ids
        )

    await cluster.until(over, within_s, lambda: phases(cluster))


@seeds(3)
def test_a_node_joins_and_takes_its_share(seed: int) -> None:
    """It has all documents of its partitions, and who gave them up has none of them left."""

    async def scenario(cluster: SimCluster) -> None:
        created = [
            await cluster.create(f"a{1 + number % 3}", f"body {number}", write=2)
            for number in range(60)
        ]
        begin(cluster, add=("a4",))
        for number in range(60):
            await asyncio.sleep(0.5)
            via = f"a{1 + number % 4}"
            if cluster.nodes[via].serving.coordinator.takes_part:
                created.append(await cluster.create(via, f"later {number}", write=2))
            found = await cluster.read(via, created[number].document_id, read=2)
            assert found.create is not None
        await changed(cluster)
        # It shares a zone, and so a third of all replicas, with a1.
        assert len(cluster.ring.partitions_of(NodeId("a4"))) == cluster.ring.partitions // 2
        for one in created:
            owners = cluster.owners(one.document_id)
            for name, machine in cluster.nodes.items():
                stored = machine.stored(one.document_id)
                assert (stored is not None) == (name in owners), (name, owners)
            assert (await cluster.read("a4", one.document_id, read=3)).create is not None
        assert differences(cluster) == []

    simulate(scenario, seed, FOUR)


@seeds(3)
def test_a_node_leaves_and_gives_everything_away(seed: int) -> None:
    """Its disk is empty when the change is over, and it takes no more writes."""

    async def scenario(cluster: SimCluster) -> None:
        created = [
            await cluster.create(f"a{1 + number % 4}", f"body {number}", write=1)
            for number in range(40)
        ]
        gone = [await cluster.create("a2", f"gone {number}") for number in range(10)]
        begin(cluster, remove=("a2",))
        for number in range(40):
            await asyncio.sleep(0.5)
            created.append(await cluster.create("a1", f"later {number}", write=2))
            if number < len(gone):
                await cluster.delete("a3", gone[number].document_id, write=2)
        await changed(cluster)
        layout = cluster.rings.layouts[REGION]
        assert "a2" not in layout.ids
        assert layout.phase is Phase.STABLE
        left = cluster.nodes["a2"].serving
        assert left.replica.records.count == 0
        assert left.unready_reasons()
        for number in range(20):  # one that knew the leaver as an owner
            created.append(await cluster.create("docs", f"from outside {number}", write=2))
        for one in created:
            assert cluster.nodes["a2"].stored(one.document_id) is None
            assert (await cluster.read("a3", one.document_id, read=2)).create is not None
        assert differences(cluster) == []

    simulate(scenario, seed, settings_of(nodes=4))


@seeds(3)
def test_an_old_copy_of_a_disk_counts_by_no_layout_of_the_past(seed: int) -> None:
    """Its node would take owners of then for a quorum, and who reads asks those of now."""

    async def scenario(cluster: SimCluster) -> None:
        cluster.kill("a2")
        copy = dict(cluster.nodes["a2"].disk.values)
        await cluster.restart("a2")
        begin(cluster, add=("a4",))
        await cluster.until(
            lambda: cluster.rings.layouts[REGION].phase is Phase.SWITCH, 60, lambda: phases(cluster)
        )
        await asyncio.sleep(1.0)
        cluster.kill("a2", "a3")
        await cluster.noticed("a2", "a3")
        cluster.replace_disk("a2", copy)
        for link in (("a2", "a4"), ("a4", "a2")):
            cluster.loop.network.cut(*link)
        old = cluster.nodes["a2"]
        old.start()
        await cluster.until(
            lambda: old.documents is not None and old.serving.transport.connected(NodeId("a1")),
            30.0,
            "a1 and a2 are not connected",
            poll_s=0.000_1,
        )
        await asyncio.gather(*(_created(cluster, "a2", f"by an old copy {n}") for n in range(60)))
        cluster.kill("a2")
        cluster.loop.network.heal_all()
        await cluster.restart("a3")
        acknowledged = [operation for operation in cluster.history if operation.acknowledged]
        for operation in acknowledged:
            assert operation.document_id is not None
            with contextlib.suppress(StoreError):  # it is the judge who compares
                await cluster.read("a4", operation.document_id, read=2, sloppy=False)
        await cluster.restart("a2")
        await changed(cluster)

    simulate(scenario, seed, settings_of(spares=1))  # nothing is repaired meanwhile


async def _created(cluster: SimCluster, via: str, content: str) -> None:
    with contextlib.suppress(StoreError, NoAnswer):  # the history has them
        await cluster.create(via, content, write=2, sloppy=False)


TWO_REGIONS = settings_of(regions="ab", spares=1)


@seeds(2)
def test_a_newcomer_takes_writes_once_the_other_region_knows_of_it_and_from_then_on(
    seed: int,
) -> None:
    """Regression: with each phase it took none until all there had heard of that phase, too."""

    async def scenario(cluster: SimCluster) -> None:
        refused: list[float] = []
        begin(cluster, add=("a4",))
        layouts = cluster.nodes["a4"].serving.layouts
        await cluster.until(lambda: layouts.takes_part, 5.0, lambda: phases(cluster))
        while not cluster.rings.layouts[REGION].is_stable:
            if not layouts.takes_part:
                refused.append(cluster.loop.time())
            await asyncio.sleep(0.001)
        assert refused == []

    simulate(scenario, seed, TWO_REGIONS)


@seeds(2)
def test_a_change_ends_when_a_region_that_was_cut_off_has_heard_of_it(seed: int) -> None:
    """Its watermarks would go on without the newcomer, which takes no writes until then."""

    async def scenario(cluster: SimCluster) -> None:
        created = [await cluster.create("a1", f"body {n}", write=2) for n in range(20)]
        here, there = [*cluster.region("a"), "a4"], cluster.region("b")
        await asyncio.sleep(2.0)
        cluster.loop.network.partition(here, there)
        begin(cluster, add=("a4",))
        await asyncio.sleep(60.0)
        assert cluster.rings.layouts[REGION].phase is Phase.RETIRE, phases(cluster)
        assert not cluster.nodes["a4"].serving.layouts.takes_part
        cluster.loop.network.heal_all()
        await changed(cluster)
        created.append(await cluster.create("a4", "by the newcomer", write=2))
        for one in created:
            for via in ("a4", "b2"):
                assert (await cluster.read(via, one.document_id, read=2)).create is not None

    simulate(scenario, seed, TWO_REGIONS)


@seeds(2)
def test_what_only_an_old_disk_has_of_what_it_no_longer_owns_goes_to_the_owners(seed: int) -> None:
    """Regression: alone it takes writes as the owner that it was; they were dropped, not given."""

    async def scenario(cluster: SimCluster) -> None:
        cluster.kill("a1")
        copy = dict(cluster.nodes["a1"].disk.values)
        await cluster.restart("a1")
        begin(cluster, add=("a4",))
        await changed(cluster)
        cluster.kill("a1", "a2", "a3", "a4")
        cluster.replace_disk("a1", copy)
        alone = cluster.nodes["a1"]
        alone.start()
        await cluster.until(lambda: alone.documents is not None, 10.0, "a1 does not start")
        created = [await cluster.create("a1", f"alone {n}", write=1) for n in range(20)]
        await cluster.restart("a2", "a3", "a4")
        await level(cluster)
        moved = [one for one in created if "a1" not in cluster.owners(one.document_id)]
        assert moved
        for one in moved:
            assert alone.stored(one.document_id) is None
            assert (await cluster.read("a2", one.document_id, read=2)).create is not None

    no_hints = HintSettings(total_bytes_max=0)
    often = AntiEntropySettings(interval_s=5.0)
    simulate(scenario, seed, settings_of(spares=1, hints=no_hints, antientropy=often))


@seeds(2)
def test_a_region_that_is_given_up_while_its_owners_change_holds_up_no_purge(seed: int) -> None:
    """Regression: the others waited for the end of a change that nobody was left to bring about."""

    async def scenario(cluster: SimCluster) -> None:
        doomed = await cluster.create("b1", "to be purged", write=3)
        begin(cluster, add=("a4",))
        there = cluster.region("b")
        await cluster.until(
            lambda: all(
                not cluster.nodes[one].serving.rings.layouts["a"].is_stable for one in there
            ),
            5.0,
            lambda: phases(cluster),
        )
        cluster.kill("a1", "a2", "a3", "a4")
        say(cluster, "b1", "a", gone=True)
        await cluster.delete("b2", doomed.document_id, write=3)
        await purged(cluster, there, doomed.document_id)

    simulate(
        scenario,
        seed,
        settings_of(
            regions="ab",
            spares=1,
            between=COMPARED.regions,
            antientropy=COMPARED.antientropy,
            lifecycle=COMPARED.lifecycle,
        ),
    )
