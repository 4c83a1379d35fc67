"""Whether the ports that processes are about to use are free, asked before any is started."""

import errno
import socket
from collections.abc import Iterable, Iterator

from cluster.edge import EDGE, listeners
from cluster.settings import ClusterSettings, NodeSettings

#: Host, port, and whose it is.
Listening = tuple[str, int, str]


def of_nodes(nodes: Iterable[NodeSettings]) -> Iterator[Listening]:
    """What nodes listen on."""
    for node in nodes:
        yield node.host, node.http_port, f"HTTP of node {node.id}"
        yield node.host, node.rpc_port, f"RPC of node {node.id}"
        yield node.host, node.ops_port, f"operations of node {node.id}"


def of_edge(settings: ClusterSettings) -> Iterator[Listening]:
    """What the edge listens on."""
    for listener in listeners(settings):
        yield settings.edge.host, listener.port, f"HTTP of the {listener.name}"
    yield settings.edge.host, settings.edge.admin_port, f"statistics of the {EDGE}"


def busy_port(listening: Iterable[Listening]) -> str | None:
    """What keeps a process from listening on the first port that is not free; None if all are."""
    for host, port, whose in listening:
        error = _try_to_bind(host, port)
        if error is None:
            continue
        where = f"port {port} ({whose})"
        if error.errno == errno.EADDRINUSE:
            return f"{where} is in use by another process (`ss -ltnp sport = :{port}` names it)"
        return f"{where} cannot be listened on ({error.strerror})"
    return None


def _try_to_bind(host: str, port: int) -> OSError | None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As servers do: a port whose last connections are still in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error
    return None
