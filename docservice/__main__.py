"""``python -m docservice``: the document API on its own, a stateless router to the nodes.

Entry points stand above all layers. It reads the cluster file, keeps one connection to every node
and sends each request to a replica of its document; any number may run, anywhere.
"""

import argparse
import asyncio
import sys
from pathlib import Path
from typing import Any

import uvloop
from prometheus_client import CollectorRegistry

from cluster.layout import rings_of
from cluster.secret import read_secret
from cluster.settings import ClusterSettings
from cluster.topology import TopologyError, read_cluster_file
from docservice.serving import serve_documents
from kvnode.admin import Operations, start_admin_listener
from kvnode.client import ClusterClient
from kvnode.errors import CannotStart
from kvnode.eventring import EventRing
from kvnode.health import Check, Weight, troubles
from kvnode.jobs import Jobs
from kvnode.leaving import Leaving
from kvnode.log import Log, process_log
from kvnode.metrics import EventsCollector, HttpMetrics, TraceCollector
from kvnode.otlp import exporting
from kvnode.ports import Clock, Entropy
from kvnode.system import SystemClock, SystemEntropy, tune_garbage_collector
from kvnode.traceviews import ASK_WITHIN_S, TraceViews
from kvnode.tracing import Tracer

DRAIN_S = 5.0


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m docservice", description=__doc__)
    parser.add_argument("--cluster-file", type=Path, required=True)
    parser.add_argument("--secret-file", type=Path, required=True)
    parser.add_argument("--region", help="which region to serve; default: the file's first")
    parser.add_argument("--host", default="127.0.0.1", choices=("127.0.0.1", "::1", "localhost"))
    parser.add_argument("--port", type=int, required=True, help="of the document API")
    parser.add_argument("--ops-port", type=int, required=True, help="of /readyz and /metrics")
    return parser.parse_args(argv)


def _client(
    settings: ClusterSettings, region: str, secret: bytes, clock: Clock, entropy: Entropy, log: Log
) -> ClusterClient:
    nodes = settings.region_nodes(region)
    return ClusterClient(
        cluster_id=settings.cluster_id,
        secret=secret,
        rings=rings_of(settings),
        region=region,
        zones={node.node_id: node.zone for node in nodes},
        addresses={node.node_id: (node.host, node.rpc_port) for node in nodes},
        clock=clock,
        entropy=entropy,
        log=log,
    )


async def _run(arguments: argparse.Namespace, log: Log, events: EventRing) -> None:
    settings = read_cluster_file(arguments.cluster_file)
    region = arguments.region or settings.node[0].region
    nodes = settings.region_nodes(region)
    if not nodes:
        msg = f"{arguments.cluster_file}: there is no region {region!r}; check --region."
        raise TopologyError(msg)
    clock, entropy = SystemClock(), SystemEntropy()
    secret = read_secret(arguments.secret_file)
    registry = CollectorRegistry()
    registry.register(EventsCollector(events))
    tracer = Tracer(f"docservice-{arguments.port}", settings.trace, clock, entropy)
    client = _client(settings, region, secret, clock, entropy, log)
    draining = asyncio.Event()

    def checks() -> list[Check]:
        trouble = "" if client.ready else "most of the ring can't be reached"
        return [
            Check("draining", Weight.UNREADY, "draining" if draining.is_set() else ""),
            Check("quorum", Weight.UNREADY, trouble),
        ]

    def status() -> dict[str, Any]:
        reasons = troubles(checks(), Weight.UNREADY)
        return {"region": region, "ready": not reasons, "reasons": reasons}

    try:
        async with exporting(tracer, settings.trace, log) as exporter:
            registry.register(TraceCollector(tracer, exporter))
            data = await serve_documents(
                client,
                client.noting,
                settings,
                host=arguments.host,
                port=arguments.port,
                region=region,
                secret=secret,
                tracer=tracer,
                metrics=HttpMetrics(registry),
                clock=clock,
                entropy=entropy,
                log=log,
            )
            operations = Operations(
                registry=registry,
                checks=checks,
                views={"status": status},
                document_views={},
                actions={},
                jobs=Jobs(clock),
                events=events,
                traces=TraceViews(
                    tracer, client.asker(ASK_WITHIN_S), lambda: [node.node_id for node in nodes]
                ),
            )
            admin = await start_admin_listener(arguments.host, arguments.ops_port, operations)
            stop = asyncio.Event()
            leaving = Leaving(settings.edge.drain_s, drain=draining.set, stop=stop.set)
            leaving.heed_signals(asyncio.get_running_loop())
            tune_garbage_collector()
            log.info("docservice.started", port=data.port)
            await stop.wait()
            await data.stop(DRAIN_S)
            await admin.cleanup()
    finally:
        await client.close()
    log.info("docservice.stopped")


def main() -> int:
    """Serve until told to stop; the exit code is 0, or 1 with a last line that says why."""
    arguments = _arguments(sys.argv[1:])
    events = EventRing(SystemEntropy().random_bytes(4).hex())
    log = process_log(events.append, docservice=str(arguments.port))
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run(arguments, log, events))
    except (CannotStart, TopologyError) as error:
        log.error("docservice.refused", detail=str(error))
        return 1
    except OSError as error:
        log.error("docservice.refused", detail=f"cannot listen: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
