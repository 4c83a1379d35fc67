"""Connections over real sockets: every request gets one outcome, and strangers get nothing."""

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from random import Random
from typing import Any, cast

import crc32c
import pytest

from cluster.ids import NodeId
from kvnode.client import ClusterClient
from kvnode.codec import encode
from kvnode.log import process_log
from kvnode.record import Create, Record
from kvnode.rpc import connection as connection_module
from kvnode.rpc import transport as transport_module
from kvnode.rpc.connection import FLUSH_BYTES, Connection, Lost
from kvnode.rpc.frames import (
    FRAME_BYTES_MAX,
    HELLO_BYTES_MAX,
    FrameDecoder,
    Message,
    ProtocolError,
    encode_frame,
)
from kvnode.rpc.operations import Op
from kvnode.system import SystemClock, SystemEntropy
from tests.support.handcranked import HandCrankedLoop
from tests.support.peers import (
    CLUSTER,
    LAYOUTS,
    PATIENCE_S,
    SECRET,
    Asked,
    Peer,
    RawPeer,
    echo,
    eventually,
    handshake_of,
    pair,
)
from tests.support.rings import rings_with

A1, A2 = NodeId("a1"), NodeId("a2")


@pytest.fixture(autouse=True)
async def crashes() -> AsyncIterator[list[str]]:
    """What the event loop had to report: always nothing."""
    reported: list[str] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: reported.append(f"{context['message']}: {context.get('exception')!r}")
    )
    yield reported
    assert reported == []


@pytest.fixture
async def connected() -> AsyncIterator[tuple[Peer, Peer]]:
    """a1, which dialled, and a2, which echoes."""
    dialler, acceptor = await pair()
    yield dialler, acceptor
    await dialler.transport.close()
    await acceptor.transport.close()


class Listening:
    """a2, which knows a1 to a5, and the raw sockets that a test opens to it."""

    def __init__(self, peer: Peer, address: tuple[str, int]) -> None:
        self.peer = peer
        self._address = address
        self._sockets: list[RawPeer] = []

    async def connect(self) -> RawPeer:
        """Somebody who says nothing yet."""
        self._sockets.append(await RawPeer.connect(self._address))
        return self._sockets[-1]

    async def introduce(self, name: str, *, then: bytes = b"") -> RawPeer:
        """Somebody who has proved to be ``name``, with ``then`` right behind the proof."""
        raw = await self.connect()
        await raw.introduce(name, then=then)
        return raw

    async def close(self) -> None:
        """End everything."""
        await self.peer.transport.close()
        for raw in self._sockets:
            await raw.close()


@pytest.fixture
async def listening() -> AsyncIterator[Listening]:
    """A listener for raw sockets."""
    peer = Peer("a2")
    listening = Listening(peer, await peer.listen())
    yield listening
    await listening.close()


class Writes:
    """Counts what a connection hands to its socket."""

    def __init__(self, connection: Connection) -> None:
        self.sizes: list[int] = []
        self._transport = connection._transport
        connection._transport = cast("asyncio.Transport", self)

    def write(self, sent: bytes) -> None:
        """Count, and write."""
        self.sizes.append(len(sent))
        assert self._transport is not None
        self._transport.write(sent)

    def __getattr__(self, name: str) -> Any:
        """Everything else is the socket's."""
        return getattr(self._transport, name)


# Requests and answers


async def test_answers_find_their_requests_in_whatever_order_they_come(
    connected: tuple[Peer, Peer],
) -> None:
    """Multiplexed: a slow answer holds up no other."""
    dialler, acceptor = connected
    acceptor.answer = None
    asked = [dialler.ask("a2", number) for number in range(200)]
    await acceptor.until(lambda: len(acceptor.requests) == 200)
    waiting = acceptor.requests[:]
    Random(1).shuffle(waiting)
    for connection, peer, message in waiting:
        assert peer == "a1"
        echo(connection, message)
    assert [await one.outcome() for one in asked] == [[number] for number in range(200)]


async def test_both_sides_may_ask(connected: tuple[Peer, Peer]) -> None:
    """One connection a pair of nodes, whoever dialled it."""
    dialler, acceptor = connected
    dialler.answer = echo
    there, back = dialler.ask("a2", 1), acceptor.ask("a1", 2)
    assert [await there.outcome(), await back.outcome()] == [[1], [2]]


