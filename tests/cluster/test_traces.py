"""Traces and logs of real processes: from the client's header to the other region's replicas.

One cluster for all tests, as a start takes seconds. It sends its traces to a collector, where the
library for that is installed.
"""

import asyncio
import gzip
import json
import threading
import uuid
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest
from aiohttp import web

from scripts.local_cluster import Answer, LocalCluster, call, wait_until
from tests.cluster.test_metrics import metrics

pytestmark = pytest.mark.cluster

CAN_EXPORT = find_spec("opentelemetry") is not None
CONFIG = """
[storage]
ballast_bytes = 0
fsync = "os"
[gossip]
interval_s = 0.2
[regions]
ship_interval_s = 0.1
[lifecycle]
sweep_interval_s = 0.2
clock_skew_max_s = 0.1
purge_bucket_s = 0.1
[trace]
sample_ratio = 0
"""
#: In every content, key and session of these tests.
SECRET = "xyzzy-plugh"


class Collector:
    """An OTLP/HTTP endpoint on loopback, in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        #: Decoded requests.
        self.received: list[Any] = []
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._runner, self.url = asyncio.run_coroutine_threadsafe(
            self._serve(), self._loop
        ).result()

    async def _serve(self) -> tuple[web.AppRunner, str]:
        app = web.Application()
        app.router.add_post("/v1/traces", self._take)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return runner, f"http://127.0.0.1:{runner.addresses[0][1]}"

    async def _take(self, request: web.Request) -> web.Response:
        from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

        assert request.headers["Content-Type"] == "application/x-protobuf"
        body = await request.read()
        if body.startswith(b"\x1f\x8b"):
            body = gzip.decompress(body)
        decoded: Any = trace_service_pb2.ExportTraceServiceRequest()
        decoded.ParseFromString(body)
        self.received.append(decoded)
        return web.Response(content_type="application/x-protobuf")

    def spans(self, trace_id: str) -> list[tuple[str, Any]]:
        """Of one trace, each with the instance that it came from."""
        return [
            (_attributes(resource.resource)["service.instance.id"], span)
            for request in list(self.received)
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
            if span.trace_id.hex() == trace_id
        ]

    def close(self) -> None:
        """Stop serving."""
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _attributes(of: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in of.attributes}


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    """One for all tests."""
    collector = Collector()
    yield collector
    collector.close()


@pytest.fixture(scope="module")
def cluster(
    tmp_path_factory: pytest.TempPathFactory, collector: Collector
) -> Iterator[LocalCluster]:
    """Two regions of two nodes each."""
    config = CONFIG + (f'otlp_endpoint = "{collector.url}"\n' if CAN_EXPORT else "")
    cluster = LocalCluster(tmp_path_factory.mktemp("traces"), nodes=2, regions=2, config=config)
    try:
        cluster.up()
        yield cluster
    finally:
        cluster.close()


def ask(
    cluster: LocalCluster, node: str, method: str, path: str, content: str = "", **headers: str
) -> tuple[Answer, str]:
    """A request that is traced; its answer and its trace."""
    trace_id = uuid.uuid4().hex
    headers["traceparent"] = f"00-{trace_id}-00f067aa0ba902b7-01"
    body = {"content": content} if content else None
    return call(method, f"{cluster.http_url(node)}{path}", body, headers), trace_id


def shown(cluster: LocalCluster, wanted: str) -> dict[str, Any]:
    """``stele trace``, by trace."""
    view = json.loads(cluster.stele("trace", wanted, "-o", "json").stdout)
    assert view["silent"] == []
    return {trace["trace_id"]: trace for trace in view["traces"]}


def test_a_documents_create_read_and_delete_are_found_by_its_id(cluster: LocalCluster) -> None:
    """With all that was asked of replicas for each, on both sides of a region's edge."""
    created, create = ask(cluster, "a1", "POST", "/documents?w=2", "found by its id")
    document = f"/documents/{created.json['id']}"
    cluster.wait_level()
    _, read = ask(cluster, "a2", "GET", f"{document}?r=2")
    _, delete = ask(cluster, "b1", "DELETE", f"{document}?consistency=each_quorum")
    cluster.wait_level()

    traces = shown(cluster, created.json["id"])
    assert list(traces) == [delete, read, create], "the newest first"
    names = {
        trace_id: [span["name"] for span in trace["spans"]] for trace_id, trace in traces.items()
    }
    assert {"POST /documents", "coordinator.create", "replica.merge", "rpc.merge", "rpc.ship"} == (
        set(names[create])
    )
    assert sorted(names[read]) == [
        "GET /documents/{id}", "coordinator.read", "rpc.fetch", "rpc.fetch"
    ]  # fmt: skip
    assert "rpc.write_here" in names[delete]
    assert {span["node"] for span in traces[create]["spans"]} >= {"a1", "a2"}
    assert any(span["node"].startswith("b") for span in traces[create]["spans"])
    assert not any(trace["error"] for trace in traces.values())

    told = cluster.stele("trace", create).stdout
    assert f"POST /documents, trace {create}" in told
    assert "    rpc.merge to a2" in told
    assert "acked=2" in told
    assert read in cluster.stele("traces", "--slowest").stdout
    assert "no node remembers" in cluster.stele("trace", "1" * 32, exit_code=1).stderr
    assert "no trace's id" in cluster.stele("trace", "x", exit_code=2).stderr


