"""``python -m kvnode run`` serves what ``python -m kvnode.storage`` has made.

Entry points stand above all layers: this one puts the document service on top of a node.
"""

import argparse
import asyncio
import os
import sys
from functools import partial
from pathlib import Path

import uvloop
from prometheus_client import CollectorRegistry

from cluster.layout import rings_of
from cluster.secret import read_secret
from cluster.settings import StorageSettings
from cluster.topology import TopologyError, node_named, read_cluster_file
from docservice.meteredstore import MeteredStore
from docservice.serving import serve_documents
from kvnode.admin import Operations, start_admin_listener
from kvnode.callmetrics import CallsCollector, PeersCollector
from kvnode.calls import Calls
from kvnode.console.glance import glance
from kvnode.console.pages import Console
from kvnode.drains import drain, end_drain
from kvnode.errors import CannotStart, DamagedBlock
from kvnode.eventring import EventRing
from kvnode.health import check
from kvnode.layoutmetrics import LayoutCollector
from kvnode.layoutviews import layout, layout_deeds
from kvnode.leaving import Leaving
from kvnode.log import Log, process_log
from kvnode.metrics import (
    EventsCollector,
    HttpMetrics,
    NodeCollector,
    TraceCollector,
)
from kvnode.node import Node
from kvnode.notedcalls import noting
from kvnode.otlp import exporting
from kvnode.regionviews import deeds, regions
from kvnode.ringviews import members, owners, ring
from kvnode.services.asking import Asker
from kvnode.status import conflicts, hints, lifecycle, quarantine, status
from kvnode.storage.database import is_damage, text_of
from kvnode.storage.disk import DiskGuard
from kvnode.storage.identity import Identity
from kvnode.storage.leveldb import LevelDBEngine
from kvnode.storage.recovery import has_put_aside, mark_damaged, replace_if_damaged
from kvnode.system import SystemClock, SystemEntropy, tune_garbage_collector
from kvnode.traceviews import ASK_WITHIN_S, TraceViews

DRAIN_S = 5.0


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m kvnode", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="serve a database")
    run.add_argument("--cluster-file", type=Path, required=True)
    run.add_argument("--node", required=True, help="the node's id in the cluster file")
    run.add_argument("--directory", type=Path, required=True, help="its database")
    run.add_argument("--secret-file", type=Path, required=True)
    return parser.parse_args(argv)


def _open_engine(
    directory: Path, identity: Identity, storage: StorageSettings, disk: DiskGuard, log: Log
) -> LevelDBEngine:
    """The node's database, or an empty one in its place if it is damaged. Raises CannotStart."""

    def failed(error: BaseException) -> None:
        # What is durable is not known any more; only a fresh start can find out.
        try:
            if is_damage(error):
                _start_anew(directory, text_of(error), log)
        except OSError as reason:
            log.error("database.unmarked", detail=f"the next start must notice by itself: {reason}")
        finally:
            detail = f"a write failed, this node ends: {text_of(error)}"
            log.error("engine.failed", detail=detail)
            os._exit(1)

    def make_room() -> None:
        log.warning("disk.filled", detail="the ballast is released, the database opened again")
        disk.release()

    replaced = replace_if_damaged(directory, identity, SystemClock().wall_ms())
    if replaced is not None:
        detail = (
            f"the database was damaged and is in {directory / replaced.aside} now; this node "
            "starts with an empty one and gets its documents from its peers; remove the old one "
            "when all nodes are well"
        )
        log.error("database.replaced", reason=replaced.reason, detail=detail)
    loop = asyncio.get_running_loop()
    return LevelDBEngine(directory, loop, fsync=storage.fsync, failed=failed, make_room=make_room)


def _start_anew(directory: Path, reason: str, log: Log) -> None:
    """Mark the database as damaged, and run this process's command again, which puts it aside.

    Returns if that was done before: whether the disk can be trusted is for a human to say.
    """
    before = has_put_aside(directory)
    mark_damaged(directory, reason)
    if not before:
        log.error("database.damaged", detail=f"this node starts anew: {reason}")
        os.execv(sys.executable, sys.orig_argv)  # noqa: S606 (the command that is running)


async def _start(node: Node, directory: Path, log: Log) -> None:
    try:
        await node.start()
    except DamagedBlock as error:
        _start_anew(directory, str(error), log)
        msg = f"{error}, though a damaged database was put aside before: is the disk sound?"
        raise CannotStart(msg) from error


