"""What ``stele`` does without a cluster: files checked, names completed, commands documented."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import msgspec
import pytest
import typer

from cluster import __main__ as entry
from cluster.clusterfile import render_cluster_file
from cluster.commands.options import complete_node
from cluster.layoutviews import LayoutView, MemberShare, RegionLayout
from cluster.operations import (
    MemberSeen,
    NoAnswer,
    NodeStatus,
    Readiness,
    RingShare,
    StorageState,
)
from cluster.processes import NodeProcess
from cluster.seen import NodeState, NodeView
from cluster.settings import NodeSettings
from cluster.startup import Starting
from cluster.status import ClusterState, judge, look
from cluster.topology import plan_cluster
from cluster.vardir import VarDirectory

ROOT = Path(__file__).parents[2]
SETTINGS = plan_cluster(cluster_id="ab" * 16, nodes=3, regions=1, port_base=8000, config=None)


def stele(
    capsys: pytest.CaptureFixture[str], *arguments: str, exit_code: int = 0
) -> tuple[str, str]:
    """What a command prints, and what it says besides."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["stele", *arguments])
        with pytest.raises(SystemExit) as ended:
            entry.main()
    printed = capsys.readouterr()
    assert (ended.value.code or 0) == exit_code, printed
    return printed.out, printed.err


def test_every_command_is_on_the_page_of_commands() -> None:
    """What is not written there is found by nobody."""
    page = (ROOT / "docs" / "operations.md").read_text()
    command = typer.main.get_command(entry.app)
    context = typer.Context(command)
    names = command.list_commands(context)  # type: ignore[attr-defined]
    undocumented = [name for name in names if not re.search(rf"`(stele )?{name}[ `]", page)]
    assert len(names) > 20
    assert undocumented == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[hint]\nwindow_s = 1\n", "unknown key hint (did you mean hints?)"),
        ("[hints]\nwindow_s = 0\n", "hints.window_s must be a number above 0, not 0"),
        ("[replication]\ncopies = 3.5\n", "replication.copies must be a whole number from 1 to 9"),
        ("[replication]\nread_quorum = 4\n", "replication.read_quorum = 4 can never be met"),
        ("[hints\n", "is not valid TOML"),
        ('cluster_id = "x"\n', "cluster_id must be 32 lower-case hexadecimal digits"),
    ],
)
def test_a_file_that_is_not_sound_is_refused_by_the_keys_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, reason: str
) -> None:
    """In one sentence for people, in one object for programs; settings alone are checked, too."""
    file = tmp_path / "config.toml"
    file.write_text(text)
    out, said = stele(capsys, "config", "check", str(file), exit_code=2)
    assert (out, said.count("\n")) == ("", 1)
    assert reason in said
    out, said = stele(capsys, "config", "check", str(file), "-o", "json", exit_code=2)
    assert said == ""
    assert json.loads(out)["sound"] is False
    assert reason in json.loads(out)["reason"]


def test_a_sound_file_is_said_to_be_what_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A whole cluster, or settings for a new one."""
    whole, settings = tmp_path / "cluster.toml", tmp_path / "config.toml"
    whole.write_text(render_cluster_file(SETTINGS))
    settings.write_text("[replication]\ncopies = 9\n[hints]\nwindow_s = 5\n")
    assert (
        "3 nodes in 1 region, 3 copies in each" in stele(capsys, "config", "check", str(whole))[0]
    )
    assert "to be used as CONFIG" in stele(capsys, "config", "check", str(settings))[0]
    out, _ = stele(capsys, "config", "check", str(whole), "-o", "json")
    assert json.loads(out)["sound"] is True


def test_a_shell_completes_the_nodes_of_the_cluster_that_was_named(tmp_path: Path) -> None:
    """And nothing where there is none."""
    context = cast("typer.Context", SimpleNamespace(params={"var": tmp_path}))
    assert complete_node(context, "") == []
    (tmp_path / "cluster.toml").write_text(render_cluster_file(SETTINGS))
    assert complete_node(context, "a") == ["a1", "a2", "a3"]
    assert complete_node(context, "a3") == ["a3"]


def test_a_node_that_warns_is_a_degraded_cluster() -> None:
    """Regression: a disk that was low was told in words, and the exit code said "all is well"."""
    sound = [
        NodeView(node, NodeState.READY, None, _status(node.id), advice="") for node in SETTINGS.node
    ]
    assert judge(sound, None) is ClusterState.OK
    low = NodeView(SETTINGS.node[0], NodeState.READY, None, _status("a1"), "is low on disk")
    assert judge([low, *sound[1:]], None) is ClusterState.DEGRADED


def test_a_node_that_is_no_member_makes_no_cluster_degraded() -> None:
    """It was not let in yet, or has left: whoever watches exit codes must not be woken by it."""
    sound = [
        NodeView(node, NodeState.READY, None, _status(node.id), advice="") for node in SETTINGS.node
    ]
    doubts = msgspec.structs.replace(_status("a1"), members=[MemberSeen("a2", "z2", "dead")])
    outside = NodeView(SETTINGS.node[0], NodeState.OUTSIDE, None, doubts, "is not ready: no member")
    assert judge([outside, *sound[1:]], None) is ClusterState.OK
    in_doubt = NodeView(SETTINGS.node[0], NodeState.READY, None, doubts, "")
    assert judge([in_doubt, *sound[1:]], None) is ClusterState.DEGRADED


def test_a_stopped_node_is_outside_when_no_member_counts_it(tmp_path: Path) -> None:
    """The newest layout that any node knows says so; where none answers, it is just down."""
    var = VarDirectory(tmp_path)
    members = [MemberShare(name, "z1", 1.0, 4, 4) for name in ("a1", "a3")]
    old = RegionLayout("a", 1, "stable", "stable", 0, [MemberShare("a2", "z1", 1.0, 4, 4)])
    new = RegionLayout("a", 5, "stable", "stable", 0, members)
    answers = {"a1": old, "a3": new}

    def status_of(node: NodeSettings, _: float) -> NodeStatus:
        if node.id not in answers:
            raise NoAnswer("nothing listens there")
        view = LayoutView(
            node.id, "a", "a1", "", {"a": answers[node.id]}, 0, 0.0, 0, 0, {}, [], [], 0.0
        )
        return msgspec.structs.replace(_status(node.id), layout=view)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cluster.status.node_status", status_of)
        seen = {view.node.id: view.state for view in look(var, SETTINGS.node)}
        assert seen == {
            "a1": NodeState.READY,
            "a2": NodeState.OUTSIDE,
            "a3": NodeState.READY,
        }
        answers.clear()
        assert {view.state for view in look(var, SETTINGS.node)} == {NodeState.DOWN}


def test_who_is_no_member_is_not_waited_for_unless_it_will_hear_that_it_is_one() -> None:
    """`stele up` would stop a sound cluster; `stele replace` would not wait for the rebuild."""
    process = cast("NodeProcess", SimpleNamespace(is_alive=lambda: True))
    one = Starting("a4", process, Path(), 0, _out)
    one.observe()
    assert one.unready == "no member"
    assert not one.is_late(members=False)
    assert one.is_late(members=True)


def _out(_: float) -> Readiness:
    return Readiness(ready=False, reasons=["no member"], takes_part=False)


def _status(node: str) -> NodeStatus:
    return NodeStatus(
        node=node,
        region="a",
        zone="z1",
        version="1",
        incarnation=1,
        ready=True,
        reasons=[],
        ring=RingShare(1, 256, 256),
        members=[],
        hints={},
        storage=StorageState(1 << 40, False),
    )
