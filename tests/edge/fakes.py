"""Nodes that do as they are told: listeners that look like a node's, and no store behind them."""

import json
import socket
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final, Literal

import msgspec

from cluster.edge import KEY_HEADER, READY_PATH
from cluster.settings import ClusterSettings, EdgeSettings, HttpSettings, NodeSettings
from scripts.local_cluster import claim_edge_ports, edge_ports

#: What becomes of a request. serves: success, with the node's name. refuses: 503. breaks: it is
#: read and the connection closed. hangs: it is read and nothing is said.
Behaviour = Literal["serves", "refuses", "breaks", "hangs"]
#: Longer than any balancer waits.
_HANGS_S: Final = 20.0


class _Server(ThreadingHTTPServer):
    request_queue_size = 256
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Balancers break connections as well, and that is no fault of a test."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class FakeNode:
    """A node that counts what it is sent."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.region = name[0]
        self.ready = True
        self.behaviour: Behaviour = "serves"
        #: By method, and whether there was a key.
        self.received: Counter[tuple[str, bool]] = Counter()
        self.released = threading.Event()
        #: All that were ever made.
        self.connections: list[socket.socket] = []
        self._servers = [_Server(("127.0.0.1", 0), _handler(self)) for _ in ("data", "operations")]

    @property
    def settings(self) -> NodeSettings:
        """Where it listens."""
        http_port, ops_port = (server.server_address[1] for server in self._servers)
        return NodeSettings(
            id=self.name,
            region=self.region,
            zone="z1",
            http_port=http_port,
            rpc_port=1,
            ops_port=ops_port,
        )

    def vanish(self) -> None:
        """As a killed process does: nothing listens, and every connection is closed."""
        self.behaviour = "breaks"
        for server in self._servers:
            server.socket.close()
        for connection in self.connections:
            with suppress(OSError):  # it is closed already
                connection.shutdown(socket.SHUT_RDWR)

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Both listeners, each in a thread of its own."""
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield
        finally:
            self.released.set()
            for server in self._servers:
                server.shutdown()
                server.server_close()


def _handler(node: FakeNode) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            node.connections.append(self.connection)

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.path == READY_PATH:
                self.say(200 if node.ready else 503)
                return
            node.received[self.command, KEY_HEADER in self.headers] += 1
            if node.behaviour == "hangs":
                node.released.wait(_HANGS_S)
            if node.behaviour in {"hangs", "breaks"}:
                self.close_connection = True
            else:
                made = 201 if self.command == "POST" else 200
                self.say(made if node.behaviour == "serves" else 503)

        def say(self, status: int) -> None:
            body = json.dumps({"node": node.name}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Location", "/documents/x")
            with suppress(ConnectionError):  # whoever asked may have lost its patience
                self.end_headers()
                self.wfile.write(body)

        do_GET = do_POST = do_DELETE = answer  # noqa: N815 (names of the standard library)

        def log_message(self, *args: object) -> None:
            """Nobody reads it."""

    return Handler


@contextmanager
def fake_cluster(*names: str) -> Iterator[tuple[ClusterSettings, dict[str, FakeNode]]]:
    """Nodes by name, whose first letter is their region, and the settings of an edge for them."""
    nodes = {name: FakeNode(name) for name in names}
    port, claim = claim_edge_ports()
    with ExitStack() as stack:
        stack.callback(claim.close)
        for node in nodes.values():
            stack.enter_context(node.serving())
        settings = ClusterSettings(
            cluster_id="0" * 32,
            edge=msgspec.convert(edge_ports(port), EdgeSettings),
            http=HttpSettings(request_timeout_ms=500),
            node=tuple(node.settings for node in nodes.values()),
        )
        yield settings, nodes
