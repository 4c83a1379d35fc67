"""Real processes that are killed: what was acknowledged is there afterwards, on every node."""

import threading
from concurrent.futures import ThreadPoolExecutor
from urllib.error import URLError

import pytest

from scripts.local_cluster import LocalCluster, call, wait_until

pytestmark = pytest.mark.cluster


class _Writer:
    """Creates documents on all nodes until told to stop, and remembers what was acknowledged."""

    def __init__(self, cluster: LocalCluster, query: str = "") -> None:
        self._cluster = cluster
        self._query = query
        self._stop = threading.Event()
        self.acknowledged: dict[str, str] = {}
        self.refused: list[int] = []

    def run(self, number: int) -> None:
        """One client."""
        count = 0
        while not self._stop.is_set():
            node = self._cluster.nodes[(number + count) % len(self._cluster.nodes)]
            content = f"client {number}, document {count}"
            count += 1
            try:
                url = f"{self._cluster.http_url(node)}/documents{self._query}"
                answer = call("POST", url, {"content": content})
            except (URLError, ConnectionError):
                continue  # the node is down: the client goes to the next one
            if answer.status == 201:
                self.acknowledged[answer.json["id"]] = content
            else:
                self.refused.append(answer.status)

    def stop(self) -> None:
        """Let every client finish what it is doing."""
        self._stop.set()


def _content(cluster: LocalCluster, node: str, document_id: str, query: str = "") -> str | int:
    answer = call("GET", f"{cluster.http_url(node)}/documents/{document_id}{query}")
    content: str = answer.json["content"] if answer.status == 200 else ""
    return content or answer.status


def test_kill_nine_of_a_node_under_load_loses_nothing_that_was_acknowledged(
    cluster: LocalCluster,
) -> None:
    """W=1: one fsynced copy, on a node that may be the killed one, is what the client was told."""
    writer = _Writer(cluster)
    with ThreadPoolExecutor(4) as clients:
        running = [clients.submit(writer.run, number) for number in range(4)]
        for victim in ("a2", "a1", "a3"):
            before = len(writer.acknowledged)
            wait_until(lambda before=before: len(writer.acknowledged) > before + 50)  # type: ignore[misc]
            cluster.kill(victim)
            during = len(writer.acknowledged)
            wait_until(lambda during=during: len(writer.acknowledged) > during + 50)  # type: ignore[misc]
            cluster.start(victim)
        writer.stop()
    for client in running:
        client.result()
    assert set(writer.refused) <= {503, 504}, "a node that goes down refuses, it does not break"
    for document_id, content in writer.acknowledged.items():
        assert _content(cluster, "a1", document_id, "?r=quorum") == content


def test_all_nodes_killed_at_once_serve_everything_again(cluster: LocalCluster) -> None:
    """What is acknowledged does not live in any process."""
    acknowledged = {}
    for number in range(100):
        node = cluster.nodes[number % 3]
        answer = call("POST", f"{cluster.http_url(node)}/documents", {"content": str(number)})
        acknowledged[answer.json["id"]] = str(number)
    for node in cluster.nodes:
        cluster.kill(node)

    cluster.up()

    for document_id, content in acknowledged.items():
        for node in cluster.nodes:
            assert _content(cluster, node, document_id) == content
