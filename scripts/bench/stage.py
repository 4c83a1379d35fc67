"""The servers that are measured: a local cluster on an empty directory, and the yardstick.

Rules
-----
1. The cluster is started as a user starts it, by the ``stele`` command, with default settings:
   three copies, every write fsynced before it is acknowledged.
2. The yardstick answers with bytes that this cluster answered, so both send the same.
3. Whatever ends a run ends everything that it started.
"""

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import aiohttp

from cluster import processes
from cluster.interrupts import Interrupts
from cluster.ports import busy_port, of_nodes
from cluster.report import data_url
from cluster.topology import plan_cluster
from cluster.vardir import VarDirectory
from scripts.bench.cpu import CpuMeter
from scripts.bench.drive import Endpoint
from scripts.bulk import BATCH_OPERATIONS, BulkClient, Operation, post_with

NODES: Final = 3
#: Below the ports that the kernel gives to clients' connections.
_PORT_BASES: Final = range(20_000, 30_000, 10)
_POLL_S: Final = 0.05
_PATIENCE_S: Final = 30.0


class StageError(Exception):
    """The servers could not be started, filled or stopped. One whole sentence."""


class Servers(NamedTuple):
    """What load is applied to."""

    #: One for each load generator.
    endpoints: list[Endpoint]
    cpu: CpuMeter


class Cluster(NamedTuple):
    """A running local cluster."""

    servers: Servers
    urls: list[str]
    copies: int


@contextmanager
def local_cluster(scratch: Path, interrupts: Interrupts) -> Iterator[Cluster]:
    """A new cluster in ``scratch``, until the block is left. Raises StageError, Interrupted."""
    var = VarDirectory(scratch / "var")
    config = scratch / "config.toml"
    config.write_text("[edge]\nport = 0\n", encoding="utf-8")  # nodes are measured by themselves
    size = ["--nodes", str(NODES), "--regions", "1", "--port-base", str(_free_port_base())]
    try:
        _stele(["up", *size, "--config", str(config)], var, interrupts)
        settings = var.settings()
        nodes = [_running(var, node.id) for node in settings.node]
        yield Cluster(
            Servers(
                [Endpoint(node.host, node.http_port) for node in settings.node],
                CpuMeter([node.pid for node in nodes]),
            ),
            [data_url(node) for node in settings.node],
            settings.replication.copies,
        )
    finally:
        if var.with_pid_file():
            _stele(["down"], var, None)


@contextmanager
def yardstick(scratch: Path, document: bytes, created: bytes) -> Iterator[Servers]:
    """The bare handler, until the block is left."""
    files = scratch / "document.json", scratch / "created.json"
    for file, body in zip(files, (document, created), strict=True):
        file.write_bytes(body)
    command = [sys.executable, "-m", "scripts.bench.yardstick", *map(str, files)]
    # In a session of its own: Ctrl-C is for the run, which ends this process when it is done.
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            port = process.stdout.readline()
            if not port:
                raise StageError("the bare handler did not start; what it said is above.")
            endpoint = Endpoint("127.0.0.1", int(port))
            yield Servers([endpoint] * NODES, CpuMeter([process.pid]))
        finally:
            process.kill()


def load_documents(
    urls: Sequence[str],
    contents: Sequence[str],
    interrupts: Interrupts | None,
    advance: Callable[[int], None],
) -> list[str]:
    """Create them all and return their ids in order. Raises StageError, BulkError, Interrupted."""

    async def load() -> list[str]:
        ids: list[str] = []
        async with aiohttp.ClientSession() as session:
            client = BulkClient(post_with(session), urls, patience_s=_PATIENCE_S)
            for start in range(0, len(contents), BATCH_OPERATIONS):
                if interrupts:
                    interrupts.check()
                batch = contents[start : start + BATCH_OPERATIONS]
                operations: list[Operation] = [{"op": "create", "content": one} for one in batch]
                for result in await client.run(operations):
                    if result.problem:
                        raise StageError(f"a document was refused: {result.problem.detail}.")
                    ids.append(result.id)
                advance(len(batch))
        return ids

    return asyncio.run(load())


def answers(url: str, document_id: str, content: str) -> tuple[bytes, bytes]:
    """The bodies with which a node answers a read and a create. Raises StageError."""

    async def ask() -> tuple[bytes, bytes]:
        async with aiohttp.ClientSession(url) as session:
            async with session.get(f"/documents/{document_id}") as response:
                document = await response.read()
                if response.status != 200 or (await response.json())["content"] != content:
                    raise StageError(f"document {document_id} did not come back as it was stored.")
            async with session.post("/documents", json={"content": content}) as response:
                if response.status != 201:
                    raise StageError(f"a create was answered {response.status}.")
                return document, await response.read()

    return asyncio.run(ask())


def _stele(words: Sequence[str], var: VarDirectory, interrupts: Interrupts | None) -> None:
    """Run a ``stele`` command to its end; an interrupt is passed on to it first."""
    printed = var.root.with_name("stele.txt")
    command = [sys.executable, "-m", "cluster", *words, "--var", str(var.root)]
    with printed.open("wb") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        while process.poll() is None:
            if interrupts:
                interrupts.check()
            time.sleep(_POLL_S)
    except BaseException:
        process.terminate()  # it stops what it has started
        process.wait()
        raise
    if process.returncode:
        said = processes.last_words(printed, 0) or f"exit code {process.returncode}"
        raise StageError(f"the cluster did not go {words[0]}: {said}")


def _running(var: VarDirectory, node: str) -> processes.NodeProcess:
    found = processes.find_node(var, node)
    if found is None:
        said = processes.last_words(var.log_file(node), 0)
        raise StageError(f"node {node} has ended: {said}")
    return found


def _free_port_base() -> int:
    for base in _PORT_BASES:
        plan = plan_cluster(
            cluster_id="0" * 32, nodes=NODES, regions=1, port_base=base, config=None
        )
        if busy_port(of_nodes(plan.node)) is None:
            return base
    raise StageError(f"no ports are free from {_PORT_BASES.start} on.")
