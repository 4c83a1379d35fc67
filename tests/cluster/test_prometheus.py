"""Prometheus over two regions of real processes, with what stands in deploy/prometheus."""

import json
import re
import shutil
import socket
import subprocess
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from prometheus_client.parser import text_string_to_metric_families

from scripts.local_cluster import ClusterError, LocalCluster, call, wait_until
from tests.cluster.conftest import QUICK, MakeCluster
from tests.prometheus.deployed import (
    DIRECTORY,
    dashboard_expressions,
    expressions,
    names_in,
    recorded,
)

if shutil.which("prometheus") is None:
    pytest.skip("no Prometheus here: `apt-get install prometheus`", allow_module_level=True)

pytestmark = pytest.mark.cluster

#: A look each second, two seconds of patience, and an evaluation each second.
SEEN_WITHIN_S: Final = 5.0
#: What docs and dashboards of others rely on: the names of the API's description.
PROMISED: Final = """
    http_server_request_duration_seconds stele_coordinator_requests
    stele_coordinator_duration_seconds stele_replica_rpc_duration_seconds
    stele_event_loop_lag_seconds
    stele_stale_reads stele_read_repairs stele_hints_pending
    stele_hints_delivered stele_hints_dropped stele_region_lag_seconds
    stele_region_watermark_timestamp_seconds stele_outbox_entries stele_antientropy_keys_repaired
    stele_antientropy_last_complete_timestamp_seconds stele_documents stele_tombstones
    stele_purged stele_purge_verified stele_purge_vetoed_seconds stele_orphans
    stele_idempotent_replays stele_idempotency_conflicts stele_scrub_corrupt stele_members
    stele_under_replicated_partitions stele_clock_skew_seconds stele_build_info
"""


class Prometheus:
    """A process of its own, and its HTTP API."""

    def __init__(self, directory: Path, cluster: LocalCluster) -> None:
        shutil.copytree(DIRECTORY, directory, dirs_exist_ok=True)
        targets = cluster.stele("prometheus", "targets").stdout
        (directory / "targets.json").write_text(targets)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self._address = f"127.0.0.1:{probe.getsockname()[1]}"
        self._log = (directory / "log").open("wb")
        self._process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={directory}/prometheus.yml",
                f"--storage.tsdb.path={directory}/data",
                f"--web.listen-address={self._address}",
            ],
            stdout=self._log,
            stderr=self._log,
        )

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        self._log.close()

    def query(self, expression: str) -> list[dict[str, Any]]:
        """What an expression comes to now; nothing while Prometheus is starting."""
        query = urllib.parse.urlencode({"query": expression})
        try:
            answer = call("GET", f"http://{self._address}/api/v1/query?{query}")
        except OSError:
            return []
        if answer.status == 503:
            return []
        assert answer.json["status"] == "success", (expression, answer.body)
        found: list[dict[str, Any]] = answer.json["data"]["result"]
        return found

    def firing(self, alert: str) -> list[dict[str, str]]:
        """The labels of an alert, for each time that it fires."""
        found = self.query(f'ALERTS{{alertname="{alert}",alertstate="firing"}}')
        return [one["metric"] for one in found]


def _use(cluster: LocalCluster) -> None:
    for node in cluster.nodes:
        url = f"{cluster.http_url(node)}/documents"
        made = call("POST", url, {"content": node}).json["id"]
        call("GET", f"{url}/{made}")
        call("DELETE", f"{url}/{made}")


@pytest.fixture(scope="module")
def prometheus(
    shared: MakeCluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    """It has seen all nodes twice, so that it knows rates."""
    cluster = shared(regions=2, config=QUICK)
    started = Prometheus(tmp_path_factory.mktemp("prometheus"), cluster)
    try:
        wait_until(lambda: len(started.query('sum_over_time(up{job="stele"}[1m]) >= 3')) == 6)
        _use(cluster)
        yield started
    finally:
        started.stop()


def exposed(cluster: LocalCluster, node: str) -> str:
    """A node's metrics."""
    return call("GET", f"{cluster.ops_url(node)}/metrics").body.decode()


def test_what_is_exposed_is_as_prometheus_wants_it(two: LocalCluster) -> None:
    """Names, help texts and types, as promtool judges."""
    text = exposed(two, "a1")
    done = subprocess.run(
        ["promtool", "check", "metrics"],
        input=text,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_promised_name_is_exported_and_no_label_is_an_id(two: LocalCluster) -> None:
    """An id as a label would make a series of each document."""
    families = list(text_string_to_metric_families(exposed(two, "b1")))
    names = {family.name for family in families}
    assert [name for name in PROMISED.split() if name not in names] == []
    values = {
        value
        for family in families
        for sample in family.samples
        for label, value in sample.labels.items()
        if label != "version"
    }
    assert [value for value in values if re.search("[0-9a-f]{8}", value)] == []


def test_rules_and_dashboard_ask_for_what_nodes_export(two: LocalCluster) -> None:
    """A misspelt name is no error in Prometheus: it is silence."""
    families = text_string_to_metric_families(exposed(two, "a1"))
    suffixes = ("", "_total", "_count", "_bucket")
    known = {f"{one.name}{suffix}" for one in families for suffix in suffixes}
    known |= set(recorded())
    asked = {name for text in [*expressions(), *dashboard_expressions()] for name in names_in(text)}
    assert len(asked) > 20
    assert sorted(asked - known) == []


def test_every_query_of_the_dashboard_is_answered(prometheus: Prometheus) -> None:
    """And shows something, except where there is nothing to show in a healthy cluster."""
    rests = (
        "stele_trouble",
        "stele_purge_vetoed_seconds",
        "stele_antientropy_last",
        "stele_layout_partitions_left",
    )
    asked = dashboard_expressions()
    empty = [text for text in asked if not any(name in text for name in rests)]

    def all_show_something() -> bool:
        empty[:] = [text for text in empty if not prometheus.query(text)]
        return not empty

    try:
        wait_until(all_show_something, within_s=10.0)
    except ClusterError:
        pytest.fail(f"nothing is shown by {empty}")
    for text in asked:
        prometheus.query(text)


def test_a_killed_node_is_an_alert_within_five_seconds_and_its_return_ends_it(
    two: LocalCluster, prometheus: Prometheus
) -> None:
    """And nothing fires before."""
    assert prometheus.query('ALERTS{alertstate="firing"}') == []
    two.kill("b2")
    killed_s = time.monotonic()
    wait_until(lambda: prometheus.firing("SteleNodeDown"), SEEN_WITHIN_S)
    took_s = time.monotonic() - killed_s
    (labels,) = prometheus.firing("SteleNodeDown")
    assert (labels["node"], labels["node_region"]) == ("b2", "b"), f"after {took_s:.1f} s"
    two.start("b2")
    wait_until(lambda: not prometheus.query('ALERTS{alertstate="firing"}'))


def test_the_targets_are_the_nodes(two: LocalCluster, tmp_path: Path) -> None:
    """Also from a cluster file alone, as on another machine."""
    printed = two.stele("prometheus", "targets", "--file", str(two.var.cluster_file)).stdout
    assert [one["labels"]["node"] for one in json.loads(printed)] == two.nodes
