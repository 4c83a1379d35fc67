"""What ``stele doctor`` finds: nothing in a sound cluster, and each fault by itself, in words."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from cluster.doctor import Checkup, diagnose
from cluster.examination import put_aside
from cluster.findings import Finding, Severity
from cluster.layout import rings_of
from cluster.layoutviews import LayoutView, MemberShare, RegionLayout
from cluster.operations import (
    Comparison,
    ConflictsView,
    HintsKept,
    HintsView,
    LifecycleView,
    MemberSeen,
    MembersView,
    MemberView,
    NodeStatus,
    QuarantineView,
    RingShare,
    Scrubbed,
    StorageState,
    Veto,
)
from cluster.regionpairs import RegionSeen
from cluster.seen import EdgeState, EdgeView, NodeState, NodeView, unready
from cluster.settings import ClusterSettings
from cluster.stage import Stage
from cluster.topology import plan_cluster
from cluster.vardir import VarDirectory

SETTINGS = plan_cluster(cluster_id="ab" * 16, nodes=3, regions=1, port_base=8000, config=None)
TWO = plan_cluster(cluster_id="ab" * 16, nodes=3, regions=2, port_base=8000, config=None)
PARTITIONS = SETTINGS.replication.partitions
Checkups = dict[str, Checkup]


def sound() -> Checkups:
    """Three nodes, of which nothing is to be said."""
    return {node.id: _sound(SETTINGS, node.id) for node in SETTINGS.node}


def _sound(settings: ClusterSettings, name: str) -> Checkup:
    peers = [node.id for node in settings.node if node.id != name]
    (node,) = [node for node in settings.node if node.id == name]
    status = NodeStatus(
        node=name,
        region=node.region,
        zone=node.zone,
        version="1",
        incarnation=1,
        ready=True,
        reasons=[],
        ring=RingShare(1, PARTITIONS, PARTITIONS),
        members=[MemberSeen(one.id, one.zone, "alive") for one in settings.node],
        hints={},
        storage=StorageState(1 << 40, False),
    )
    lifecycle = LifecycleView(
        contradicted=0,
        vetoes=[],
        vetoed_partitions=0,
        fenced=[],
        comparisons={peer: Comparison(1.0, 0, PARTITIONS) for peer in peers},
        scrub=Scrubbed(0, 0),
        up_s=1000.0,
    )
    view = NodeView(node, NodeState.READY, None, status, "")
    members = MembersView([MemberView(node, "alive", True, 0.001, 0.002) for node in peers])
    return Checkup(view, HintsView({}, {}), lifecycle, QuarantineView(0, 0), members)


def findings(checkups: Checkups) -> list[Finding]:
    """As the doctor finds them."""
    return _found_in(SETTINGS, checkups)


def _found_in(settings: ClusterSettings, checkups: Checkups) -> list[Finding]:
    owners = {region: ring.owners for region, ring in rings_of(settings).by_region.items()}
    return diagnose(VarDirectory(Path("var")), settings, list(checkups.values()), owners=owners)


def change_lifecycle(checkups: Checkups, node: str, **changes: object) -> None:
    """Have a node say something else of what ends on it."""
    checkup = checkups[node]
    assert checkup.lifecycle
    lifecycle = replace(checkup.lifecycle, **changes)
    checkups[node] = dataclasses.replace(checkup, lifecycle=lifecycle)


def change_view(checkups: Checkups, node: str, view: NodeView) -> None:
    """Have a node look otherwise from outside."""
    checkups[node] = dataclasses.replace(checkups[node], view=view)


def test_nothing_is_found_in_a_sound_cluster() -> None:
    """A doctor that always finds something is not listened to."""
    assert findings(sound()) == []


def down(checkups: Checkups) -> None:
    """a2 was stopped."""
    view = NodeView(
        checkups["a2"].view.node, NodeState.DOWN, None, None, "is down; `stele start a2` starts it"
    )
    checkups["a2"] = Checkup(view, None, None, None, None)


def low_disk(checkups: Checkups) -> None:
    """a1 refuses creates."""
    view = checkups["a1"].view
    assert view.status
    status = replace(view.status, storage=StorageState(1, True))
    change_view(checkups, "a1", NodeView(view.node, view.state, None, status, ""))


def leaves(checkups: Checkups, stage: Stage, reason: str) -> None:
    """Have a2 leave service."""
    view = checkups["a2"].view
    assert view.status
    status = replace(view.status, ready=False, reasons=[reason], stage=stage)
    node = NodeView(view.node, NodeState.NOT_READY, None, status, unready(status))
    change_view(checkups, "a2", node)


def draining(checkups: Checkups) -> None:
    """An operator wants to stop a2."""
    leaves(checkups, Stage.DRAINING, "draining, as an operator asked")


def drained(checkups: Checkups) -> None:
    """And can do so now, or has forgotten it."""
    leaves(checkups, Stage.DRAINED, "drained, as an operator asked")


def stopping(checkups: Checkups) -> None:
    """Its process has a signal."""
    leaves(checkups, Stage.STOPPING, "draining")


def cut(checkups: Checkups) -> None:
    """a1 does not reach a3, which the doctor does."""
    view = checkups["a1"].view
    assert view.status
    members = [MemberSeen("a1", "z1", "alive"), MemberSeen("a3", "z3", "dead")]
    status = replace(view.status, members=members)
    change_view(checkups, "a1", NodeView(view.node, view.state, None, status, ""))


def skewed(checkups: Checkups) -> None:
    """a2's clock is slow; the others see it, and it sees them."""
    for node, ahead_s in (("a1", {"a2": -3.0}), ("a2", {"a1": 3.0, "a3": 3.1})):
        seen = [MemberView(peer, "alive", True, by_s, 0.1) for peer, by_s in ahead_s.items()]
        checkups[node] = dataclasses.replace(checkups[node], members=MembersView(seen))


