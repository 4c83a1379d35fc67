"""Two regions of real processes: written in one, read in the other; one lost, and back.

One cluster for all tests, as a start takes seconds; each test leaves it whole.
"""

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest

from docservice.client import AsyncClient
from docservice.client.errors import Deleted
from scripts.local_cluster import Answer, LocalCluster, call, wait_until
from scripts.session_reads import measured, table
from tests.cluster.test_metrics import metrics

pytestmark = pytest.mark.cluster

#: Nothing but a node's log of its writes brings anything to the other region.
CONFIG = """
[storage]
ballast_bytes = 0
fsync = "os"
[gossip]
interval_s = 0.2
[regions]
ship_interval_s = 0.1
"""


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """Regions a and b of three nodes each."""
    cluster = LocalCluster(tmp_path_factory.mktemp("regions"), regions=2, config=CONFIG)
    try:
        cluster.up()
        yield cluster
    finally:
        cluster.close()


def create(cluster: LocalCluster, node: str, content: str, key: str = "") -> str:
    """At the least quorum. Returns its id."""
    headers = {"Idempotency-Key": key} if key else {}
    url = f"{cluster.http_url(node)}/documents"
    answer = call("POST", url, {"content": content}, headers)
    assert answer.status == 201, answer
    document_id: str = answer.json["id"]
    return document_id


def read(cluster: LocalCluster, node: str, document_id: str) -> Answer:
    """At the least quorum."""
    return call("GET", f"{cluster.http_url(node)}/documents/{document_id}")


def documents(cluster: LocalCluster, region: str) -> list[int]:
    """On each node's disk."""
    return [cluster.status(node)["documents_estimate"] for node in cluster.regions[region]]


def kill(cluster: LocalCluster, region: str) -> None:
    """Every node of it."""
    for node in cluster.regions[region]:
        cluster.kill(node)


def start(cluster: LocalCluster, region: str) -> None:
    """Every node of it; ready, and connected to the nodes that run, on return."""
    cluster.stele("start", *cluster.regions[region])


def test_what_is_written_in_one_region_is_read_and_deleted_in_the_other(two: LocalCluster) -> None:
    """At once, for a miss that may be too young is asked about; soon from its own disks."""
    document_id, written_s = create(two, "a1", "from a"), time.time()

    found = read(two, "b2", document_id)
    assert (found.status, found.json["content"]) == (200, "from a")

    two.wait_level()
    found_at = metrics(two, "b1")
    assert found_at['stele_region_watermark_timestamp_seconds{region="a"}'] > written_s
    assert 0 <= found_at['stele_region_lag_seconds{region="a"}'] < 5
    assert found_at['stele_outbox_entries{region="a"}'] == 0
    holders = [
        one["node"]
        for one in two.view("b1", f"owners/{document_id}")["replicas"]
        if one["node"] in two.regions["b"] and one["record"]
    ]
    assert len(holders) >= 2, "the watermark says that a majority of the owners there has it"

    assert call("DELETE", f"{two.http_url('b3')}/documents/{document_id}").status == 204
    two.wait_level()
    assert read(two, "a2", document_id).status == 410


def test_a_region_that_is_lost_is_missed_by_nobody_elsewhere_and_catches_up(
    two: LocalCluster,
) -> None:
    """Its nodes are killed with what they had acknowledged and not yet told the other region."""
    known = create(two, "a2", "before")
    two.wait_level()
    last_words = create(two, "b1", "told by a node that is killed next")
    kill(two, "b")

    meanwhile = [create(two, node, f"meanwhile {node}") for node in two.regions["a"]]
    assert read(two, "a3", known).status == 200
    assert sum(_of_b(two, node)["waiting"] for node in two.regions["a"]) >= len(meanwhile)
    wait_until(lambda: not any(_of_b(two, node)["connected"] for node in two.regions["a"]))
    seen = metrics(two, "a1")
    assert seen['stele_region_connected_nodes{region="b"}'] == 0
    assert 0 < seen['stele_outbox_fullness_ratio{region="b"}'] < 0.01
    assert "reaches no node of region b since" in two.stele("doctor", exit_code=1).stdout
    status = two.stele("status", exit_code=1).stdout
    assert "a to b: cut off since" in status
    assert "a1 reaches no node of region b" in status
    table = two.stele("ring", exit_code=1).stdout
    assert "region a, ring 1" in table
    assert "region b, ring 1" in table
    assert "0% have a quorum up" in table
    table = two.stele("owners", known, exit_code=1).stdout
    assert table.count("no answer (unreachable)") == 3
    assert two.events("a1", "region.cut_off")

    start(two, "b")
    two.wait_level()
    two.wait_connected()
    assert "a to b: all is there but the last" in two.stele("status").stdout
    for document_id in (known, *meanwhile):
        assert read(two, "b1", document_id).status == 200
    assert read(two, "a1", last_words).status == 200
    wait_until(lambda: len({*documents(two, "a"), *documents(two, "b")}) == 1)


