"""Five faults, and everywhere an operator may look: each is seen within five seconds, in words.

The table of docs/operations.md. The nodes are the real ones, and so is all that is made of what
they say; time is virtual, so that "within five seconds" is exact. What nodes have exported each
second goes through the alert rules with Prometheus' own evaluation, where it is installed.
"""

import asyncio
import shutil
import subprocess
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, NamedTuple, cast

import msgspec
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from rich.console import Console

from cluster import rates, report, status
from cluster.doctor import diagnose
from cluster.findings import PURGE_STUCK_S
from cluster.ids import NodeId
from cluster.settings import LifecycleSettings
from cluster.vardir import VarDirectory
from kvnode.console.glance import Glance, glance
from kvnode.console.overview import Seen, _checkup, overview
from kvnode.console.sections import sections
from kvnode.eventring import EventRing
from kvnode.metrics import NodeCollector
from tests.prometheus.deployed import DIRECTORY, alerts
from tests.simulation.cluster import SimCluster, settings_of
from tests.simulation.run import simulate

WITHIN_S: Final = 5.0
#: Of which the last second is for who looks: a scrape and its rules, or a command that asks all.
KNOWN_WITHIN_S: Final = WITHIN_S - 1.0
VAR: Final = VarDirectory(Path("var"))
#: A deletion is due after seconds, so that its purge waits for whoever is away.
TWO: Final = settings_of(
    regions="ab",
    partitions=4,
    lifecycle=LifecycleSettings(
        tombstone_retention_s=6.0, purge_bucket_s=1.0, sweep_interval_s=1.0
    ),
)


class Fault(NamedTuple):
    """A row of the table."""

    strike: Callable[[SimCluster], None]
    #: Until it counts: a purge is stuck when it has waited for long.
    counts_after_s: float
    #: Words of what is wrong, and of what to do, by place.
    status: list[str]
    doctor: list[str]
    console: list[str]
    #: A sample whose value has become this.
    metric: tuple[str, dict[str, str], float]
    alert: str
    #: Of the alert's annotations.
    do: str


def _cut_off(cluster: SimCluster) -> None:
    cluster.loop.network.partition(cluster.region("b"), cluster.region("a"))


def _fill(cluster: SimCluster) -> None:
    cluster.nodes["a2"].space.low = True


FAULTS: Final = {
    "a killed node": Fault(
        lambda cluster: cluster.kill("a2"),
        0.0,
        ["a2 is down", "`stele start a2`", "5 of 6 nodes are ready"],
        ["critical a2: is down", "`stele start a2` starts it"],
        ['dead" data-node="a2"', "is down", "<code>stele start a2</code>"],
        ("stele_under_replicated_partitions", {}, 4.0),
        "SteleNodeDown",
        "stele start",
    ),
    "a cut region": Fault(
        _cut_off,
        0.0,
        ["reaches no node of region b", "a to b: cut off since"],
        ["region a: reaches no node of region b", "bring the region or the network to it back"],
        ["reaches no node of region b", "Bring the region or the network"],
        ("stele_region_connected_nodes", {"region": "b"}, 0.0),
        "SteleRegionCutOff",
        "Bring the region or the network",
    ),
    "a full disk": Fault(
        _fill,
        0.0,
        ["a2 is low on disk: it refuses creates until space is freed"],
        ["critical a2: is low on disk", "free space on its disk"],
        ["is low on disk", "Free space on its disk"],
        ("stele_trouble", {"check": "disk"}, 1.0),
        "SteleDiskLow",
        "Free space on its disk",
    ),
    "a skewed clock": Fault(
        lambda cluster: cluster.nodes["a2"].clock.jump(9.0),
        0.0,
        ["a2 has a clock that is", "s from those of a1, a3"],
        ["critical a2: has a clock that is", "set it right, and see that a time service runs"],
        ["has a clock that is", "Set it right"],
        ("stele_trouble", {"check": "clock"}, 1.0),
        "SteleClockSkewed",
        "time service",
    ),
    "a stuck purge": Fault(
        _cut_off,
        # Until the deletion is due on every clock, and the connections are given up.
        PURGE_STUCK_S + 18.0,
        ["waits for a", "(outbox) to purge, for 3"],
        ["held up the purge of deleted documents for 3", "bring the region back"],
        ["held up the purge of deleted documents for 3", "held up by", "Bring the region back"],
        ("stele_trouble", {"check": "purge"}, 1.0),
        "StelePurgeStuck",
        "`stele doctor` names the node",
    ),
}
NAMES: Final = list(FAULTS)
#: Metrics that these alerts are about.
_ALERTED: Final = ("up", "stele_trouble", "stele_region_connected", "stele_purge_vetoed")