def skewed_pair(checkups: Checkups) -> None:
    """Two see each other, and nobody sees a third."""
    seen = MembersView([MemberView("a3", "alive", True, 60.0, 0.1)])
    checkups["a1"] = dataclasses.replace(checkups["a1"], members=seen)


def fenced(checkups: Checkups) -> None:
    """a3 was away for too long."""
    change_lifecycle(checkups, "a3", fenced=[0, 1])


def all_fenced(checkups: Checkups) -> None:
    """Nobody is left to rebuild partition 7 from."""
    for node in checkups:
        change_lifecycle(checkups, node, fenced=[7])


def damaged(checkups: Checkups) -> None:
    """A record that no owner could replace yet."""
    change_lifecycle(checkups, "a1", scrub=Scrubbed(2, 1))


def late(checkups: Checkups) -> None:
    """It can't keep up."""
    view = checkups["a2"].view
    assert view.status
    status = replace(view.status, late="answers late: its event loop lags 2.0 s")
    change_view(checkups, "a2", dataclasses.replace(view, status=status))


def healed(checkups: Checkups) -> None:
    """Its disk has let it down, all the same."""
    change_lifecycle(checkups, "a1", scrub=Scrubbed(2, 2))


def contradicted(checkups: Checkups) -> None:
    """What must never happen."""
    change_lifecycle(checkups, "a2", contradicted=1)


def vetoed(checkups: Checkups) -> None:
    """A node that is away holds up every partition's purge: one finding, not 256."""
    vetoes = [Veto(partition, "a3", "hints", 400.0 + partition) for partition in range(9)]
    change_lifecycle(checkups, "a1", vetoes=vetoes, vetoed_partitions=9)


def cut_off_for_long(checkups: Checkups) -> None:
    """Purges of all wait for a3, which is there, and for what each has not shipped."""
    for node in ("a1", "a2"):
        vetoes = [Veto(1, "a3", "unreachable", 310.0), Veto(2, node, "outbox", 305.0)]
        change_lifecycle(checkups, node, vetoes=[*vetoes, Veto(3, "a1", "clock", 10.0)])


def orphaned(checkups: Checkups) -> None:
    """Copies from a backup."""
    checkups["a1"] = dataclasses.replace(checkups["a1"], quarantine=QuarantineView(0, 3))


def hinted(checkups: Checkups) -> None:
    """Two nodes hold writes for the third."""
    for holder in ("a1", "a2"):
        hints = HintsView({"a3": HintsKept(5, 100, 1.0)}, {})
        checkups[holder] = dataclasses.replace(checkups[holder], hints=hints)