async def test_what_is_sent_in_one_tick_arrives_in_one_frame(
    connected: tuple[Peer, Peer],
) -> None:
    """A write is a system call, and a frame is a CRC: a tick pays for one of each."""
    dialler, acceptor = connected
    requests = Writes(dialler.connection("a2"))
    replies = Writes(acceptor.connection("a1"))
    asked = [dialler.ask("a2", number) for number in range(100)]
    for one in asked:
        await one.outcome()
    assert len(requests.sizes) == 1
    assert len(replies.sizes) == 1


async def test_a_tick_that_sends_very_much_is_cut_into_several_frames(
    connected: tuple[Peer, Peer],
) -> None:
    """No frame may come near its cap."""
    dialler, _ = connected
    writes = Writes(dialler.connection("a2"))
    size_bytes = FLUSH_BYTES // 10
    asked = [dialler.ask("a2", bytes(size_bytes)) for _ in range(40)]
    for one in asked:
        assert await one.outcome() == [bytes(size_bytes)]
    assert 4 <= len(writes.sizes) <= 6
    assert max(writes.sizes) < FRAME_BYTES_MAX / 2


async def test_what_is_left_of_a_deadline_travels_along(connected: tuple[Peer, Peer]) -> None:
    """Deadlines are passed on, never restarted."""
    dialler, acceptor = connected
    await dialler.ask("a2", timeout_s=2.5).outcome()
    await dialler.ask("a2", timeout_s=-1.0).outcome()
    timeouts_ms = [message[2] for _, _, message in acceptor.requests]
    assert 1500 < timeouts_ms[0] <= 2500
    assert timeouts_ms[1] == 0


async def test_a_failure_is_an_answer_with_its_code_and_counts(
    connected: tuple[Peer, Peer],
) -> None:
    """Replica failures are values; and what has answered is known to have been reached."""
    dialler, acceptor = connected
    acceptor.answer = lambda connection, message: connection.fail(
        message[1], "unavailable", "why", 1, 2
    )
    outcome = await dialler.ask("a2").outcome()
    assert isinstance(outcome, Lost)
    assert (outcome.code, outcome.detail, outcome.extra) == ("unavailable", "why", [1, 2])
    assert not outcome.sent


async def test_how_long_answers_took_is_counted_over_all_connections_with_a_peer(
    connected: tuple[Peer, Peer],
) -> None:
    """A counter that began anew with each connection would be none; what is lost took no time."""
    dialler, acceptor = connected
    began_s = SystemClock().monotonic_s()
    await dialler.ask("a2").outcome()
    acceptor.answer = None
    lost = dialler.ask("a2")
    await acceptor.until(lambda: len(acceptor.requests) == 2)
    dialler.connection("a2").close("the first connection ends")
    await lost.lost()
    acceptor.answer = echo
    await dialler.until(lambda: dialler.transport.connected(A2))
    await dialler.ask("a2").outcome()
    (answered,) = dialler.transport.answered[A2].values()
    assert answered.count == 2
    assert 0 < answered.total_s <= 2 * (SystemClock().monotonic_s() - began_s)


# Exactly one outcome


async def test_a_request_to_nobody_is_lost_at_once_but_not_within_the_call() -> None:
    """Callers count what they have asked before they hear of it."""
    peer = Peer("a1")
    asked = peer.ask("a2")
    assert asked.outcomes == []
    assert await asked.lost() == ("unreachable", False)
    await peer.transport.close()


async def test_open_requests_are_lost_as_unreachable_when_the_connection_goes(
    connected: tuple[Peer, Peer],
) -> None:
    """Regression: they were lost as timeouts, which made a dead peer look like a fast one."""
    dialler, acceptor = connected
    acceptor.answer = None
    asked = [dialler.ask("a2", number) for number in range(3)]
    await acceptor.until(lambda: len(acceptor.requests) == 3)
    acceptor.connection("a1").abort("on purpose")
    assert [await one.lost() for one in asked] == [("unreachable", True)] * 3


