"""Connections to all peers: dialled, accepted, kept, and found by name.

Rules
-----
1. One connection per pair of nodes. The node with the smaller id dials, and dials again after
   a backoff for as long as it runs; a client dials every node and is never dialled.
2. A newer connection of a peer replaces the older one: the older is a ghost of a restart.
3. Requests to a peer that is not connected fail at once, as values.
4. A peer that this node must not talk with (``may_talk``) is linked, and not connected: it is told
   what it must know for that to change (``tell``), and all else it asks is refused. When that
   changes for the worse, the connection ends: nothing that was under way on it arrives.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

from cluster.ids import NodeId
from cluster.layout import Version
from kvnode.ports import Clock, Entropy
from kvnode.rpc.connection import Answered, Connection, Lost, OnOutcome, Outcome
from kvnode.rpc.frames import Message
from kvnode.rpc.handshake import NONCE_BYTES, Handshake
from kvnode.rpc.operations import Fields, Op

DIAL_TIMEOUT_S: Final = 2.0
DIAL_BACKOFF_MIN_S: Final = 0.05
DIAL_BACKOFF_MAX_S: Final = 2.0
#: What a document service's name starts with; a node's id can't.
CLIENT_PREFIX: Final = "client/"

#: Takes a request and answers it through the connection.
OnRequest = Callable[[Connection, str, Message], None]
OnPeerChange = Callable[[NodeId, bool, str], None]
#: Requests that pass whatever ``may_talk`` says: they are what it waits for.
_ALWAYS: Final = (Op.STANDING, Op.LAYOUT)


class Transport:
    """This process's side of all its connections.

    Args:
        name: This node's id, or ``client/...``.
        layouts: Those in use, for each new connection.
        addresses: (host, RPC port) of every node that may be talked to, itself included or not.
        on_request: Called for each request; a request with bad fields must raise ValueError.
        on_peer_change: Called with (peer, connected, reason).
        on_linked: Called with each new connection's peer, and the layouts that it knows, before
            anything else is sent to it.
        may_talk: Rule 4.
    """

    def __init__(
        self,
        *,
        name: str,
        cluster_id: str,
        secret: bytes,
        layouts: Callable[[], Sequence[Version]],
        addresses: Mapping[NodeId, tuple[str, int]],
        clock: Clock,
        entropy: Entropy,
        on_request: OnRequest,
        on_peer_change: OnPeerChange,
        on_linked: Callable[[NodeId, list[Version]], None] = lambda *_: None,
        may_talk: Callable[[NodeId], bool] = lambda _: True,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._name = name
        self._cluster_id = cluster_id
        self._secret = secret
        self._layouts = layouts
        self._addresses = {node: at for node, at in addresses.items() if node != name}
        self._clock = clock
        self._entropy = entropy
        self._on_request = on_request
        self._on_peer_change = on_peer_change
        self._on_linked = on_linked
        self._may_talk = may_talk
        #: The newest connection of each peer, and those that requests go to.
        self._links: dict[NodeId, Connection] = {}
        self._peers: dict[NodeId, Connection] = {}
        #: Established connections with their peer's name, clients' included.
        self._names: dict[Connection, str] = {}
        #: Every connection that is not closed yet, in order of arrival.
        self._connections: dict[Connection, asyncio.Event] = {}
        self._dialers: dict[NodeId, asyncio.Task[None]] = {}
        self._dialling = False
        self._server: asyncio.Server | None = None
        #: Of all connections that there were with a peer.
        self.answered: dict[NodeId, dict[Op, Answered]] = {node: {} for node in self._addresses}
        #: Connections ended because the other side broke the protocol.
        self.protocol_errors = 0

    async def listen(self, host: str, port: int) -> None:
        """Accept connections of peers with larger ids and of clients."""
        self._server = await self._loop.create_server(
            lambda: self._new_connection(dialer=False), host, port
        )

    def dial_all(self) -> None:
        """Start to keep a connection to each peer that is this side's to dial."""
        self._dialling = True
        for node in self._addresses:
            self._dial(node)

    def meet(self, addresses: Mapping[NodeId, tuple[str, int]], *, corrected: bool = False) -> None:
        """There are new nodes. None is ever forgotten: who has left may have to be told so.

        Args:
            corrected: Where a known one is looked for was wrong.
        """
        for node, address in addresses.items():
            if corrected and node in self._addresses:
                self._addresses[node] = address
            if node != self._name and node not in self._addresses:
                self._addresses[node] = address
                self.answered[node] = {}
                if self._dialling:
                    self._dial(node)

    def _dial(self, node: NodeId) -> None:
        if self._name.startswith(CLIENT_PREFIX) or self._name < node:
            task = self._loop.create_task(self._keep_dialled(node), name=f"dial {node}")
            self._dialers[node] = task

    def connected(self, node: NodeId) -> bool:
        """Whether requests to ``node`` can be sent now."""
        return node in self._peers

    def request(
        self,
        node: NodeId,
        op: Op,
        deadline_s: float,
        fields: Fields,
        size_bytes: int,
        on_outcome: OnOutcome,
    ) -> None:
        """See ``Connection.request``; a peer that is not connected gives an outcome as well."""
        connection = self._peers.get(node)
        if connection is None:
            lost = Lost("unreachable", f"{node} is not connected", sent=False)
            self._loop.call_soon(on_outcome, lost)
        else:
            connection.request(op, deadline_s, fields, size_bytes, on_outcome)

    def tell(
        self, op: Op, fields: Fields, deadline_s: float, *, only: NodeId | None = None
    ) -> None:
        """Send a request to all that are linked, or to one.

        What else this node says must come after it: a connection on which it fails is closed.
        """
        for node, link in list(self._links.items()):
            if only in (None, node):
                link.request(op, deadline_s, fields, 64, partial(_close_untold, link))

    def review(self) -> None:
        """Ask anew with whom this node may talk; see rule 4."""
        for node, link in list(self._links.items()):
            connected = self._peers.get(node) is link
            if connected == self._may_talk(node):
                continue
            if connected:
                del self._peers[node], self._links[node]
                link.close("this node must not talk with its peer now")
                self._on_peer_change(node, False, "an operator's word about a region")
            else:
                self._connect(node, link)

    async def close(self) -> None:
        """Stop accepting and dialling, close every connection."""
        if self._server is not None:
            self._server.close()
        for task in self._dialers.values():
            task.cancel()
        await asyncio.gather(*self._dialers.values(), return_exceptions=True)
        waiting = list(self._connections.items())
        for connection, _ in waiting:
            connection.close("this side stops")
        for _, gone in waiting:
            await gone.wait()

    # Listener, see kvnode.rpc.connection

    def established(self, connection: Connection, peer: str) -> None:
        """Route requests for ``peer`` here from now on."""
        self._names[connection] = peer
        if peer.startswith(CLIENT_PREFIX):
            return
        node = NodeId(peer)
        if node not in self._addresses:
            connection.close(f"{peer} is no node that is known here")
            return
        connection.answered = self.answered[node]
        older = self._links.get(node)
        self._links[node] = connection
        if older is not None:
            older.close("replaced by a newer connection")
        self._on_linked(node, connection.peer_layouts)
        if self._may_talk(node):
            self._connect(node, connection)
        elif self._peers.pop(node, None) is not None:
            self._on_peer_change(node, False, "replaced by a newer connection")

    def request_received(self, connection: Connection, message: Message) -> None:
        """Hand a request on; one that has bad fields ends its connection."""
        peer = self._names[connection]
        talks = peer.startswith(CLIENT_PREFIX) or self._peers.get(NodeId(peer)) is connection
        if talks or message[0] in _ALWAYS:
            self._on_request(connection, peer, message)
        else:
            request_id = message[1] if len(message) > 1 else 0
            connection.fail(request_id, "parted", f"{self._name} does not talk with {peer} now")

    def closed(self, connection: Connection, reason: str) -> None:
        """Forget the connection; its dialer, if it is ours, dials again."""
        gone = self._connections.pop(connection, None)
        if gone is not None:
            gone.set()
        if reason.startswith("protocol error"):
            self.protocol_errors += 1
        peer = self._names.pop(connection, None)
        if peer is not None and self._links.get(NodeId(peer)) is connection:
            del self._links[NodeId(peer)]
        if peer is not None and self._peers.get(NodeId(peer)) is connection:
            del self._peers[NodeId(peer)]
            self._on_peer_change(NodeId(peer), False, reason)

    # inside

    def _connect(self, node: NodeId, link: Connection) -> None:
        self._peers[node] = link
        self._on_peer_change(node, True, "connected")

    def _new_connection(self, *, dialer: bool) -> Connection:
        handshake = Handshake(
            secret=self._secret,
            cluster_id=self._cluster_id,
            name=self._name,
            layouts=self._layouts(),
            dialer=dialer,
            nonce=self._entropy.random_bytes(NONCE_BYTES),
        )
        connection = Connection(self._loop, self._clock, handshake, self)
        self._connections[connection] = asyncio.Event()
        return connection

    async def _keep_dialled(self, node: NodeId) -> None:
        backoff_s = DIAL_BACKOFF_MIN_S
        while True:
            host, port = self._addresses[node]
            connection = self._new_connection(dialer=True)
            gone = self._connections[connection]
            dialled_s = self._clock.monotonic_s()
            try:
                async with asyncio.timeout(DIAL_TIMEOUT_S):
                    await self._loop.create_connection(lambda c=connection: c, host, port)  # type: ignore[misc]
            except (OSError, TimeoutError):
                self._connections.pop(connection, None)
            except asyncio.CancelledError:
                self._connections.pop(connection, None)  # else ``close`` would wait for it for ever
                raise
            else:
                await gone.wait()
                if self._clock.monotonic_s() - dialled_s > DIAL_BACKOFF_MAX_S:
                    backoff_s = DIAL_BACKOFF_MIN_S  # it had worked: a restart is noticed at once
            # Jitter keeps nodes that lost the same peer from dialling it in step.
            await asyncio.sleep(self._entropy.uniform(backoff_s / 2, backoff_s))
            backoff_s = min(DIAL_BACKOFF_MAX_S, backoff_s * 2)


def _close_untold(link: Connection, outcome: Outcome) -> None:
    if isinstance(outcome, Lost):
        link.close(f"its peer could not be told: {outcome.code}")