def hinted_in_vain(checkups: Checkups) -> None:
    """And the third has no room for them."""
    hinted(checkups)
    view = checkups["a3"].view
    assert view.status
    status = replace(view.status, storage=StorageState(1, True))
    change_view(checkups, "a3", dataclasses.replace(view, status=status))


def hinted_while_down(checkups: Checkups) -> None:
    """And the third is not there."""
    hinted(checkups)
    view = NodeView(checkups["a3"].view.node, NodeState.DOWN, None, None, "is down; start it")
    checkups["a3"] = Checkup(view, None, None, None, None)


def not_compared(checkups: Checkups) -> None:
    """Anti-entropy does not get to its end."""
    rounds = {"a2": Comparison(None, 3, PARTITIONS), "a3": Comparison(1.0, 0, PARTITIONS)}
    change_lifecycle(checkups, "a1", comparisons=rounds, up_s=1e6)


def says_of_regions(checkups: Checkups, node: str, **said: list[str]) -> None:
    """Have a node say what operators have said."""
    view = checkups[node].view
    assert view.status
    status = replace(view.status, **said)
    change_view(checkups, node, dataclasses.replace(view, status=status))


def says_of_b(checkups: Checkups, node: str, seen: RegionSeen) -> None:
    """Have a node of region a say something of region b."""
    view = checkups[node].view
    assert view.status
    status = replace(view.status, regions={"b": seen})
    change_view(checkups, node, dataclasses.replace(view, status=status))
    (away,) = TWO.region_nodes("b")[:1]
    there = NodeView(away, NodeState.READY, None, None, "")
    checkups[away.id] = Checkup(there, None, None, None, None)


#: Nothing is wrong with it.
SEEN = RegionSeen(["b1", "b2", "b3"], 0.3, "b1", 0, 0, watermark_ms=1_767_225_600_000)


def cut_region(checkups: Checkups) -> None:
    """Nothing gets to region b: one finding, not three."""
    for node in list(checkups):
        away = replace(SEEN, connected=[], waiting=400, lag_s=9, cut_off_since_ms=1_767_225_600_000)
        says_of_b(checkups, node, away)


def cut_node(checkups: Checkups) -> None:
    """Only one of the region's nodes gets nothing there."""
    for node in list(checkups):
        says_of_b(checkups, node, SEEN)
    says_of_b(checkups, "a2", replace(SEEN, connected=[], cut_off_since_ms=1))


def lagging_region(checkups: Checkups) -> None:
    """A node of region b is down with what it has not shipped."""
    for node in list(checkups):
        says_of_b(checkups, node, replace(SEEN, connected=["b1", "b3"], lag_s=90.0, slowest="b2"))


def filling(checkups: Checkups) -> None:
    """Writes for region b pile up, on the fullest node to this."""
    for node, fullness in (("a1", 0.1), ("a2", 0.63)):
        says_of_b(checkups, node, replace(SEEN, waiting=5, fullness=fullness))


def conflicting(checkups: Checkups) -> None:
    """A client has used a key twice."""
    checkups["a2"] = dataclasses.replace(checkups["a2"], conflicts=ConflictsView(2))


def overflowed(checkups: Checkups) -> None:
    """The log of writes for region b was longer than it may be."""
    says_of_b(checkups, "a3", replace(SEEN, comparisons_owed=12))


def given_up(checkups: Checkups) -> None:
    """An operator has said that region b is gone, and all know it."""
    says_of_regions(checkups, "a1", gone=["b"])


def given_up_unheard(checkups: Checkups) -> None:
    """And one that is cut off does not."""
    says_of_regions(checkups, "a1", gone=["b"], unaware=["a3"])


