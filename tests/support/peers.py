"""Both sides of the RPC on loopback: transports, and a raw socket that says what it is told."""

import asyncio
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cluster.ids import NodeId
from cluster.layout import Version
from kvnode.rpc.connection import Connection, Lost, Outcome
from kvnode.rpc.frames import FRAME_BYTES_MAX, FrameDecoder, Message, encode_frame
from kvnode.rpc.handshake import NONCE_BYTES, Handshake
from kvnode.rpc.operations import Op
from kvnode.rpc.transport import Transport
from kvnode.system import SystemClock, SystemEntropy

HOST = "127.0.0.1"
SECRET = b"s" * 32
CLUSTER = "0" * 32
LAYOUTS: Sequence[Version] = [("a", 1, b"digest")]
#: Longest wait for what should come at once; only a failing test ever waits as long.
PATIENCE_S = 20.0

_nonces = itertools.count(1)


class Peer:
    """A transport, and all that it told its owner."""

    def __init__(
        self,
        name: str,
        addresses: Mapping[NodeId, tuple[str, int]] | None = None,
        *,
        secret: bytes = SECRET,
        layouts: Sequence[Version] = LAYOUTS,
    ) -> None:
        self.name = NodeId(name)
        self.requests: list[tuple[Connection, str, Message]] = []
        #: (peer, connected, reason).
        self.changes: list[tuple[str, bool, str]] = []
        #: What to do with a request; without it, requests wait for the test.
        self.answer: Callable[[Connection, Message], None] | None = None
        self.layouts = layouts
        self._changed = asyncio.Event()
        self.transport = Transport(
            name=name,
            cluster_id=CLUSTER,
            secret=secret,
            layouts=lambda: self.layouts,
            addresses=addresses or {NodeId(f"a{number}"): (HOST, 1) for number in range(1, 6)},
            clock=SystemClock(),
            entropy=SystemEntropy(),
            on_request=self._on_request,
            on_peer_change=self._on_peer_change,
        )

    async def listen(self, port: int = 0) -> tuple[str, int]:
        """Accept; the address."""
        await self.transport.listen(HOST, port)
        assert self.transport._server is not None
        return HOST, self.transport._server.sockets[0].getsockname()[1]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that a request or a peer's coming or going makes true."""
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    def connection(self, peer: str) -> Connection:
        """The one in use."""
        return self.transport._peers[NodeId(peer)]

    def ask(self, peer: str, *fields: object, timeout_s: float = PATIENCE_S) -> "Asked":
        """Send a request."""
        asked = Asked()
        deadline_s = asyncio.get_running_loop().time() + timeout_s
        size_bytes = sum(len(field) for field in fields if isinstance(field, bytes))
        self.transport.request(
            NodeId(peer), Op.MERGE, deadline_s, list(fields), size_bytes, asked.settle
        )
        return asked

    def _on_request(self, connection: Connection, peer: str, message: Message) -> None:
        self.requests.append((connection, peer, message))
        self._changed.set()
        if self.answer is not None:
            self.answer(connection, message)

    def _on_peer_change(self, peer: NodeId, connected: bool, reason: str) -> None:
        self.changes.append((peer, connected, reason))
        self._changed.set()


class Asked:
    """A request and all its outcomes, of which there must be one."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self._settled = asyncio.Event()

    def settle(self, outcome: Outcome) -> None:
        """See ``OnOutcome``."""
        self.outcomes.append(outcome)
        self._settled.set()

    async def outcome(self) -> Outcome:
        """The one outcome."""
        async with asyncio.timeout(PATIENCE_S):
            await self._settled.wait()
        assert len(self.outcomes) == 1
        return self.outcomes[0]

    async def lost(self) -> tuple[str, bool]:
        """(code, sent) of a request that must get no answer."""
        outcome = await self.outcome()
        assert isinstance(outcome, Lost), f"answered: {outcome}"
        return outcome.code, outcome.sent


def echo(connection: Connection, message: Message) -> None:
    """Answer with the fields that came."""
    size_bytes = sum(len(field) for field in message[3:] if isinstance(field, bytes))
    connection.reply(message[1], message[3:], size_bytes)


async def pair(smaller: str = "a1", larger: str = "a2") -> tuple[Peer, Peer]:
    """Two connected peers: the dialler, and the one that it dialled, which echoes."""
    acceptor = Peer(larger)
    acceptor.answer = echo
    address = await acceptor.listen()
    dialler = Peer(smaller, {acceptor.name: address})
    dialler.transport.dial_all()
    await dialler.until(lambda: dialler.transport.connected(acceptor.name))
    await acceptor.until(lambda: acceptor.transport.connected(dialler.name))
    return dialler, acceptor


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait for something that announces itself to nobody."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


class RawPeer:
    """A socket to a peer's listener, and the messages that came back."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._decoder = FrameDecoder(FRAME_BYTES_MAX)
        self._waiting: list[Message] = []
        #: Of frames that came, messages in each.
        self.frame_sizes: list[int] = []

    @classmethod
    async def connect(cls, address: tuple[str, int]) -> "RawPeer":
        """Connect, and say nothing."""
        return cls(*await asyncio.open_connection(*address))

    async def introduce(self, name: str, *, then: bytes = b"") -> None:
        """Prove to be ``name``, with ``then`` right behind the proof."""
        handshake = handshake_of(name, dialer=True)
        self.send([Op.HELLO, *handshake.hello()])
        hello = await self.message()
        assert hello is not None
        self.send_raw(encode_frame([[Op.PROOF, handshake.receive_hello(hello)]]) + then)
        proof = await self.message()
        assert proof is not None
        handshake.receive_proof(proof)

    def send_raw(self, sent: bytes) -> None:
        """Any bytes."""
        self._writer.write(sent)

    def send(self, *messages: Message) -> None:
        """One frame."""
        self.send_raw(encode_frame(list(messages)))

    async def message(self) -> Message | None:
        """The next message; None when the other side has closed."""
        async with asyncio.timeout(PATIENCE_S):
            while not self._waiting:
                batch = self._decoder.next_frame()
                if batch is not None:
                    self.frame_sizes.append(len(batch))
                    self._waiting += batch
                    continue
                try:
                    received = await self._reader.read(65536)
                except ConnectionResetError:
                    return None
                if not received:
                    return None
                self._decoder.feed(received)
        return self._waiting.pop(0)

    async def rest(self) -> list[Message]:
        """Every message up to the other side's end."""
        messages = []
        while (message := await self.message()) is not None:
            messages.append(message)
        return messages

    async def close(self) -> None:
        """End."""
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except ConnectionError:
            return


def handshake_of(name: str, *, dialer: bool, **changed: Any) -> Handshake:
    """One side of a handshake that fits a Peer's, but for what is changed."""
    fields: dict[str, Any] = {"secret": SECRET, "cluster_id": CLUSTER, "layouts": LAYOUTS} | changed
    nonce = next(_nonces).to_bytes(NONCE_BYTES, "big")
    return Handshake(name=name, dialer=dialer, nonce=nonce, **fields)