async def test_a_request_expires_and_its_late_answer_is_dropped(
    connected: tuple[Peer, Peer],
) -> None:
    """The caller was told; a second outcome would count the replica twice."""
    dialler, acceptor = connected
    acceptor.answer = None
    asked = dialler.ask("a2", 1, timeout_s=0.01)
    assert await asked.lost() == ("timeout", True)
    await acceptor.until(lambda: len(acceptor.requests) == 1)
    connection, _, late = acceptor.requests[0]
    acceptor.answer = echo
    echo(connection, late)
    assert await dialler.ask("a2", 2).outcome() == [2]
    assert len(asked.outcomes) == 1


async def test_a_peer_that_does_not_read_makes_requests_fail_at_once(
    connected: tuple[Peer, Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bounded buffer instead of a queue without end; and what was accepted still arrives."""
    monkeypatch.setattr(connection_module, "UNSENT_BYTES_MAX", 100_000)
    dialler, acceptor = connected
    reading = acceptor.connection("a1")._transport
    assert reading is not None
    reading.pause_reading()
    accepted: list[Asked] = []
    async with asyncio.timeout(PATIENCE_S):
        while True:
            asked = dialler.ask("a2", bytes(FLUSH_BYTES))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            if asked.outcomes:
                break
            accepted.append(asked)
    assert await asked.lost() == ("overloaded", False)
    reading.resume_reading()
    for one in accepted:
        assert await one.outcome() == [bytes(FLUSH_BYTES)]


async def test_requests_in_flight_are_bounded_in_number(
    connected: tuple[Peer, Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is memory on both sides."""
    monkeypatch.setattr(connection_module, "OPEN_REQUESTS_MAX", 3)
    dialler, _ = connected
    asked = [dialler.ask("a2", number) for number in range(4)]
    assert await asked[3].lost() == ("overloaded", False)
    assert [await one.outcome() for one in asked[:3]] == [[0], [1], [2]]
    assert await dialler.ask("a2", 4).outcome() == [4]


@pytest.mark.parametrize("seed", range(5))
async def test_whatever_happens_each_request_gets_one_outcome(
    connected: tuple[Peer, Peer], seed: int
) -> None:
    """Answered, failed, ignored, or cut off in the middle of all that."""
    rng = Random(seed)
    dialler, acceptor = connected

    def answer(connection: Connection, message: Message) -> None:
        fate = rng.random()
        if fate < 0.4:
            echo(connection, message)
        elif fate < 0.7:
            connection.fail(message[1], "code", "detail")
        elif fate < 0.72:
            connection.close("in the middle")

    acceptor.answer = answer
    asked = []
    for number in range(200):
        asked.append(dialler.ask("a2", number, timeout_s=rng.choice([0.02, 0.2])))
        if rng.random() < 0.2:
            await asyncio.sleep(0)
    for one in asked:
        await one.outcome()
    await asyncio.sleep(0.06)  # more than a sweep's tick: a second outcome would come by now
    assert [len(one.outcomes) for one in asked] == [1] * 200


async def test_a_call_that_was_given_up_leaves_the_connection_to_the_others() -> None:
    """Regression: the answer to a cancelled call ended the connection, and all that was on it."""
    acceptor = Peer("a1")
    address = await acceptor.listen()
    clock, entropy = SystemClock(), SystemEntropy()
    rings = rings_with({"a": [(A1,)]})
    acceptor.layouts = rings.versions
    client = ClusterClient(
        cluster_id=CLUSTER,
        secret=SECRET,
        rings=rings,
        region="a",
        zones={A1: "z"},
        addresses={A1: address},
        clock=clock,
        entropy=entropy,
        log=process_log(node="test"),
    )
    record = Record(Create(b"x", 1, 0, bytes(32)))

    def read(document_id: bytes) -> "asyncio.Task[Any]":
        deadline_s = clock.monotonic_s() + PATIENCE_S
        call = client.read(document_id, read_quorum=1, sloppy=True, deadline_s=deadline_s)
        return asyncio.get_running_loop().create_task(call)

    await eventually(lambda: client.ready)
    given_up, waiting = read(bytes(16)), read(bytes(15) + b"\x01")
    await acceptor.until(lambda: len(acceptor.requests) == 2)
    given_up.cancel()
    await asyncio.sleep(0)
    for connection, _, message in acceptor.requests:
        connection.reply(message[1], [encode(message[3], record), 1, 1, 1], 100)
    async with asyncio.timeout(PATIENCE_S):
        assert (await waiting).record == record
    assert given_up.cancelled()
    await client.close()
    await acceptor.transport.close()


# Strangers


def _frame(payload: bytes) -> bytes:
    return struct.pack(">II", len(payload), crc32c.crc32c(payload)) + payload


GARBAGE = {
    "http": b"GET /documents HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "tls": bytes.fromhex("16030100c8010000c40303") + bytes(200),
    "random": Random(1).randbytes(500),
    "wrong crc": struct.pack(">II", 1, 0) + b"\x90",
    "not msgpack": _frame(b"\xc1"),
    "not an array": _frame(b"\x05"),
    "array bomb": _frame(b"\xdc\xff\xff" * 300),
    "a request before the handshake": encode_frame([[Op.MERGE, 1, 1000, bytes(16), b"", None]]),
    "an answer before the handshake": encode_frame([[Op.REPLY, 1]]),
    "a proof before the hello": encode_frame([[Op.PROOF, bytes(32)]]),
    "a negative operation": encode_frame([[-1]]),
    "an oversize length": struct.pack(">II", HELLO_BYTES_MAX + 1, 0),
    "the greatest length": b"\xff" * 8,
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
async def test_garbage_from_a_stranger_ends_its_connection_and_is_counted(
    listening: Listening, garbage: bytes
) -> None:
    """It is told why, and nothing else; others are not disturbed."""
    peer = listening.peer
    friend = await listening.introduce("a1")
    stranger = await listening.connect()
    stranger.send_raw(garbage)
    messages = await stranger.rest()
    assert [message[0] for message in messages] == [Op.HELLO, Op.REFUSED]
    assert peer.transport.protocol_errors == 1
    assert peer.requests == []
    friend.send([Op.MERGE, 7, 1000])
    await peer.until(lambda: len(peer.requests) == 1)


AFTER_HANDSHAKE: dict[str, Message] = {
    "a second hello": [Op.HELLO, 1, CLUSTER, "a1", list(map(list, LAYOUTS)), bytes(16)],
    "a second proof": [Op.PROOF, bytes(32)],
    "a negative operation": [-3, 1],
    "an answer without a number": [Op.REPLY],
    "an answer to a list": [Op.REPLY, [1]],
    "a failure without a code": [Op.FAILED, 1],
    "a failure without a detail": [Op.FAILED, 1, "code"],
}


@pytest.mark.parametrize("message", AFTER_HANDSHAKE.values(), ids=AFTER_HANDSHAKE.keys())
async def test_a_broken_message_ends_a_proven_connection_and_leaves_no_request_open(
    listening: Listening, message: Message
) -> None:
    """Regression: half an answer took its request out and then raised, so nobody was told."""
    peer = listening.peer
    friend = await listening.introduce("a1")
    await peer.until(lambda: peer.transport.connected(A1))
    asked = peer.ask("a1")
    request = await friend.message()
    assert request is not None
    assert request[:2] == [Op.MERGE, 1]
    friend.send(message)
    assert [one[0] for one in await friend.rest()] == [Op.REFUSED]
    assert await asked.lost() == ("unreachable", True)
    assert peer.transport.protocol_errors == 1


async def test_a_request_that_its_handler_refuses_ends_the_connection(
    listening: Listening,
) -> None:
    """The sender has a bug, or is no peer: what follows in the frame is not looked at."""
    peer = listening.peer

    def refuse(_: Connection, message: Message) -> None:
        msg = "bad fields"
        raise ProtocolError(msg)

    peer.answer = refuse
    friend = await listening.introduce("a1")
    friend.send([Op.MERGE, 1, 1000], [Op.MERGE, 2, 1000])
    assert await friend.rest() == [[Op.REFUSED, "bad fields"]]
    assert len(peer.requests) == 1


@pytest.mark.parametrize("says_hello", [False, True])
async def test_whoever_does_not_finish_the_handshake_is_cut_off(
    listening: Listening, monkeypatch: pytest.MonkeyPatch, says_hello: bool
) -> None:
    """A port scanner, or somebody who would like to hold all our sockets."""
    monkeypatch.setattr(connection_module, "HANDSHAKE_TIMEOUT_S", 0.05)
    stranger = await listening.connect()
    if says_hello:
        stranger.send([Op.HELLO, *handshake_of("a1", dialer=True).hello()])
    assert [message[0] for message in await stranger.rest()] == [Op.HELLO, Op.PROOF][
        : 1 + says_hello
    ]


async def test_a_wrong_secret_connects_nobody_and_both_sides_are_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The dialler keeps trying, at its backoff: the file may be put right."""
    monkeypatch.setattr(transport_module, "DIAL_BACKOFF_MIN_S", 0.01)
    acceptor = Peer("a2", secret=b"x" * 32)
    dialler = Peer("a1", {A2: await acceptor.listen()})
    dialler.transport.dial_all()
    await eventually(lambda: acceptor.transport.protocol_errors >= 2)
    assert (dialler.changes, acceptor.changes) == ([], [])
    assert not dialler.transport.connected(A2)
    await dialler.transport.close()
    await acceptor.transport.close()


async def test_a_proven_peer_that_no_file_names_is_sent_away_unheard(
    listening: Listening,
) -> None:
    """Regression: requests that came in the same bytes as its proof were still carried out."""
    peer = listening.peer
    request = encode_frame([[Op.MERGE, 1, 1000, bytes(16), b"", None]])
    stranger = await listening.introduce("z9", then=request)
    assert await stranger.rest() == []
    assert peer.requests == []
    assert peer.changes == []


async def test_a_client_is_served_and_is_no_peer(
    listening: Listening,
) -> None:
    """A document service asks; nobody sends it copies, or counts it as up."""
    peer = listening.peer
    peer.answer = echo
    client = await listening.introduce("client/1234")
    client.send([Op.MERGE, 5, 1000, "field"])
    assert await client.message() == [Op.REPLY, 5, "field"]
    assert peer.changes == []


# Coming and going


async def test_a_newer_connection_of_a_peer_replaces_the_older_one(
    listening: Listening,
) -> None:
    """The older is a ghost of a restart: requests on it would wait for nobody."""
    peer = listening.peer
    ghost = await listening.introduce("a1")
    await peer.until(lambda: peer.transport.connected(A1))
    on_ghost = peer.ask("a1")
    restarted = await listening.introduce("a1")
    assert [message[0] for message in await ghost.rest()] == [Op.MERGE]
    assert await on_ghost.lost() == ("unreachable", True)
    asked = peer.ask("a1", "hello")
    request = await restarted.message()
    assert request is not None
    assert request[3:] == ["hello"]
    restarted.send([Op.REPLY, request[1], "back"])
    assert await asked.outcome() == ["back"]
    assert peer.transport.connected(A1), "the ghost's end is not the peer's"


async def test_a_dialler_dials_again_when_its_peer_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On the old address, and without being told."""
    monkeypatch.setattr(transport_module, "DIAL_BACKOFF_MIN_S", 0.01)
    monkeypatch.setattr(transport_module, "DIAL_BACKOFF_MAX_S", 0.02)
    dialler, acceptor = await pair()
    _, port = dialler.transport._addresses[A2]
    await acceptor.transport.close()
    await dialler.until(lambda: not dialler.transport.connected(A2))
    assert await dialler.ask("a2").lost() == ("unreachable", False)
    restarted = Peer("a2")
    restarted.answer = echo
    await restarted.listen(port)
    await dialler.until(lambda: dialler.transport.connected(A2))
    assert await dialler.ask("a2", 1).outcome() == [1]
    assert [connected for _, connected, _ in dialler.changes] == [True, False, True]
    await dialler.transport.close()
    await restarted.transport.close()


async def test_of_two_nodes_the_one_with_the_smaller_id_dials() -> None:
    """Else every pair would have two connections, or none."""
    a3 = Peer("a3")
    a3_address = await a3.listen()
    a2 = Peer("a2", {NodeId("a3"): a3_address, A1: ("127.0.0.1", 1)})
    a2.transport.dial_all()
    assert len(a2.transport._dialers) == 1
    await a2.until(lambda: a2.transport.connected(a3.name))
    await a2.transport.close()
    await a3.transport.close()


async def test_an_idle_side_gives_signs_of_life(
    listening: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Empty frames, so that silence means something."""
    monkeypatch.setattr(connection_module, "HEARTBEAT_S", 0.01)
    friend = await listening.introduce("a1")
    heard = asyncio.get_running_loop().create_task(friend.message())
    await eventually(lambda: friend.frame_sizes[-3:] == [0, 0, 0])
    heard.cancel()
    await asyncio.gather(heard, return_exceptions=True)


async def test_a_side_that_hears_nothing_closes(
    listening: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A blackholed link is noticed without a request on it."""
    monkeypatch.setattr(connection_module, "HEARTBEAT_S", 0.01)
    monkeypatch.setattr(connection_module, "SILENCE_S", 0.05)
    peer = listening.peer
    await listening.introduce("a1")
    await peer.until(lambda: len(peer.changes) == 2)
    assert peer.changes[1] == ("a1", False, "nothing heard for 0.05 s")


async def test_closing_does_not_wait_for_a_dial_that_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Regression: a node next to a blackholed address never ended."""
    dialling = asyncio.Event()

    async def never(*_: object) -> None:
        dialling.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", never)
    peer = Peer("a1", {A2: ("127.0.0.1", 1)})
    peer.transport.dial_all()
    async with asyncio.timeout(PATIENCE_S):
        await dialling.wait()
        await peer.transport.close()


# Without a network


class Wire(asyncio.Transport):
    """A socket that only notes what is done to it."""

    def __init__(self) -> None:
        super().__init__()
        self.frames: list[list[Message]] = []
        self.frame_bytes: list[int] = []
        self.aborted = False

    def write(self, sent: Any) -> None:
        """See ``asyncio.Transport``."""
        decoder = FrameDecoder(FRAME_BYTES_MAX)
        decoder.feed(sent)
        self.frames += iter(decoder.next_frame, None)
        self.frame_bytes.append(len(sent) - 8)

    def abort(self) -> None:
        """See ``asyncio.Transport``."""
        self.aborted = True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """See ``asyncio.Transport``."""

    def get_write_buffer_size(self) -> int:
        """See ``asyncio.Transport``."""
        return 0


class Owner:
    """A listener that calls something when the other side has proved itself."""

    def __init__(self, established: Callable[[Connection], None]) -> None:
        self._established = established
        self.closed_for: list[str] = []

    def established(self, connection: Connection, peer: str) -> None:
        """See ``Listener``."""
        self._established(connection)

    def request_received(self, connection: Connection, message: Message) -> None:
        """See ``Listener``."""
        raise AssertionError("nobody asked")

    def closed(self, connection: Connection, reason: str) -> None:
        """See ``Listener``."""
        self.closed_for.append(reason)


def test_a_proof_travels_alone_even_when_requests_follow_within_the_tick() -> None:
    """Regression: the other side reads frames of 1 KiB until it has checked the proof.

    A busy node finds its peer's hello and proof in one piece, answers the one, trusts the other,
    and at once sends what has been waiting for this peer.
    """
    loop = HandCrankedLoop()
    ours, theirs = handshake_of("a1", dialer=True), handshake_of("a2", dialer=False)

    def send_a_large_request(connection: Connection) -> None:
        connection.request(Op.MERGE, 60.0, [bytes(2048)], 2048, lambda _: None)

    wire = Wire()
    connection = Connection(loop.as_loop, loop, ours, Owner(send_a_large_request))
    connection.connection_made(wire)
    loop.run_until(0.0)
    hello = [int(Op.HELLO), *ours.hello()]
    proof = theirs.receive_hello(hello)
    connection.data_received(
        encode_frame([[Op.HELLO, *theirs.hello()]]) + encode_frame([[Op.PROOF, proof]])
    )
    loop.run_until(0.0)
    assert [[message[0] for message in frame] for frame in wire.frames] == [
        [Op.HELLO],
        [Op.PROOF],
        [Op.MERGE],
    ]
    assert max(wire.frame_bytes[:2]) <= HELLO_BYTES_MAX
    assert theirs.receive_proof(wire.frames[1][0]) == "a1"


def test_a_connection_that_was_given_up_before_it_was_made_is_ended_when_it_is() -> None:
    """Regression: a node that stopped while it accepted a peer waited for that peer to leave."""
    loop = HandCrankedLoop()
    owner = Owner(lambda _: None)
    connection = Connection(loop.as_loop, loop, handshake_of("a1", dialer=False), owner)
    connection.close("this side stops")
    wire = Wire()
    connection.connection_made(wire)
    assert wire.aborted
    connection.connection_lost(None)
    loop.run_all()
    assert owner.closed_for == ["this side stops"]
    assert wire.frames == []