@pytest.mark.parametrize(
    ("fault", "severity", "about", "what", "do"),
    [
        (down, Severity.CRITICAL, "a2", "is down", "stele start a2"),
        (draining, Severity.WARNING, "a2", "draining, as an operator", "stele drain --back a2"),
        (drained, Severity.WARNING, "a2", "drained, as an operator asked", "stele stop a2"),
        (stopping, Severity.NOTE, "a2", "about to stop", "stele start a2"),
        (low_disk, Severity.CRITICAL, "a1", "low on disk", "free space"),
        (late, Severity.WARNING, "a2", "its event loop lags 2.0 s", "stele top"),
        (cut, Severity.WARNING, "a1", "takes a3 for dead", "network between a1 and a3"),
        (skewed, Severity.WARNING, "a2", "3.0 s from those of a1, a3", "time service"),
        (skewed_pair, Severity.CRITICAL, "a1, a3", "59.9 s apart", "within 5 s"),
        (fenced, Severity.WARNING, "a3", "2 of its partitions", "keep its peers up"),
        (damaged, Severity.CRITICAL, "a1", "2 damaged records, and replaced 1", "other owners"),
        (healed, Severity.WARNING, "a1", "2 damaged records, and replaced 2", "disk's health"),
        (contradicted, Severity.CRITICAL, "a2", "removed 1 documents that are alive", "a bug"),
        (given_up, Severity.NOTE, "region b", "was said to be gone", "stele region back b"),
        (given_up_unheard, Severity.WARNING, "region b", "a3 may not have heard", "bring a3 up"),
        (
            vetoed,
            Severity.WARNING,
            "a3",
            "has held up the purge of deleted documents for 408 s (hints)",
            "those that a3 keeps writes for",
        ),
        (orphaned, Severity.WARNING, "a1", "3 copies", "/admin/quarantine"),
        (hinted, Severity.NOTE, "a3", "lacks 10 writes", "being delivered"),
        (
            cut_region,
            Severity.WARNING,
            "region a",
            "no node of region b since 2026-01-01 00:00:00 UTC; 1,200 of its",
            "by itself",
        ),
        (cut_node, Severity.WARNING, "a2", "though others of region a do", "network between a2"),
        (lagging_region, Severity.WARNING, "region a", "b2 wrote in the last 90 s", "bring b2 up"),
        (
            filling,
            Severity.WARNING,
            "region a",
            "for region b that is 63% full",
            "bring region b back",
        ),
        (overflowed, Severity.NOTE, "region a", "a comparison of 12 partitions", "wait"),
        (conflicting, Severity.NOTE, "a2", "2 keys that were given two", "/admin/conflicts"),
        (not_compared, Severity.WARNING, "a1", "with those of a2", "stele repair a1"),
    ],
)
def test_a_fault_is_one_finding_that_says_what_to_do(
    fault: Callable[[Checkups], None], severity: Severity, about: str, what: str, do: str
) -> None:
    """Whom it is about, what was found, and what helps."""
    checkups = sound()
    fault(checkups)
    (finding,) = findings(checkups)
    assert (finding.severity, finding.about) == (severity, about)
    assert what in finding.what
    assert do in finding.do


def test_a_drained_node_with_another_trouble_is_as_bad_as_without() -> None:
    """What an operator asked for excuses nothing else."""
    checkups = sound()
    leaves(checkups, Stage.DRAINED, "drained, as an operator asked")
    view = checkups["a2"].view
    assert view.status
    status = replace(view.status, reasons=[*view.status.reasons, "2 partitions wait"])
    advice = unready(status)
    change_view(checkups, "a2", dataclasses.replace(view, status=status, advice=advice))
    (finding,) = findings(checkups)
    assert finding.severity is Severity.CRITICAL
    assert "2 partitions wait" in finding.what


def test_what_all_purges_wait_for_is_one_finding() -> None:
    """Thirteen of them hid the cut that was the cause, which comes first now."""
    checkups = sound()
    cut_off_for_long(checkups)
    unreachable, outbox = findings(checkups)
    assert unreachable.about == "a3"
    assert "look at the network there: a3" in unreachable.do
    assert outbox.about == "a1, a2"
    assert "have held up the purge" in outbox.what
    says_of_b(checkups, "a1", replace(SEEN, connected=[], cut_off_since_ms=1))
    cut, *_ = findings(checkups)
    assert "no node of region b" in cut.what


@pytest.mark.parametrize(
    ("fault", "do"),
    [(hinted_in_vain, "free space on a3's disk"), (hinted_while_down, "bring a3 up")],
)
def test_writes_that_can_not_be_delivered_are_not_said_to_be(
    fault: Callable[[Checkups], None], do: str
) -> None:
    """To wait helps only those that are on their way."""
    checkups = sound()
    fault(checkups)
    *_, note = findings(checkups)
    assert "lacks 10 writes" in note.what
    assert do in note.do


