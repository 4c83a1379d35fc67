"""A traced request over several nodes and regions: what is noted of it, and where."""

import asyncio
from functools import partial

import pytest

from docservice.documents import DocumentService
from docservice.notedstore import NotedStore, Noting
from kvnode.errors import Unavailable
from kvnode.notedcalls import noting
from kvnode.tracing import OpenSpan, Span, Tracer
from tests.simulation.cluster import SimCluster
from tests.simulation.convergence import level
from tests.simulation.machine import Machine
from tests.simulation.run import seeds, simulate
from tests.simulation.test_regions import TWO, cut_off, heal


def trace(cluster: SimCluster, machine: Machine, tracer: Tracer, store: Noting) -> OpenSpan:
    """Have the next requests to a machine be traced, as parts of the span that is returned."""
    request = tracer.begin("request", "server")
    machine.documents = DocumentService(
        NotedStore(store, request),
        clock=machine.clock,
        entropy=tracer.entropy,
        cluster_id=bytes.fromhex(cluster.settings.cluster_id),
        region=machine.region,
        replication=cluster.settings.replication,
        lifecycle=cluster.settings.lifecycle,
    )
    return request


def trace_node(cluster: SimCluster, name: str) -> OpenSpan:
    """The same, of a node."""
    node = cluster.nodes[name].serving
    store = partial(noting, node.coordinator, hops=node.tracer.hops)
    return trace(cluster, cluster.nodes[name], node.tracer, store)


def spans(cluster: SimCluster, request: OpenSpan) -> list[Span]:
    """What all nodes remember of a trace."""
    tracers = [machine.serving.tracer for machine in cluster.nodes.values()]
    return [span for tracer in tracers for span in tracer.store.trace(request.trace_id)]


def asked(found: list[Span], name: str) -> dict[str, str]:
    """By who was asked, who asked. Both have a span, and the one is the cause of the other."""
    ends = {span.span_id: span for span in found if span.name == name and span.kind == "client"}
    answered = [span for span in found if span.name == name and span.kind == "server"]
    for span in answered:
        assert dict(ends[span.parent_id].attributes)["peer"] == span.node
    assert {span.parent_id for span in answered} == set(ends)
    return {span.node: ends[span.parent_id].node for span in answered}


@seeds(2)
def test_a_create_has_a_span_on_every_node_that_took_part(seed: int) -> None:
    """Also on the one of the other region that it is shipped to, after the client was answered."""

    async def scenario(cluster: SimCluster) -> None:
        request = trace_node(cluster, "a1")
        await cluster.create("a1", "content", write=2)
        await level(cluster)
        found = spans(cluster, request)
        assert asked(found, "rpc.merge") == {"a2": "a1", "a3": "a1"}
        ((shipped_to, shipped_by),) = asked(found, "rpc.ship").items()
        assert (shipped_by, shipped_to[0]) == ("a1", "b")
        (coordinator,) = (span for span in found if span.name == "coordinator.create")
        parts = [span for span in found if span.kind == "client" or span.name == "replica.merge"]
        assert {span.parent_id for span in parts} == {coordinator.span_id}
        assert len(parts) == 4
        assert dict(coordinator.attributes)["acked"] == 2
        assert not any(span.error for span in found)

    simulate(scenario, seed, TWO)


@seeds(1)
def test_what_a_node_coordinates_for_another_region_is_a_part_of_the_trace(seed: int) -> None:
    """Its own replicas' spans are parts of what it was asked."""

    async def scenario(cluster: SimCluster) -> None:
        request = trace_node(cluster, "a1")
        await cluster.create("a1", "content", write=2, sloppy=False, each_region=True)
        await level(cluster)
        found = spans(cluster, request)
        ((there, _),) = asked(found, "rpc.write_here").items()
        (far,) = (span for span in found if (span.name, span.kind) == ("rpc.write_here", "server"))
        assert {span.node for span in found if span.parent_id == far.span_id} == {there}
        assert set(asked(found, "rpc.merge")) | {"a1", there} == set(cluster.nodes)

    simulate(scenario, seed, TWO)


@seeds(1)
def test_what_fails_is_named_where_it_failed(seed: int) -> None:
    """And what could not be shipped is shipped later, in the same trace."""

    async def scenario(cluster: SimCluster) -> None:
        cut_off(cluster)
        await asyncio.sleep(6)
        request = trace_node(cluster, "a1")
        with pytest.raises(Unavailable):
            await cluster.create("a1", "refused", write=2, sloppy=False, each_region=True)
        await cluster.create("a1", "content", write=2)
        await heal(cluster)
        await level(cluster)
        found = spans(cluster, request)
        failed = [(span.name, span.error) for span in found if span.error]
        assert failed == [("coordinator.create", "unavailable")]
        assert len(asked(found, "rpc.ship")) == 1

    simulate(scenario, seed, TWO)


@seeds(1)
def test_a_document_service_alone_hands_its_trace_on_to_the_node_that_it_asks(seed: int) -> None:
    """Reads as well: from its own span to that of the last replica."""

    async def scenario(cluster: SimCluster) -> None:
        client = cluster.docs._client
        assert client is not None
        entropy = client._transport._entropy
        tracer = Tracer("docs", cluster.settings.trace, cluster.docs.clock, entropy)
        request = trace(cluster, cluster.docs, tracer, client.noting)
        created = await cluster.create("docs", "content", write=2)
        await cluster.read("docs", created.document_id, read=2)
        found = [*tracer.store.trace(request.trace_id), *spans(cluster, request)]
        for name in ("rpc.create", "rpc.read"):
            (asker,) = set(asked(found, name).values())
            assert asker == "docs"
        assert len(asked(found, "rpc.fetch")) == 1

    simulate(scenario, seed)
