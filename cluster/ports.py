"""Whether the ports that nodes are about to use are free, asked before anything is started."""

import errno
import socket
from collections.abc import Iterable

from cluster.settings import NodeSettings


def busy_port(nodes: Iterable[NodeSettings]) -> str | None:
    """What keeps a node from listening on the first port that is not free; None if all are."""
    for node in nodes:
        listeners = ("HTTP", node.http_port), ("RPC", node.rpc_port), ("operations", node.ops_port)
        for listener, port in listeners:
            error = _try_to_bind(node.host, port)
            if error is None:
                continue
            where = f"port {port} ({listener} of node {node.id})"
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