def test_clocks_that_may_be_apart_accuse_nobody() -> None:
    """Far, but measured over a slow exchange; or near enough."""
    checkups = sound()
    seen = [MemberView("a2", "alive", True, 8.0, 6.0), MemberView("a3", "alive", True, 2.4, 0.0)]
    checkups["a1"] = dataclasses.replace(checkups["a1"], members=MembersView(seen))
    assert findings(checkups) == []


def test_a_partition_without_a_trusted_copy_comes_first_and_names_the_way_out() -> None:
    """It needs a decision, and nothing else helps."""
    checkups = sound()
    all_fenced(checkups)
    first, *rest = findings(checkups)
    assert first.severity is Severity.CRITICAL
    assert "all owners of 1 partitions" in first.what
    assert "stele trust" in first.do
    assert [finding.severity for finding in rest] == [Severity.WARNING] * 3


def _two_regions() -> Checkups:
    checkups = {node.id: _sound(TWO, node.id) for node in TWO.node}
    for node in ("b1", "b2", "b3"):
        change_lifecycle(checkups, node, fenced=list(range(PARTITIONS)))
        view = dataclasses.replace(
            checkups[node].view, state=NodeState.NOT_READY, advice="is not ready: it has reasons"
        )
        change_view(checkups, node, view)
    return checkups


def _found_in_two(checkups: Checkups) -> list[Finding]:
    return _found_in(TWO, checkups)


def test_a_fenced_region_is_rebuilt_from_another_and_nobody_is_to_be_trusted() -> None:
    """Trust gives up what was deleted meanwhile: it is for when nothing else is left."""
    checkups = _two_regions()
    assert not [one for one in _found_in_two(checkups) if "stele trust" in one.do]
    for node in ("a1", "a2", "a3"):
        change_lifecycle(checkups, node, fenced=[7])
    (lost,) = [one for one in _found_in_two(checkups) if "stele trust" in one.do]
    assert "all owners of 1 partitions" in lost.what


def test_nodes_of_a_region_that_is_said_to_be_gone_wait_for_the_word_that_it_is_back() -> None:
    """They don't come back by themselves, and are no source for the others."""
    checkups = _two_regions()
    for node in checkups:
        says_of_regions(checkups, node, gone=["b"])
    found = [one for one in _found_in_two(checkups) if one.about.startswith("b")]
    assert [one.about for one in found] == ["b1", "b2", "b3"]
    assert all("stele region back b" in one.do for one in found)
    change_lifecycle(checkups, "a1", fenced=[7])
    change_lifecycle(checkups, "a2", fenced=[7])
    change_lifecycle(checkups, "a3", fenced=[7])
    assert [one for one in _found_in_two(checkups) if "stele trust a" in one.do]


def test_databases_that_were_put_aside_are_not_forgotten(tmp_path: Path) -> None:
    """They take space that someone will miss."""
    (tmp_path / "nodes" / "a1" / "damaged-1").mkdir(parents=True)
    (tmp_path / "nodes" / "a2.replaced-1").mkdir()
    checkups, var = sound(), VarDirectory(tmp_path)
    for name, checkup in checkups.items():
        checkups[name] = dataclasses.replace(checkup, put_aside=put_aside(var, name))
    found = findings(checkups)
    assert [(one.severity, one.about) for one in found] == [
        (Severity.NOTE, "a1"),
        (Severity.NOTE, "a2"),
    ]


@pytest.mark.parametrize(
    ("state", "rotation", "severity", "what"),
    [
        (EdgeState.READY, ["a1", "a2", "a3"], None, ""),
        (EdgeState.DOWN, [], Severity.CRITICAL, "is down"),
        (EdgeState.SILENT, [], Severity.CRITICAL, "runs but does not answer"),
        (EdgeState.NOT_READY, [], Severity.CRITICAL, "sends nothing to a1, a2, a3, though ready"),
        (EdgeState.READY, ["a1", "a3"], Severity.WARNING, "sends nothing to a2, though ready"),
    ],
)
def test_an_edge_that_keeps_clients_from_nodes_is_found(
    state: EdgeState, rotation: list[str], severity: Severity | None, what: str
) -> None:
    """The nodes alone would look sound, while clients get nothing."""
    advice = f"{what}; `stele start edge` starts it"
    view = EdgeView("http://127.0.0.1:8080", state, None, rotation, advice)

    found = diagnose(VarDirectory(Path("var")), SETTINGS, list(sound().values()), view)

    assert [(one.about, one.severity, one.what) for one in found] == (
        [("edge", severity, what)] if severity else []
    )