def _of_b(cluster: LocalCluster, node: str) -> dict[str, Any]:
    """What a node of region a says of region b."""
    said: dict[str, Any] = cluster.view(node, "regions")["regions"]["b"]
    return said


def test_a_region_whose_disks_are_gone_is_rebuilt_from_the_other(two: LocalCluster) -> None:
    """By the command that replaces a node, given all of them; nothing deleted comes back."""
    kept = [create(two, node, f"kept {node}") for node in two.nodes]
    doomed = create(two, "b1", "deleted before")
    call("DELETE", f"{two.http_url('a1')}/documents/{doomed}")
    two.wait_level()
    wait_until(lambda: len({*documents(two, "a"), *documents(two, "b")}) == 1)
    held = documents(two, "a")
    kill(two, "b")

    replaced = two.stele("replace", *two.regions["b"]).stdout

    assert "b1, b2, b3 were rebuilt and are ready" in replaced
    assert documents(two, "b") == held
    for node in two.regions["b"]:
        assert two.events(node, "node.rebuilt")
    for document_id in kept:
        assert read(two, "b2", document_id).status == 200
    assert read(two, "b3", doomed).status == 410
    two.wait_level()  # what the lost logs held back is known to be in region a again
    two.wait_connected()


def test_one_key_with_two_bodies_in_regions_that_are_apart_ends_as_one_document(
    two: LocalCluster,
) -> None:
    """Both were acknowledged; the earlier one is read everywhere, and the other is counted."""
    kill(two, "b")
    first = create(two, "a1", "body of a", key="one key")
    kill(two, "a")
    start(two, "b")
    assert create(two, "b2", "body of b", key="one key") == first

    start(two, "a")
    two.wait_connected()
    two.wait_level()

    wait_until(
        lambda: {read(two, node, first).json["content"] for node in two.nodes} == {"body of a"}
    )
    conflicts = "stele_idempotency_conflicts_total"
    losers = [node for node in two.regions["b"] if metrics(two, node)[conflicts]]
    assert (
        [{one["document"] for one in two.view(node, "conflicts")["conflicts"]} for node in losers]
        == [{first}] * len(losers)
        != []
    )
    for node in losers:
        (event,) = two.events(node, "document.key_conflict")
        assert event["document"] == first
        assert "body" not in repr(event)
        assert "one key" not in repr(event)
    assert "1 keys that were given two bodies" in two.stele("doctor", exit_code=None).stdout


def test_pairs_of_create_and_read_across_regions_are_stale_without_a_token_and_never_with_one(
    two: LocalCluster,
) -> None:
    """What `make session-reads` measures, with fewer pairs."""
    all_reads = asyncio.run(measured(two, 40))

    told = {reads.title: reads.statuses for reads in all_reads}
    assert told["key, no token: at once"][404] > 0
    assert told["key, token: at once"] == {200: 40}
    assert told["key, no token: once it is there"] == told["key, token: once it is there"]
    assert "| key, token: at once | 40 | 40 | 0 | 0 |" in table(all_reads)


def test_a_client_that_goes_to_the_other_region_takes_its_session_along(two: LocalCluster) -> None:
    """Because it wants to, or because its region is lost: it sees its own writes, and 410."""
    endpoints = {
        region: [two.http_url(node) for node in nodes] for region, nodes in two.regions.items()
    }

    async def roam() -> None:
        async with AsyncClient(endpoints, region="a") as at_a:
            with at_a.session() as session:
                created = await at_a.create("seen in a", key="roaming")
                doomed = await at_a.create("deleted in a", key="doomed")
                token = session.token
        async with AsyncClient(endpoints, region="b") as at_b:
            with at_b.session(token):
                assert (await at_b.get(created.id)).content == "seen in a"
                await at_b.delete(doomed.id)
                last = await at_b.create("seen in b", key="last")
                await asyncio.to_thread(two.wait_level)
                await asyncio.to_thread(kill, two, "b")
                assert (await at_b.get(last.id)).content == "seen in b"
                with pytest.raises(Deleted):
                    await at_b.get(doomed.id)

    asyncio.run(roam())
    start(two, "b")
    two.wait_connected()
