"""Starting and stopping: each way of going wrong gets one sentence, and leaves nothing running."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
from collections.abc import Callable

import pytest

from scripts.local_cluster import LocalCluster, call, wait_until
from tests.cluster.conftest import MakeCluster

pytestmark = pytest.mark.cluster

#: Small and quick, where the number of nodes does not matter.
QUICK = '[storage]\nballast_bytes = 0\nfsync = "os"\n[gossip]\ninterval_s = 0.1\n'


@pytest.fixture
def single(make_cluster: MakeCluster) -> LocalCluster:
    """One node, not started."""
    return make_cluster(nodes=1, config=QUICK)


def _one_sentence(done: subprocess.CompletedProcess[str]) -> str:
    """What the command said on standard error."""
    assert re.fullmatch(r"stele: [^\n]+\n", done.stderr), done.stderr
    return done.stderr


def test_up_returns_when_every_node_serves_and_prints_commands_that_work(
    make_cluster: MakeCluster,
) -> None:
    """The first minute of everyone who tries this."""
    cluster = make_cluster()

    printed = cluster.up().stdout

    for node in cluster.nodes:
        assert cluster.http_url(node) in printed
        assert call("GET", f"{cluster.ops_url(node)}/readyz").status == 200
    create, read = (line for line in printed.splitlines() if line.strip().startswith("curl"))
    created = _curl(create)
    assert created.startswith("HTTP/1.1 201")
    document_id = json.loads(created.splitlines()[-1])["id"]
    assert '"content":"Hello, Stele"' in _curl(read.replace("ID", document_id))


def test_a_new_cluster_has_two_regions_unless_another_number_is_typed(
    make_cluster: MakeCluster,
) -> None:
    """Each has a ring of its own; what is typed otherwise is checked against what there is."""
    cluster = make_cluster(nodes=1, regions=2, config=QUICK)
    options = cluster.up_options
    at = options.index("--regions")
    del options[at : at + 2]

    printed = cluster.stele("up", *options).stdout

    assert all(cluster.http_url(node) in printed for node in ("a1", "b1"))
    rings = cluster.stele("ring").stdout
    assert "region a, ring 1" in rings
    assert "region b, ring 1" in rings
    assert "another ring" not in rings
    cluster.stele("stop", "a1", "b1")
    refused = cluster.stele("up", "--regions", "1", exit_code=1)
    assert "has regions a, b, not REGIONS=1" in _one_sentence(refused)
    refused = cluster.stele("replace", "a1", "b1", exit_code=1)
    assert "there are no peers that a1 b1 could be rebuilt from" in _one_sentence(refused)


def _curl(line: str) -> str:
    done = subprocess.run([*shlex.split(line), "-s"], capture_output=True, text=True, check=True)
    return done.stdout


def test_a_second_up_says_so_and_changes_nothing(single: LocalCluster) -> None:
    """It must not restart what runs, nor hide that it did nothing."""
    single.up()
    before = single.running()

    refused = single.up(exit_code=1)

    assert "a1 of var already runs" in _one_sentence(refused)
    assert single.running() == before


def test_down_keeps_the_documents_and_up_serves_them_again(cluster: LocalCluster) -> None:
    """On every node, whichever took the write."""
    created = call("POST", f"{cluster.http_url('a1')}/documents?w=all", {"content": "kept"})
    assert created.status == 201

    cluster.stele("down")
    assert cluster.running() == {}
    assert not list((cluster.var.root / "run").iterdir())
    assert "no node is running" in cluster.stele("down").stdout
    cluster.up()

    for node in cluster.nodes:
        read = call("GET", f"{cluster.http_url(node)}/documents/{created.json['id']}")
        assert (read.status, read.json["content"]) == (200, "kept")


def test_status_tells_a_killed_node_from_a_stopped_one_and_start_brings_it_back(
    cluster: LocalCluster,
) -> None:
    """Exit code 0, 1 or 3, for scripts; the command to type, for people."""
    healthy = cluster.stele("status").stdout
    assert "ok: 3 of 3 nodes are ready" in healthy
    cluster.kill("a2")
    wait_until(lambda: "a2" in cluster.stele("status", exit_code=1).stdout.split("degraded")[1])

    degraded = cluster.stele("status", exit_code=1).stdout
    assert "a2 ended by itself or was killed; `stele start a2` starts it" in degraded
    cluster.stele("stop", "a3")
    assert "a3 is down; `stele start a3`" in cluster.stele("status", exit_code=1).stdout

    started = cluster.stele("start", "a2", "a3").stdout
    assert "a2.pid was stale" in started
    assert "a3.pid was stale" not in started
    wait_until(lambda: cluster.stele("status", exit_code=None).returncode == 0)
    cluster.stele("down")
    cluster.stele("status", exit_code=3)


def test_status_for_programs_is_json(single: LocalCluster) -> None:
    """The same facts, by name."""
    single.up()

    (node,) = json.loads(single.stele("status", "-o", "json").stdout)["nodes"]

    assert (node["id"], node["state"], node["http_url"]) == ("a1", "ready", single.http_url("a1"))
    assert node["pid"] == single.running()["a1"]
    assert node["status"]["ring"]["owned"] == 256


@pytest.mark.parametrize("listener", [100, 1100, 2100])
def test_a_busy_port_is_named_with_its_node_before_anything_is_made(
    make_cluster: MakeCluster, listener: int
) -> None:
    """So the same command with another PORT_BASE just works."""
    cluster = make_cluster(nodes=2)
    port = cluster.port_base + listener + 2

    with socket.create_server(("127.0.0.1", port)):
        refused = cluster.up(exit_code=1)

    sentence = _one_sentence(refused)
    assert f"port {port} (" in sentence
    assert "of node a2) is in use by another process" in sentence
    assert not cluster.var.root.exists()


def test_a_pid_file_that_names_another_process_is_removed_and_that_process_left_alone(
    single: LocalCluster,
) -> None:
    """After a reboot the pid may be anyone's: here this test's own."""
    single.up()
    single.stele("down")
    single.var.pid_file("a1").write_text(f"{os.getpid()}\n")

    started = single.up()

    assert "a1.pid was stale" in started.stdout
    assert single.running()["a1"] != os.getpid()


def test_a_node_that_ends_at_its_start_is_quoted_and_the_others_are_stopped(
    make_cluster: MakeCluster,
) -> None:
    """A lost disk must not come back as an empty one: the node itself refuses, and says why."""
    cluster = make_cluster(nodes=2, config=QUICK)
    cluster.up()
    cluster.stele("down")
    cluster.var.node_directory("a2").rename(cluster.directory / "lost")

    refused = cluster.up(exit_code=1)

    assert "a2 ended at its start: " in _one_sentence(refused)
    assert "var/nodes/a2" in refused.stderr
    assert cluster.running() == {}
    assert not cluster.var.node_directory("a2").exists()


def test_a_bad_value_in_the_cluster_file_starts_nothing(single: LocalCluster) -> None:
    """And ``down`` still works on what runs."""
    single.up()
    text = single.var.cluster_file.read_text()
    single.var.cluster_file.write_text(text.replace("copies = 1", "copies = 0"))

    refused = single.stele("status", exit_code=2)
    assert "replication.copies must be a whole number from 1 to 9, not 0." in _one_sentence(refused)
    checked = subprocess.run(
        single.command("config", "check", "var/cluster.toml")[:-2],
        cwd=single.directory,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (checked.returncode, checked.stderr) == (2, refused.stderr)
    single.stele("down")
    single.up(exit_code=2)
    assert single.running() == {}


@pytest.mark.parametrize(
    "arguments",
    [("status",), ("down",), ("start", "a1"), ("stop", "a1"), ("restart", "a1")],
)
def test_without_a_cluster_each_command_says_how_to_get_one(
    single: LocalCluster, arguments: tuple[str, ...]
) -> None:
    """And makes no directory."""
    refused = single.stele(*arguments, exit_code=2)

    assert "there is no cluster in var (no cluster.toml); `make up`" in _one_sentence(refused)
    assert not single.var.root.exists()


def test_another_plan_for_an_existing_cluster_is_refused(single: LocalCluster) -> None:
    """NODES=5 must not be taken silently as 1; what a cluster is made of is fixed."""
    single.up()
    single.stele("down")
    other = single.directory / "other.toml"
    other.write_text("[gossip]\ninterval_s = 9\n")

    for option, value in (
        ("--nodes", "5"),
        ("--port-base", "9000"),
        ("--regions", "2"),
        ("--config", str(other)),
    ):
        refused = single.stele("up", option, value, exit_code=1)
        assert "var/cluster.toml exists and has " in _one_sentence(refused)
    refused = single.stele("start", "a7", exit_code=2)
    assert "has no node a7; its nodes are a1." in _one_sentence(refused)
    assert single.running() == {}


def test_clean_stops_the_nodes_and_removes_the_documents(single: LocalCluster) -> None:
    """A new cluster can then take the same place."""
    single.up()
    first = single.var.settings().cluster_id

    single.stele("clean")

    assert not single.var.root.exists()
    assert "nothing to remove" in single.stele("clean").stdout
    single.up()
    assert single.var.settings().cluster_id != first


def _interrupted_up(cluster: LocalCluster, is_time: Callable[[], bool]) -> str:
    """``up`` that gets a Ctrl-C when ``is_time``. Returns what it said on standard error."""
    with subprocess.Popen(
        cluster.command("up", *cluster.up_options),
        cwd=cluster.directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as command:
        wait_until(is_time)
        command.send_signal(signal.SIGINT)
        _, said = command.communicate(timeout=30)
    assert command.returncode == 130, said
    return said


def test_a_first_up_that_was_interrupted_leaves_nothing_running_and_the_next_one_works(
    make_cluster: MakeCluster,
) -> None:
    """At any moment: while databases are made, and while nodes start."""
    cluster = make_cluster(nodes=2, config=QUICK)
    while_made, while_starting = cluster.var.root / "nodes", cluster.var.pid_file("a1")

    for moment in (while_made, while_starting):
        said = _interrupted_up(cluster, moment.exists)
        assert said == "stele: interrupted; what this command had started was stopped again.\n"
        assert cluster.running() == {}, moment

    cluster.up()
    assert len(cluster.running()) == 2


def test_nodes_are_not_in_the_session_of_the_terminal(single: LocalCluster) -> None:
    """Closing it, or Ctrl-C in it, stops commands and not the cluster."""
    single.up()

    pid = single.running()["a1"]

    assert os.getsid(pid) == pid
    assert os.getsid(pid) != os.getsid(0)