def test_a_node_that_is_not_ready_is_rightly_sent_nothing() -> None:
    """It is found by itself; the edge does what it should."""
    checkups = sound()
    down(checkups)
    view = EdgeView("http://127.0.0.1:8080", EdgeState.READY, None, ["a1", "a3"], "")

    found = diagnose(VarDirectory(Path("var")), SETTINGS, list(checkups.values()), view)

    assert "edge" not in [one.about for one in found]


def says_of_layout(checkups: Checkups, **changes: object) -> None:
    """Have all nodes say this of a change of owners that is under way: a3 leaves, a4 takes over."""
    members = [MemberShare(name, "z1", 1.0, 256, 256) for name in ("a1", "a2", "a3")]
    for name, checkup in checkups.items():
        shown = RegionLayout("a", 2, "fill", "new owners are being filled", 85, members)
        view = LayoutView(
            node=name,
            region="a",
            begins_at="a1",
            outside="",
            regions={"a": shown},
            moves_total=85,
            phase_s=400.0,
            done=0,
            total=0,
            waits_for={"a2": "to settle"},
            held_back=[],
            unaware=[],
            still_s=0.0,
        )
        assert checkup.view.status
        status = replace(checkup.view.status, layout=replace(view, **changes))
        change_view(checkups, name, dataclasses.replace(checkup.view, status=status))


def test_a_change_of_owners_is_noted_and_warned_of_when_it_stands_still() -> None:
    """In one line for the region; who holds it up is named, with what to do."""
    checkups = sound()
    says_of_layout(checkups)
    (note,) = findings(checkups)
    assert (note.severity, note.about) == (Severity.NOTE, "region a")
    assert note.what == ("is moving 85 of 85 replicas, waits for a2; new owners are being filled")

    says_of_layout(checkups, still_s=400.0, total=9, done=2, held_back=["3 hints"])
    (stuck,) = findings(checkups)
    assert stuck.severity is Severity.WARNING
    assert "for 400 s: a1 has 7 partitions, 3 hints left" in stuck.what

    down(checkups)
    (waits,) = [one for one in findings(checkups) if one.about == "region a"]
    assert "no further: a2 must take part" in waits.what
    assert "stele start a2" in waits.do


def test_a_node_that_is_filled_is_not_said_to_have_lost_its_copies() -> None:
    """It is fenced for what it has yet to get; beyond that, a fence is a fence."""
    checkups = sound()
    says_of_layout(checkups, total=2, done=0)
    change_lifecycle(checkups, "a1", fenced=[1, 2])
    assert [one.severity for one in findings(checkups)] == [Severity.NOTE]
    change_lifecycle(checkups, "a1", fenced=[1, 2, 3])
    assert [one.about for one in findings(checkups)] == ["a1", "region a"]


def test_a_node_that_is_no_member_is_a_note_and_doubts_nobody() -> None:
    """Before it is let in, and after it has left."""
    checkups = sound()
    view = checkups["a3"].view
    assert view.status
    doubts = replace(
        view.status, ready=False, members=[MemberSeen("a1", "z1", "dead")], reasons=["no member"]
    )
    outside = NodeView(view.node, NodeState.OUTSIDE, None, doubts, "is not ready: no member")
    change_view(checkups, "a3", outside)
    (note,) = findings(checkups)
    assert (note.severity, note.about) == (Severity.NOTE, "a3")
    assert "stele stop a3" in note.do
    gone = NodeView(view.node, NodeState.OUTSIDE, None, None, "")
    checkups["a3"] = Checkup(gone, None, None, None, None)
    (note,) = findings(checkups)
    assert "stele forget a3" in note.do
