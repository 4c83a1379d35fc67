"""A disk that is not the one its node left is known by its peers, however often it was started.

The check-in is the production code, over disks that are lost, and answers that are lost.
"""

from functools import partial
from itertools import count
from typing import Any, Final, cast

import structlog
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from cluster.ids import NodeId
from cluster.ring import Ring
from kvnode.boots import BOOT_ID_BYTES, Boot, Boots, boot_from_wire
from kvnode.rpc.connection import Lost
from kvnode.rpc.operations import Op
from kvnode.rpc.transport import Transport
from kvnode.services.checkin import CheckIn
from kvnode.storage.identity import Identity, boot, raise_boot_count
from kvnode.storage.keys import IDENTITY_KEY
from kvnode.storage.memory import MemoryDisk, MemoryEngine
from tests.support.handcranked import HandCrankedLoop
from tests.support.replicas import new_replica
from tests.support.rings import rings_with

NODE: Final = NodeId("a3")
PEERS: Final = (NodeId("a1"), NodeId("a2"))
RING: Final = Ring(1, 1, 3, ((NODE, *PEERS),))
EMPTY: Final = {IDENTITY_KEY: Identity("0" * 32, NODE, 1).encode()}
_WRITE: Final = b"w"
#: Messages of a check-in at which the peer remembers another boot.
_WHOLE: Final = 4

peers = st.sampled_from(PEERS)


def _disk_failed(error: BaseException) -> None:
    raise AssertionError("a disk in memory does not fail") from error


class Disk:
    """A disk, and a handle on it whose commits come when a test says so."""

    def __init__(self, values: dict[bytes, bytes]) -> None:
        self.durable = MemoryDisk()
        self.durable.apply(dict(values))
        self.die()

    def die(self) -> None:
        """Lose what is not durable."""
        self.loop = HandCrankedLoop()
        self.engine = MemoryEngine(self.durable, self.loop.as_loop, failed=_disk_failed)

    def writes(self) -> set[bytes]:
        """What has been written to it."""
        return {key for key in self.durable.values if key.startswith(_WRITE)}


class DisksThatAreLost(RuleBasedStateMachine):
    """One node of three. Its disk is wiped, copied and put back; it dies again and again.

    Beside it stands which writes its disk had in the boot that each peer confirmed last: an
    unfenced node that a peer confirms must still have those.
    """

    def __init__(self) -> None:
        super().__init__()
        self.numbers = count(1)
        self.peers = {peer: Disk({}) for peer in PEERS}
        self.seen: dict[NodeId, set[bytes]] = {peer: set() for peer in PEERS}
        self.written: set[bytes] = set()
        self.disk = Disk(EMPTY)
        self.copies = [EMPTY]
        self.start()
        for peer in PEERS:
            self.starts_and_checks_in(0, peer, _WHOLE, True)
        self.is_written_to()

    def start(self) -> None:
        """Whatever ran before has died."""
        self.confirmed: dict[NodeId, None] = {}
        self.disk.die()
        engine, clock = self.disk.engine, self.disk.loop
        boot_id = next(self.numbers).to_bytes(BOOT_ID_BYTES, "big")
        identity = boot(engine, Identity("0" * 32, NODE, 1), boot_id, lambda: None)
        clock.run_all()
        self.replica = new_replica(engine, clock)
        self.replica.restore()
        self.checkin = CheckIn(
            self.replica,
            rings_with({"a": RING.owners}),
            NODE,
            boot=Boot(identity.boot_counter, boot_id),
            raise_boot_count=partial(raise_boot_count, engine, identity, boot_id),
            lease_s=1e9,
            grace_s=0.0,
            transport=cast("Transport", self),
            clock=clock,
            log=structlog.wrap_logger(None, processors=[_say_nothing]),
        )

    @rule(teller=peers)
    def tell_each_other(self, teller: NodeId) -> None:
        """One peer tells the other what it remembers."""
        listener = self.peers[PEERS[1 - PEERS.index(teller)]]
        for node, remembered in Boots(self.peers[teller].engine).told():
            assert node == NODE
            Boots(listener.engine).hear(node, remembered)
        listener.loop.run_all()

    @rule(
        starts=st.integers(0, 2),
        peer=peers,
        messages=st.sampled_from([_WHOLE, *range(_WHOLE)]),
        commits=st.booleans(),
    )
    def starts_and_checks_in(self, starts: int, peer: NodeId, messages: int, commits: bool) -> None:
        """With one peer, as far as the messages get; what the node puts may not be durable yet."""
        for _ in range(starts):
            self.start()
        self.messages_left, self.asked = messages, peer
        self.checkin.peer_connected(peer)
        if commits:
            self.disk.loop.run_all()

    def request(
        self, peer: NodeId, op: Op, _: float, fields: list[Any], __: int, heard: Any
    ) -> None:
        """``Transport``: ask a peer, if the message arrives, and answer, if the answer does."""
        assert op is Op.CHECKIN
        there = self.peers[peer]
        if not self._arrives():
            heard(Lost("timeout", "the request is lost", sent=True))
            return
        remembered = Boots(there.engine).meet(NODE, fields[0], fields[1])
        there.loop.run_all()  # durable before it answers
        if not remembered:
            if not self.replica.fenced[0]:
                missing = self.seen[peer] - self.disk.writes()
                assert not missing, f"{peer} believes a disk that lacks {missing}"
            self.seen[peer] = self.disk.writes()
            self.confirmed[peer] = None
        if self._arrives():
            heard([list(map(list, remembered)), [], []])
        else:
            heard(Lost("timeout", "the answer is lost", sent=True))

    def connected(self, peer: NodeId) -> bool:
        """``Transport``: only the peer that is asked; of the other one nothing is known."""
        return peer == self.asked

    def _arrives(self) -> bool:
        self.messages_left -= 1
        return self.messages_left >= 0

    @precondition(lambda self: self.replica.believes(0))
    @rule()
    def is_written_to(self) -> None:
        """Others have it as well, so it can be rebuilt."""
        key = _WRITE + next(self.numbers).to_bytes(8, "big")
        self.written.add(key)
        for peer in self.confirmed:
            self.seen[peer].add(key)
        self.disk.engine.put(key, b"")
        self.disk.loop.run_all()

    @precondition(lambda self: not self.checkin.joining and self.replica.fenced[0])
    @rule()
    def is_rebuilt(self) -> None:
        """From others, who have everything; then its fence falls."""
        for key in sorted(self.written):
            self.disk.engine.put(key, b"")
        self.replica.set_fenced(0, False)
        self.disk.loop.run_all()

    @rule()
    def is_copied(self) -> None:
        """While it does not run: it starts anew afterwards, and that boot is not in the copy."""
        self.disk.die()
        self.copies.append(dict(self.disk.durable.values))
        self.start()

    @rule(data=st.data())
    def is_replaced(self, data: st.DataObject) -> None:
        """By an old copy, or an empty one."""
        self.disk = Disk(data.draw(st.sampled_from(self.copies)))
        self.start()