class Look(NamedTuple):
    """What there was to see at one moment."""

    at_s: float
    status: str
    doctor: str
    console: str
    #: By node; none of one that is down.
    metrics: dict[str, rates.Samples]


def look(cluster: SimCluster) -> Look:
    """Ask every node everything, and show it everywhere."""
    seen: dict[NodeId, Seen] = {}
    metrics: dict[str, rates.Samples] = {}
    for name, machine in cluster.nodes.items():
        one = seen[NodeId(name)] = Seen(machine.own, trouble="nothing listens there", refused=True)
        if machine.process.running:
            node = machine.serving
            said = glance(node, rates.Traffic(), EventRing("b00t"), None)
            one.glance = msgspec.json.decode(msgspec.json.encode(said), type=Glance)
            one.refused = False
            registry = CollectorRegistry()
            registry.register(NodeCollector(node))
            metrics[name] = rates.parse(generate_latest(registry).decode())
    shown = overview(cluster.settings, cluster.rings, seen)
    page = sections(
        cast("Any", SimpleNamespace(overview=shown, points=[], now_s=0.0, events=[])),
    )
    checkups = [_checkup(node) for region in shown.regions.values() for node in region]
    views = [
        # As stele status has it: what a node warns of is its advice.
        status.answered(checkup.view.node, None, checkup.view.status)
        if checkup.view.status
        else checkup.view
        for checkup in checkups
    ]
    state = status.judge(views, None)
    return Look(
        cluster.loop.time(),
        printed(lambda screen: report.print_status(VAR, views, None, state, screen)),
        printed(
            lambda screen: report.print_findings(diagnose(VAR, cluster.settings, checkups), screen)
        ),
        "\n".join(page.values()),
        metrics,
    )


def printed(show: Callable[[Console], None]) -> str:
    """As on a wide terminal."""
    screen = Console(file=StringIO(), width=400, color_system=None)
    show(screen)
    return " ".join(cast("StringIO", screen.file).getvalue().split())


class Story(NamedTuple):
    """A fault, and a look each second around it."""

    fault: Fault
    struck_s: float
    looks: list[Look]

    def places(self, at: Look) -> Iterator[tuple[str, bool]]:
        """Whether it is to be seen there."""
        fault = self.fault
        name, labels, value = fault.metric
        yield "status", all(words in at.status for words in fault.status)
        yield "doctor", all(words in at.doctor for words in fault.doctor)
        yield "console", all(words in at.console for words in fault.console)
        yield (
            "metrics",
            any(
                sample == value
                for samples in at.metrics.values()
                for (one, its), sample in samples.items()
                if one == name and labels.items() <= dict(its).items()
            ),
        )


@pytest.fixture(scope="module")
def stories() -> dict[str, Story]:
    """Each fault, told once for all tests."""
    return {name: tell(name) for name in NAMES}


