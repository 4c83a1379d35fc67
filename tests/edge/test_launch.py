"""The edge as one more process of a cluster: started, shown, missed and stopped."""

import json
import shutil
import sys
from collections.abc import Iterator

import pytest

from cluster.balancer import find_envoy
from scripts.failover.balancers import ENVOY, missing
from scripts.local_cluster import LocalCluster, call, wait_until

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(bool(missing(ENVOY)), reason=missing(ENVOY) or "there is one"),
]

#: Small and quick, where the number of nodes does not matter.
QUICK = '[storage]\nballast_bytes = 0\nfsync = "os"\n[gossip]\ninterval_s = 0.1\n'


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """One node and an edge, ready at first; each test leaves them so."""
    cluster = LocalCluster(tmp_path_factory.mktemp("edge"), nodes=1, config=QUICK, edge=True)
    try:
        cluster.up()
        yield cluster
    finally:
        cluster.close()


def test_a_node_that_is_stopped_says_so_and_serves_until_all_have_heard(
    single: LocalCluster,
) -> None:
    """To whoever asks /readyz, an operator's eyes included."""
    leaving = single.start_command("stop", "a1")
    wait_until(lambda: call("GET", f"{single.ops_url('a1')}/readyz").status == 503)

    assert call("GET", f"{single.ops_url('a1')}/readyz").json["reasons"] == ["draining"]
    created = call("POST", f"{single.http_url('a1')}/documents", {"content": "x"})

    assert created.status == 201
    assert leaving.wait(20) == 0
    assert single.events("a1", "node.draining")
    single.start("a1")


def test_a_node_is_drained_and_serves_again(single: LocalCluster) -> None:
    """The edge leaves it and comes back; whoever asks the node itself is served all the while."""
    created = call("POST", f"{single.http_url('a1')}/documents", {"content": "x"})
    path = f"/documents/{created.json['id']}"
    assert "a1 drained" in single.stele("drain", "a1").stdout

    assert call("GET", f"{single.edge_url}{path}").status == 503
    assert call("GET", f"{single.http_url('a1')}{path}").status == 200
    (warning,) = json.loads(single.stele("doctor", "-o", "json", exit_code=1).stdout)["findings"]
    assert "drained, as an operator asked" in warning["what"]
    assert "stele stop a1" in warning["do"]

    assert "a1 ready again" in single.stele("drain", "a1", "--back").stdout
    wait_until(lambda: call("GET", f"{single.edge_url}{path}").status == 200)


@pytest.mark.parametrize("for_", ["envoy", "haproxy"])
def test_the_configuration_of_either_balancer_is_printed(single: LocalCluster, for_: str) -> None:
    """For an edge on another machine; what runs here has its nodes from a file beside it."""
    printed = single.stele("edge", "config", "--for", for_).stdout

    assert str(single.edge_port) in printed
    if for_ == "envoy":
        named = json.loads(printed)["static_resources"]
        found = json.loads(single.var.edge_file.read_text())["static_resources"]
        assert named["listeners"] == found["listeners"]
        (resource,) = json.loads(single.var.edge_nodes_file("a").read_text())["resources"]
        del resource["@type"]
        assert named["clusters"][0]["load_assignment"] == resource


def test_envoy_is_found_where_pip_puts_it_or_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any Envoy will do; without one there is none."""
    assert find_envoy()
    monkeypatch.setitem(sys.modules, "envoy", None)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert find_envoy() is None


def test_an_edge_is_started_with_the_nodes_missed_when_it_is_gone_and_stopped_with_them(
    single: LocalCluster,
) -> None:
    """From one URL that is printed first to nothing left behind."""
    assert call("POST", f"{single.edge_url}/documents", {"content": "x"}).status == 201
    status = json.loads(single.stele("status", "-o", "json").stdout)
    assert status["edge"]["rotation"] == ["a1"]
    assert status["edge"]["pid"] == single.running()["edge"]

    single.kill("edge")
    degraded = single.stele("status", exit_code=1).stdout
    assert "ended by itself or was killed; `stele start edge` starts it" in degraded
    assert "edge: ended by itself" in single.stele("doctor", exit_code=1).stdout

    again = single.up().stdout
    assert again.index(single.edge_url) < again.index(single.http_url("a1"))
    assert "a1 already run" in again
    single.stele("stop", "edge")
    assert "edge" not in single.running()
    assert "edge" in single.stele("start", "edge").stdout
    single.stele("down")
    assert single.running() == {}