def _say_nothing(*_: object) -> Any:
    raise structlog.DropEvent


TestDisksThatAreLost = DisksThatAreLost.TestCase
TestDisksThatAreLost.settings = settings(max_examples=100, stateful_step_count=30)


def test_a_boot_is_confirmed_once_it_is_said_which_one_is_remembered() -> None:
    """Not for a higher number: a wiped disk that starts often enough has one."""
    boots = Boots(Disk({}).engine)
    first, later = Boot(1, b"the 1st."), Boot(9, b"another.")
    assert boots.meet(NODE, first, []) == []
    assert boots.meet(NODE, later, []) == [first]
    assert boots.meet(NODE, later, [Boot(1, b"unknown.")]) == [first]
    assert boots.meet(NODE, first, []) == [], "the same boot may come again"
    assert boots.meet(NODE, later, [first]) == []
    assert boots.meet(NODE, first, []) == [later]


def test_what_was_heard_is_remembered_beside_what_was_met() -> None:
    """It may be of a disk that is an old copy itself, and was believed by one who was away."""
    boots = Boots(Disk({}).engine)
    met, heard, older = Boot(7, b"the 7th."), Boot(8, b"another."), Boot(5, b"the 5th.")
    boots.meet(NODE, met, [])
    boots.hear(NODE, older)
    assert boots.meet(NODE, heard, []) == [met]
    boots.hear(NODE, heard)
    assert boots.meet(NODE, heard, []) == [met]
    assert boots.meet(NODE, Boot(9, b"the 9th."), []) == [met, heard]


@given(st.integers(0, (1 << 64) - 1), st.binary(min_size=BOOT_ID_BYTES, max_size=BOOT_ID_BYTES))
def test_a_boot_comes_back_as_it_went(number: int, boot_id: bytes) -> None:
    """Every one that a disk can hold."""
    assert boot_from_wire([number, boot_id]) == Boot(number, boot_id)


_parts = st.none() | st.integers() | st.binary(max_size=BOOT_ID_BYTES + 1) | st.text(max_size=3)


@given(_parts | st.lists(_parts, max_size=3))
def test_what_is_no_boot_is_refused(field: object) -> None:
    """By the errors that end a connection, before it reaches the disk."""
    try:
        found = boot_from_wire(field)
    except (TypeError, ValueError):
        return
    assert isinstance(field, list)
    assert tuple(field) == found
    assert 0 <= found.number < 1 << 64
    assert len(found.boot_id) == BOOT_ID_BYTES