def _operations(
    node: Node, registry: CollectorRegistry, metrics: HttpMetrics, events: EventRing
) -> Operations:
    """What operators are offered."""
    traces = TraceViews(
        node.tracer, Asker(node.transport, node.clock, ASK_WITHIN_S), node.all_peers
    )
    return Operations(
        registry=registry,
        checks=partial(check, node),
        views={
            "status": partial(status, node),
            "ring": partial(ring, node),
            "members": partial(members, node),
            "regions": partial(regions, node),
            "hints": partial(hints, node),
            "lifecycle": partial(lifecycle, node),
            "quarantine": partial(quarantine, node),
            "conflicts": partial(conflicts, node),
            "layout": partial(layout, node),
        },
        document_views={"owners": partial(owners, node)},
        actions={
            "repair": node.background.antientropy.repair_now,
            "trust": partial(node.background.rebuild.trust, node.jobs),
        },
        deeds=deeds(node),
        undertakings={
            "drain": partial(drain, node),
            "leave": node.changing.leave,
            "replace": node.changing.replace,
        },
        layout=layout_deeds(node),
        returns={"drain": partial(end_drain, node)},
        jobs=node.jobs,
        events=events,
        traces=traces,
        console=Console(
            node.settings,
            node.own,
            node.rings,
            node.clock,
            glance=lambda after: glance(node, metrics.traffic(), events, after),
            owners=partial(owners, node),
            traces=traces.listed,
        ),
    )


async def _run(arguments: argparse.Namespace, log: Log, events: EventRing) -> None:
    settings = read_cluster_file(arguments.cluster_file)
    own = node_named(settings, arguments.node)
    directory, storage = arguments.directory, settings.storage
    identity = Identity(settings.cluster_id, own.id, settings.replication.partitions)
    disk = DiskGuard(
        directory, ballast_bytes=storage.ballast_bytes, low_bytes=storage.disk_low_bytes
    )
    engine = _open_engine(directory, identity, storage, disk, log)
    clock, entropy = SystemClock(), SystemEntropy()
    secret = read_secret(arguments.secret_file)
    node = Node(
        settings,
        own,
        rings_of(settings),
        secret,
        engine=engine,
        disk=disk,
        clock=clock,
        entropy=entropy,
        log=log,
    )
    registry = CollectorRegistry()
    metrics = HttpMetrics(registry)
    try:
        async with exporting(node.tracer, settings.trace, log) as exporter:
            await _start(node, directory, log)
            registry.register(NodeCollector(node))
            registry.register(LayoutCollector(node))
            registry.register(EventsCollector(events))
            calls = Calls(node.coordinator.copies)
            registry.register(CallsCollector(calls))
            registry.register(PeersCollector(node.transport))
            metered = partial(MeteredStore, clock=clock, counts=calls)
            registry.register(TraceCollector(node.tracer, exporter))
            data = await serve_documents(
                metered(node.coordinator),
                lambda span: metered(noting(node.coordinator, span, node.tracer.hops)),
                settings,
                host=own.host,
                port=own.http_port,
                region=own.region,
                secret=secret,
                tracer=node.tracer,
                metrics=metrics,
                clock=clock,
                entropy=entropy,
                log=log,
            )
            admin = await start_admin_listener(
                own.host, own.ops_port, _operations(node, registry, metrics, events)
            )
            draining = node.background.draining
            draining.requests = lambda: (int(metrics.traffic().requests), data.in_flight)
            leaving = Leaving(settings.edge.drain_s, drain=draining.leave, stop=node.request_stop)
            leaving.heed_signals(asyncio.get_running_loop())
            tune_garbage_collector()
            await node.run()
            await data.stop(DRAIN_S)
            await admin.cleanup()
    finally:
        await node.stop()


def main() -> int:
    """Run until told to stop; the exit code is 0, or 1 with a last line that says why."""
    arguments = _arguments(sys.argv[1:])
    events = EventRing(SystemEntropy().random_bytes(4).hex())
    log = process_log(events.append, node=arguments.node)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run(arguments, log, events))
    except (CannotStart, TopologyError) as error:
        log.error("node.refused", detail=str(error))
        return 1
    except OSError as error:
        log.error("node.refused", detail=f"cannot listen: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
