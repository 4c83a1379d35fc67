"""Real processes and the levels of consistency; and the document service on its own."""

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from scripts.local_cluster import LocalCluster, call, wait_until

pytestmark = pytest.mark.cluster

ABSENT = "01936f5e-7b7c-7000-8000-0000000000ff"


@pytest.fixture
def router(cluster: LocalCluster) -> Iterator[str]:
    """URL of a ``python -m docservice`` in front of the cluster."""
    port, ops_port = cluster.port_base + 109, cluster.port_base + 2109
    command = [sys.executable, "-m", "docservice"]
    command += ["--cluster-file", str(cluster.var.cluster_file)]
    command += ["--secret-file", str(cluster.var.secret_file)]
    command += ["--port", str(port), "--ops-port", str(ops_port)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: _is_ready(ops_port))
            yield f"http://127.0.0.1:{port}"
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0, "the router stops cleanly"
        finally:
            process.kill()


def _is_ready(ops_port: int) -> bool:
    try:
        return call("GET", f"http://127.0.0.1:{ops_port}/readyz").status == 200
    except OSError:
        return False


def test_each_level_needs_as_many_nodes_as_it_says(cluster: LocalCluster) -> None:
    """Scenario 44: with k nodes down a level succeeds if and only if enough are left."""
    url = f"{cluster.http_url('a1')}/documents"
    created = call("POST", f"{url}?w=all", {"content": "known to all"})
    document = f"{url}/{created.json['id']}"
    assert created.headers["Stele-Acks"] == "3/3; n=3; hints=0"

    cluster.kill("a3")
    wait_until(lambda: _connected(cluster, "a1") == 2)
    assert call("GET", f"{document}?r=2").status == 200
    assert call("POST", f"{url}?w=2", {"content": "two are left"}).status == 201
    refused = call("POST", f"{url}?w=3", {"content": "three are not"})
    assert (refused.status, refused.json["code"]) == (503, "unavailable")
    assert (refused.json["outcome"], refused.json["retryable"]) == ("not_applied", True)
    assert call("GET", f"{document}?r=3").status == 503
    assert call("GET", f"{url}/{ABSENT}").status == 404

    cluster.kill("a2")
    wait_until(lambda: _connected(cluster, "a1") == 1)
    assert call("GET", document).status == 200
    assert call("POST", url, {"content": "one is left"}).status == 201
    assert call("GET", f"{document}?r=2").status == 503
    assert call("GET", f"{url}/{ABSENT}").status == 503, "absence is never guessed"


def test_a_hung_node_delays_nobody_for_long(cluster: LocalCluster) -> None:
    """A stopped process keeps its sockets: only the deadline and the detector find out."""
    url = f"{cluster.http_url('a1')}/documents"
    cluster.send_signal("a3", signal.SIGSTOP)
    assert call("POST", f"{url}?w=2", {"content": "a"}).status == 201
    answer = call("POST", f"{url}?w=3", {"content": "b"}, {"Stele-Timeout-Ms": "300"})
    assert (answer.status, answer.json["outcome"]) == (504, "unknown")
    wait_until(lambda: _connected(cluster, "a1") == 2)
    cluster.send_signal("a3", signal.SIGCONT)
    wait_until(lambda: _connected(cluster, "a1") == 3)
    wait_until(lambda: not cluster.status("a1")["hints"])


def test_any_instance_gives_the_same_answer(cluster: LocalCluster, router: str) -> None:
    """Three nodes and a router: create on one, read and delete on any other."""
    instances = [router, *map(cluster.http_url, cluster.nodes)]
    for number, instance in enumerate(instances):
        other = instances[number - 1]
        key = {"Idempotency-Key": f"key-{number}"}
        created = call("POST", f"{instance}/documents?w=2", {"content": "été"}, key)
        again = call("POST", f"{other}/documents?w=2", {"content": "été"}, key)
        assert (created.status, again.status, again.body) == (201, 201, created.body)
        assert again.headers["Idempotency-Replayed"] == "true"
        reused = call("POST", f"{other}/documents", {"content": "autre"}, key)
        assert (reused.status, reused.json["code"]) == (422, "key-reused")

        document = f"/documents/{created.json['id']}"
        bodies = [call("GET", f"{each}{document}?r=2").body for each in instances]
        assert bodies == [bodies[0]] * len(instances)

        assert call("DELETE", f"{other}{document}?w=3").status == 204
        assert [call("GET", f"{each}{document}").status for each in instances] == [410] * 4
        gone = call("POST", f"{instance}/documents", {"content": "été"}, key)
        assert (gone.status, gone.json["code"]) == (410, "deleted")

    # The router remembers what the nodes don't know of a request, and is asked on demand.
    trace_id = "5e" * 16
    headers = {"traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"}
    assert call("POST", f"{router}/documents", {"content": "x"}, headers).status == 201
    nodes_only = cluster.stele("trace", trace_id)
    assert "POST /documents" not in nodes_only.stdout
    assert "--at HOST:PORT" in nodes_only.stderr
    told = cluster.stele("trace", trace_id, "--at", f"127.0.0.1:{cluster.port_base + 2109}")
    assert "POST /documents" in told.stdout
    assert "rpc.merge" in told.stdout
    assert told.stderr == ""
    assert "HOST:PORT" in cluster.stele("trace", trace_id, "--at", "there", exit_code=2).stderr


def test_a_router_goes_on_when_the_node_it_talks_to_is_killed(
    cluster: LocalCluster, router: str
) -> None:
    """The next owner is asked: a repeated request meets the same id and merges into the same."""
    ids = []
    for victim in ("a1", None, "a2"):
        for number in range(30):
            answer = call("POST", f"{router}/documents", {"content": f"{victim} {number}"})
            assert answer.status == 201, answer.body
            ids.append(answer.json["id"])
        if victim is not None:
            cluster.kill(victim)
            wait_until(lambda: call("GET", f"{router}/documents/{ids[-1]}").status == 200)
            if victim == "a1":
                cluster.start(victim)
    for document_id in ids:
        assert call("GET", f"{router}/documents/{document_id}").status == 200


def _connected(cluster: LocalCluster, node: str) -> int:
    return sum(member["connected"] for member in cluster.status(node)["members"])