def tell(name: str) -> Story:
    """Strike a sound cluster, and look on."""
    fault = FAULTS[name]
    looks: list[Look] = []
    struck_s = 0.0

    async def scenario(cluster: SimCluster) -> None:
        nonlocal struck_s
        for machine in cluster.nodes.values():
            machine.clock.jump(-machine.clock.ahead_s)
        # Each hears of the others' clocks when it happens to gossip with them.
        await cluster.until(
            lambda: (
                not any(
                    machine.serving.gossip.skews.beyond(TWO.lifecycle.clock_skew_told_s)
                    for machine in cluster.nodes.values()
                )
            ),
            60.0,
            "clocks are taken for wrong",
        )
        for number in range(8):
            created = await cluster.create("a1", f"document {number}", write=3)
            await cluster.delete("a1", created.document_id, write=3)
        looks.append(look(cluster))
        struck_s = cluster.loop.time()
        fault.strike(cluster)
        await asyncio.sleep(fault.counts_after_s)
        for _ in range(round(WITHIN_S)):
            await asyncio.sleep(1.0)
            looks.append(look(cluster))
        cluster.nodes["a2"].space.low = False

    simulate(scenario, NAMES.index(name), TWO)
    return Story(fault, struck_s + fault.counts_after_s, looks)


@pytest.mark.parametrize("name", NAMES)
def test_a_fault_is_seen_everywhere_within_five_seconds(
    stories: dict[str, Story], name: str
) -> None:
    """And nowhere before."""
    story = stories[name]
    before, *after = story.looks
    assert [place for place, visible in story.places(before) if visible] == []
    seen_s: dict[str, float] = {}
    for one in after:
        for place, visible in story.places(one):
            if visible:
                seen_s.setdefault(place, one.at_s - story.struck_s)
    late = [place for place in ("status", "doctor", "console", "metrics") if place not in seen_s]
    last = after[-1]
    assert not late, f"{seen_s}\n{last.status}\n\n{last.doctor}\n\n{last.console}"
    assert max(seen_s.values()) <= KNOWN_WITHIN_S + 0.01, seen_s


def test_a_sound_cluster_says_so_everywhere(stories: dict[str, Story]) -> None:
    """Before anything happens."""
    for story in stories.values():
        sound = story.looks[0]
        assert "ok: 6 of 6 nodes are ready" in sound.status
        assert "nothing needs to be done" in sound.doctor
        assert "All 6 nodes are well" in sound.console


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="no Prometheus here: `apt-get install prometheus`"
)
def test_alerts_fire_over_what_nodes_have_exported(
    stories: dict[str, Story], tmp_path: Path
) -> None:
    """Each rests before its fault, fires within five seconds of it, and says what to do."""
    tests = [
        {
            "name": name,
            "interval": "1s",
            "input_series": _series(story),
            "promql_expr_test": [
                {
                    "expr": f"clamp_max(count({_firing(story)}), 1) or vector(0)",
                    "eval_time": at,
                    "exp_samples": [
                        {"labels": "{}", "value": fires},
                    ],
                }
                for at, fires in (("0s", 0), (f"{len(story.looks) - 1}s", 1))
            ],
        }
        for name, story in stories.items()
    ]
    shutil.copy(DIRECTORY / "rules.yml", tmp_path)
    given = {"rule_files": ["rules.yml"], "evaluation_interval": "1s", "tests": tests}
    # JSON is YAML.
    (tmp_path / "seen.yml").write_bytes(msgspec.json.encode(given))
    done = subprocess.run(
        ["promtool", "test", "rules", "seen.yml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for story in stories.values():
        assert story.fault.do in alerts()[story.fault.alert]


def _firing(story: Story) -> str:
    return f'ALERTS{{alertname="{story.fault.alert}",alertstate="firing"}}'


def _series(story: Story) -> list[dict[str, str]]:
    """What Prometheus would have had of every node, a sample for each look; and ``up``."""
    values: dict[str, list[str]] = {}
    for number, one in enumerate(story.looks):
        for name in story.looks[0].metrics:
            samples = dict(one.metrics.get(name, {}))
            samples["up", ()] = float(name in one.metrics)
            for (metric, its), value in samples.items():
                if not metric.startswith(_ALERTED):
                    continue
                labels = {**dict(its), "job": "stele", "node": name, "node_region": name[0]}
                words = ",".join(f'{key}="{text}"' for key, text in labels.items())
                series = values.setdefault(f"{metric}{{{words}}}", ["_"] * len(story.looks))
                series[number] = f"{value:g}"
    return [{"series": series, "values": " ".join(taken)} for series, taken in values.items()]