@pytest.mark.skipif(not CAN_EXPORT, reason="the extra otel is not installed")
def test_a_collector_gets_every_span(cluster: LocalCluster, collector: Collector) -> None:
    """What the nodes remember and what they send is the same: ids, causes, times, attributes."""
    created, create = ask(cluster, "a2", "POST", "/documents?w=2", "for the collector")
    cluster.wait_level()
    (trace,) = shown(cluster, create).values()
    wait_until(lambda: len(collector.spans(create)) == len(trace["spans"]))
    sent = {span.span_id.hex(): (node, span) for node, span in collector.spans(create)}
    for known in trace["spans"]:
        node, span = sent[known["span_id"]]
        assert (node, span.name) == (known["node"], known["name"])
        assert span.parent_span_id.hex() == known["parent_id"]
        assert span.start_time_unix_nano == known["started_us"] * 1000
        assert span.end_time_unix_nano - span.start_time_unix_nano == known["duration_us"] * 1000
        assert _attributes(span) == known["attributes"]
    assert any(_attributes(span).get("document") == created.json["id"] for _, span in sent.values())
    exported = metrics(cluster, "a2")
    assert exported["stele_trace_spans_exported_total"] >= 3
    assert exported['stele_trace_spans_dropped_total{reason="collector"}'] == 0


def test_logs_tell_of_documents_lives_and_nothing_of_what_they_are(cluster: LocalCluster) -> None:
    """Every line is JSON; no content, no key and no token is in any, whatever clients did wrong."""
    url = f"{cluster.http_url('a1')}/documents"
    headers = {"Idempotency_Key".replace("_", "-"): SECRET, "Stele-Session": SECRET}
    assert call("POST", url, {"content": SECRET}, headers).status == 400
    del headers["Stele-Session"]
    created, trace_id = ask(cluster, "a1", "POST", "/documents", SECRET, **headers)
    assert call("POST", url, {"content": f"{SECRET} other"}, headers).status == 422
    assert call("POST", url, {"text": SECRET}).status == 422
    assert call("GET", f"{url}/{SECRET}?{SECRET}=1").status == 400
    operations = [
        {"op": "create", "content": SECRET, "idempotency_key": f"{SECRET} 2"},
        {"op": "get", "id": SECRET},
    ]
    assert call("POST", f"{url}/_bulk", {"operations": operations}).status == 200
    assert call("POST", url, {"content": f"{SECRET} brief", "ttl_seconds": 1}).status == 201
    assert ask(cluster, "a1", "DELETE", f"/documents/{created.json['id']}")[0].status == 204

    wait_until(lambda: cluster.events("a1", "document.expired"))
    wait_until(lambda: _replicated(cluster, trace_id))
    (told,) = (
        line
        for line in cluster.events("a1", "document.created")
        if line["document"] == created.json["id"]
    )
    assert (told["trace_id"], told["size_bytes"]) == (trace_id, len(SECRET))
    assert created.json["id"] in {
        line["document"] for line in cluster.events("a1", "document.deleted")
    }
    for node in cluster.nodes:
        text = cluster.var.log_file(node).read_text()
        assert SECRET not in text
        assert all(json.loads(line)["event"] for line in text.splitlines())
    assert SECRET not in json.dumps(cluster.view("a1", "traces?limit=500"))


def _replicated(cluster: LocalCluster, trace_id: str) -> bool:
    lines = cluster.events("a1", "document.replicated")
    return any(line["region"] == "b" and trace_id in line.get("trace_ids", ()) for line in lines)


def test_a_log_may_be_cut_off_while_it_is_written(cluster: LocalCluster) -> None:
    """As logrotate's copytruncate does: the next line is then the first one."""
    log = cluster.var.log_file("a2")
    assert log.stat().st_size > 0
    with log.open("r+b") as file:
        file.truncate()
    ask(cluster, "a2", "POST", "/documents", "after the cut")
    wait_until(lambda: cluster.events("a2", "document.created"))
    assert log.read_bytes().startswith(b"{")
