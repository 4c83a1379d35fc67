"""What Prometheus reads from a node: every name that is promised, and numbers that move."""

import re

import pytest

from scripts.local_cluster import LocalCluster, call, wait_until

pytestmark = pytest.mark.cluster

PROMISED = """
    http_server_request_duration_seconds_bucket stele_build_info stele_stale_reads_total
    stele_read_repairs_total stele_hints_pending stele_hints_delivered_total
    stele_hints_dropped_total stele_antientropy_keys_repaired_total
    stele_antientropy_last_complete_timestamp_seconds stele_documents stele_tombstones
    stele_purged_total stele_purge_verified_total stele_orphans_total
    stele_idempotent_replays_total stele_idempotency_conflicts_total stele_scrub_corrupt_total
    stele_clock_skew_seconds stele_event_readers_dropped_total
    stele_event_loop_lag_seconds stele_trace_spans_total stele_trace_spans_held
    stele_members stele_under_replicated_partitions stele_fenced_partitions
"""


def metrics(cluster: LocalCluster, node: str) -> dict[str, float]:
    """Values by name with labels."""
    text = call("GET", f"{cluster.ops_url(node)}/metrics").body.decode()
    return {
        name: float(value)
        for name, value in re.findall(r"^([a-z_]+(?:\{.*\})?) (\S+)$", text, re.MULTILINE)
    }


def test_a_node_exports_what_is_promised_and_it_follows_what_happens(cluster: LocalCluster) -> None:
    """Documents are created and deleted; a node goes away."""
    call("GET", f"{cluster.http_url('a3')}/documents/01936f5e-7b7c-7000-8000-0000000000ff")
    before = metrics(cluster, "a3")
    names = {name.partition("{")[0] for name in before}
    assert [name for name in PROMISED.split() if name not in names] == []
    assert before["stele_under_replicated_partitions"] == 0

    url = f"{cluster.http_url('a1')}/documents?w=all"
    created = [call("POST", url, {"content": "measured"}).json["id"] for _ in range(3)]
    call("DELETE", f"{cluster.http_url('a2')}/documents/{created[0]}?w=all")
    after = metrics(cluster, "a3")
    grown = {name: after[name] - before[name] for name in after if name in before}
    assert grown['stele_documents{status="active"}'] == 2
    assert grown["stele_tombstones"] == 1

    cluster.kill("a1")
    wait_until(lambda: metrics(cluster, "a3")["stele_under_replicated_partitions"] == 256)
