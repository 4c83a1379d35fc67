"""The operator's commands on real processes: repair, doctor, replace, trust."""

import json

import pytest

from scripts.local_cluster import LocalCluster, call, wait_until
from tests.cluster.conftest import MakeCluster

pytestmark = pytest.mark.cluster

CONFIG = """
[storage]
ballast_bytes = 0
[gossip]
interval_s = 0.2
[hints]
total_bytes_max = 0
[antientropy]
interval_s = 600
"""


@pytest.fixture
def cluster(shared: MakeCluster) -> LocalCluster:
    """Three nodes that keep no hints, and compare when they are told to."""
    return shared(config=CONFIG)


def doctor(cluster: LocalCluster, exit_code: int) -> list[dict[str, str]]:
    """What it finds."""
    done = cluster.stele("doctor", "-o", "json", exit_code=exit_code)
    findings: list[dict[str, str]] = json.loads(done.stdout)["findings"]
    return findings


def count(cluster: LocalCluster, node: str) -> int:
    """A node's documents."""
    return int(cluster.status(node)["documents_estimate"])


def create(cluster: LocalCluster, contents: int) -> None:
    """On whichever nodes are up."""
    for number in range(contents):
        body = {"content": f"content {number}"}
        answer = call("POST", f"{cluster.http_url('a1')}/documents", body)
        assert answer.status == 201, answer


def test_a_node_is_found_down_brought_back_repaired_and_replaced(cluster: LocalCluster) -> None:
    """The doctor names what is to be done, and what it names works."""
    create(cluster, 3)
    wait_until(lambda: count(cluster, "a3") == 3)
    assert doctor(cluster, exit_code=0) == []

    cluster.stele("stop", "a3")
    wait_until(lambda: cluster.status("a1")["ready"] and cluster.status("a2")["ready"])
    create(cluster, 20)
    (down, *rest) = doctor(cluster, exit_code=1)
    assert (down["about"], down["severity"]) == ("a3", "critical")
    assert "stele start a3" in down["do"]
    assert [one["severity"] for one in rest] == ["note"]  # what a3 is owed a comparison for

    cluster.start("a3")
    done = cluster.stele("repair")
    assert all(f"{node} compared 512 copies" in done.stdout for node in cluster.nodes)
    wait_until(lambda: [count(cluster, node) for node in cluster.nodes] == [23] * 3)
    assert doctor(cluster, exit_code=0) == []

    refused = cluster.stele("replace", "a3", exit_code=1)
    assert "a3 runs" in refused.stderr
    cluster.stele("stop", "a3", "--kill")
    replaced = cluster.stele("replace", "a3").stdout
    assert "a3 was rebuilt and is ready" in replaced
    assert count(cluster, "a3") == 23
    (note,) = doctor(cluster, exit_code=0)
    assert "a3.replaced-" in note["what"]


def test_what_asks_for_consent_does_nothing_without_it(cluster: LocalCluster) -> None:
    """And with it, nothing where nothing is fenced."""
    refused = cluster.stele("trust", "a2", exit_code=1)
    assert "may come back" in refused.stderr
    assert "a2 serves 0 partitions again" in cluster.stele("trust", "a2", "--yes").stdout


def test_a_repair_of_a_node_that_is_down_says_so(cluster: LocalCluster) -> None:
    """And goes on with the rest."""
    cluster.stele("stop", "a3")
    done = cluster.stele("repair", "a3", "a1", "--no-wait", exit_code=1)
    assert "a3 does not answer" in done.stdout
    assert "a1 begins" in done.stdout
    jobs = f"{cluster.ops_url('a1')}/admin/jobs"
    wait_until(lambda: call("GET", jobs).json["jobs"][-1]["peers"] == ["a3"])
    *_, job = call("GET", jobs).json["jobs"]
    assert job["state"] == "running"
    answer = call("DELETE", f"{jobs}/{job['id']}")
    assert answer.json["state"] == "cancelled"
    assert call("GET", f"{jobs}/repair-9").status == 404
