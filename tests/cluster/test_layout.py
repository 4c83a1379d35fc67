"""A node joins and another leaves, by the operator's commands, while clients write and read."""

import json
import threading
import urllib.error
from itertools import count, cycle

import msgspec
import pytest

from cluster import balancer
from scripts.local_cluster import LocalCluster, call
from tests.cluster.conftest import MakeCluster

pytestmark = pytest.mark.cluster

CONFIG = """
[replication]
partitions = 64
[http]
request_timeout_ms = 500
"""
TRIES = 20
#: Every so many documents one is deleted.
DELETED_EVERY = 5


class Clients:
    """One writer and reader at W=2 and R=2, who tries again as the answers say it may."""

    def __init__(self, urls: list[str]) -> None:
        self._urls = cycle(urls)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self.alive: dict[str, str] = {}
        self.deleted: list[str] = []
        self.tries_most = 0
        self.wrong: list[str] = []

    def __enter__(self) -> "Clients":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def ask(self, method: str, path: str, body: object = None, key: str = "") -> tuple[int, bytes]:
        """The first answer that settles it."""
        headers = {"Idempotency-Key": key} if key else {}
        status, content = 0, b""
        for tries in range(TRIES):
            try:
                answer = call(method, f"{next(self._urls)}{path}", body, headers)
                status, content = answer.status, answer.body
            except (urllib.error.URLError, OSError):
                status = 0
            if status and status < 500:
                self.tries_most = max(self.tries_most, tries)
                break
            self._stop.wait(0.05)
        return status, content

    def _work(self) -> None:
        for number in count():
            if self._stop.wait(0.1):
                return
            text = f"document {number}"
            status, body = self.ask("POST", "/documents?w=2", {"content": text}, f"key-{number}")
            if status != 201:
                self.wrong.append(f"create {number}: {status} {body!r}")
                continue
            name = json.loads(body)["id"]
            self.alive[name] = text
            if number % DELETED_EVERY == DELETED_EVERY - 1:
                gone = next(iter(self.alive))
                status, body = self.ask("DELETE", f"/documents/{gone}?w=2")
                del self.alive[gone]
                self.deleted.append(gone)
                if status != 204:
                    self.wrong.append(f"delete {gone}: {status} {body!r}")
            seen, _ = self.ask("GET", f"/documents/{next(reversed(self.alive))}?r=2")
            if seen != 200:
                self.wrong.append(f"read of document {number}: {seen}")


def test_a_node_joins_and_another_leaves_and_no_client_loses_anything(
    make_cluster: MakeCluster,
) -> None:
    """Two commands for the operator; for clients at most a request that is sent once more.

    Every acknowledged document is there, none that was deleted is back, and the edge, the status
    and the doctor know the nodes that there are now.
    """
    has_edge = balancer.find_envoy() is not None
    cluster = make_cluster(config=CONFIG, edge=has_edge)
    cluster.up()
    cluster.nodes.append("a4")  # so that it is ended with the others
    urls = [cluster.http_url(node) for node in ("a1", "a2", "a3")]
    with Clients([cluster.edge_url] if has_edge else urls) as clients:
        _change_owners(cluster)
    assert clients.wrong == [], clients.wrong[:9]
    assert len(clients.alive) > 50
    assert clients.tries_most < TRIES - 1
    _check_documents(cluster, clients)
    status = json.loads(cluster.stele("status", "-o", "json").stdout)
    assert [node["id"] for node in status["nodes"]] == ["a1", "a3", "a4"]
    if has_edge:
        assert sorted(status["edge"]["rotation"]) == ["a1", "a3", "a4"]
    found = json.loads(cluster.stele("doctor", "-o", "json").stdout)["findings"]
    assert [one for one in found if one["severity"] != "note"] == []


def _change_owners(cluster: LocalCluster) -> None:
    cluster.stele("layout", "stage", "--add", "a4", "--zone", "z2")
    outside = json.loads(cluster.stele("status", "-o", "json").stdout)["nodes"][3]
    assert (outside["id"], outside["state"]) == ("a4", "outside")
    cluster.stele("layout", "stage", "--remove", "a2")
    plan = json.loads(cluster.stele("layout", "plan", "-o", "json").stdout)
    moved = {node["id"]: (node["gained"], node["lost"]) for node in plan["nodes"]}
    assert moved == {"a1": (0, 0), "a2": (0, 64), "a3": (0, 0), "a4": (64, 0)}
    stage, node = f"{cluster.ops_url('a1')}/admin/layout/stage", cluster.var.settings().node[3]
    far = msgspec.to_builtins(node) | {"id": "a5", "host": "10.0.0.1"}
    for body, status in (({"add": [far]}, 400), ({"remove": ["a9"]}, 409), ({"x": 1}, 400)):
        assert call("POST", stage, body).status == status, body
    refused = cluster.stele("forget", "a4", exit_code=1)
    assert "a4 runs" in refused.stderr
    cluster.stele("layout", "commit")
    view = cluster.view("a3", "layout")["regions"]["a"]
    assert view["phase"] == "stable"
    assert {member["id"]: member["now"] for member in view["members"]} == {
        "a1": 64,
        "a3": 64,
        "a4": 64,
    }
    left = call("GET", f"{cluster.ops_url('a2')}/readyz")
    assert left.status == 503
    assert "no member" in left.json["reasons"][0]
    cluster.stele("stop", "a2")
    cluster.stele("forget", "a2")


def _check_documents(cluster: LocalCluster, clients: Clients) -> None:
    """Every one, through one node after the other."""
    urls = cycle([cluster.http_url(node) for node in ("a1", "a3", "a4")])
    for name, text in clients.alive.items():
        found = call("GET", f"{next(urls)}/documents/{name}?r=2")
        assert (found.status, found.json.get("content")) == (200, text), name
    for name in clients.deleted:
        assert call("GET", f"{next(urls)}/documents/{name}?r=2").status == 410, name
