"""Batches of merges: every sender is told once how its own record went."""

from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from cluster.ids import NodeId
from cluster.preference import Target
from kvnode.merging import BATCH_BYTES_MAX, PATIENT_PAUSE_S, PAUSE_S, MergeSender
from kvnode.rpc.connection import Lost, OnOutcome
from kvnode.rpc.operations import MERGE_RECORDS_MAX, Op
from kvnode.rpc.transport import Transport
from tests.support.handcranked import HandCrankedLoop

A2, A3, A4 = NodeId("a2"), NodeId("a3"), NodeId("a4")
TARGETS = [Target(A2), Target(A3), Target(A3, hint_for=A2), Target(A3, hint_for=A4)]


class Wire:
    """A transport that keeps what is asked of it."""

    def __init__(self) -> None:
        #: (node, hint_for, [(id, record), ...], deadline_s, on_outcome).
        self.requests: list[tuple[NodeId, str | None, list[Any], float, OnOutcome]] = []
        self.patience: list[bool] = []

    def request(
        self,
        node: NodeId,
        op: Op,
        deadline_s: float,
        fields: list[Any],
        size_bytes: int,
        on_outcome: OnOutcome,
    ) -> None:
        """See ``Transport``."""
        hint_for, patient, _, flat = fields
        assert op is Op.MERGE
        assert size_bytes >= sum(map(len, flat)) / 2
        pairs = list(zip(flat[::2], flat[1::2], strict=True))
        self.patience.append(patient)
        self.requests.append((node, hint_for, pairs, deadline_s, on_outcome))


class Told:
    """A sender, and what it was told."""

    def __init__(self) -> None:
        self.outcomes: list[tuple[Target, bytes | Lost | None]] = []

    def on_sent(self, target: Target, held: bytes | Lost | None) -> None:
        """See ``kvnode.merging.Sender``."""
        self.outcomes.append((target, held))


class Sending:
    """A MergeSender on a hand-cranked loop."""

    def __init__(self) -> None:
        self.loop = HandCrankedLoop()
        self.wire = Wire()
        self.merges = MergeSender(self.loop.as_loop, cast("Transport", self.wire))

    def send(
        self,
        target: Target,
        record: bytes = b"r",
        deadline_s: float = 1.0,
        *,
        patient: bool = True,
    ) -> Told:
        """Send one record, whose bytes are also its id."""
        told = Told()
        self.merges.send(target, record, record, deadline_s, told, patient=patient)
        return told


records = st.binary(max_size=3)


@given(st.lists(st.tuples(st.sampled_from(TARGETS), records, st.floats(0, 9)), max_size=12))
def test_what_goes_to_one_target_in_one_tick_is_one_request_in_order(
    sent: list[tuple[Target, bytes, float]],
) -> None:
    """For itself and as a hint are two: the receiver does different things with them."""
    sending = Sending()
    for target, record, deadline_s in sent:
        sending.send(target, record, deadline_s)
    assert sending.wire.requests == [], "the tick is not over"
    sending.loop.run_all()
    requests = {(node, hint_for): rest for node, hint_for, *rest in sending.wire.requests}
    assert len(requests) == len(sending.wire.requests)
    for target in TARGETS:
        mine = [(record, deadline_s) for one, record, deadline_s in sent if one == target]
        if mine:
            pairs, latest_s, _ = requests.pop((target.node, target.hint_for))
            assert pairs == [(record, record) for record, _ in mine]
            assert latest_s == max(deadline_s for _, deadline_s in mine)
    assert requests == {}


@given(st.lists(st.none() | st.binary(max_size=3) | st.sampled_from(["code"]), min_size=1))
def test_each_sender_is_told_once_how_its_own_record_went(rows: list[bytes | str | None]) -> None:
    """Stored as sent, joined with something that is held, or refused."""
    sending = Sending()
    told = [sending.send(TARGETS[0]) for _ in rows]
    sending.loop.run_all()
    answer = [
        [index, None, row, "why"] if isinstance(row, str) else [index, row, None, None]
        for index, row in enumerate(rows)
        if row is not None
    ]
    (request,) = sending.wire.requests
    request[-1]([answer or None])
    for row, one in zip(rows, told, strict=True):
        ((target, held),) = one.outcomes
        assert target == TARGETS[0]
        if isinstance(row, str):
            assert isinstance(held, Lost)
            assert (held.code, held.sent) == (row, False)
        else:
            assert held == row


_anything: Any = st.recursive(
    st.none() | st.integers(-1, 3) | st.binary(max_size=2) | st.text(max_size=2),
    lambda inner: st.lists(inner, max_size=5),
    max_leaves=12,
)


@given(st.lists(_anything, max_size=3))
def test_whatever_the_answer_is_every_sender_is_told(answer: list[Any]) -> None:
    """A write that nobody tells of its loss waits for its deadline."""
    sending = Sending()
    told = [sending.send(TARGETS[0]) for _ in range(3)]
    sending.loop.run_all()
    (request,) = sending.wire.requests
    request[-1](answer)
    assert [len(one.outcomes) for one in told] == [1, 1, 1]


def test_a_lost_request_is_every_senders_loss() -> None:
    """With the code and the doubt that the connection gave it."""
    sending = Sending()
    told = [sending.send(TARGETS[0]) for _ in range(2)]
    sending.loop.run_all()
    (request,) = sending.wire.requests
    lost = Lost("timeout", "no answer in time", sent=True)
    request[-1](lost)
    assert [one.outcomes for one in told] == [[(TARGETS[0], lost)]] * 2


def test_a_batch_leaves_early_when_it_has_grown_enough() -> None:
    """In bytes, and in records, for each may be answered with a whole document."""
    sending = Sending()
    for _ in range(5):
        sending.send(TARGETS[0], bytes(BATCH_BYTES_MAX // 2))
    for _ in range(2 * MERGE_RECORDS_MAX + 1):
        sending.send(TARGETS[1])
    sending.loop.run_all()
    sizes: dict[NodeId, list[int]] = {}
    for node, _, pairs, *_ in sending.wire.requests:
        sizes.setdefault(node, []).append(len(pairs))
    assert sum(sizes[A2]) == 5
    assert max(sizes[A2]) <= 2
    assert sizes[A3] == [MERGE_RECORDS_MAX, MERGE_RECORDS_MAX, 1]


def test_a_lone_record_leaves_at_once_and_what_follows_waits_for_company() -> None:
    """Ticks are short under load: a request a tick would be a request a record."""
    sending = Sending()
    sending.send(TARGETS[0], b"0")
    sending.loop.run_until(sending.loop.now_s)
    assert [pairs for _, _, pairs, *_ in sending.wire.requests] == [[(b"0", b"0")]]

    for number in (b"1", b"2", b"3"):
        sending.send(TARGETS[0], number)
        sending.loop.run_until(sending.loop.now_s + PATIENT_PAUSE_S / 4)
    assert len(sending.wire.requests) == 1
    sending.loop.run_all()
    assert [len(pairs) for _, _, pairs, *_ in sending.wire.requests] == [1, 3]

    sending.loop.run_until(sending.loop.now_s + 2 * PATIENT_PAUSE_S)
    sending.send(TARGETS[0], b"4")
    sending.loop.run_until(sending.loop.now_s)
    assert len(sending.wire.requests) == 3


@given(st.lists(st.booleans(), min_size=1, max_size=5))
def test_a_batch_is_as_patient_as_its_least_patient_record(patience: list[bool]) -> None:
    """One create that needs this replica must not wait for those that don't."""
    sending = Sending()
    for patient in patience:
        sending.send(TARGETS[0], patient=patient)
    sending.loop.run_all()
    assert sending.wire.patience == [all(patience)]


def test_an_impatient_record_takes_the_waiting_ones_along() -> None:
    """They are in its batch, or leave with it: nothing overtakes."""
    sending = Sending()
    sending.send(TARGETS[0])
    sending.loop.run_until(sending.loop.now_s)
    sending.send(TARGETS[0], b"patient")
    sending.send(TARGETS[1], b"urgent", patient=False)
    sending.loop.run_until(sending.loop.now_s + PAUSE_S)
    assert len(sending.wire.requests) == 3


def test_what_waits_for_company_can_be_sent_at_once() -> None:
    """Before a write is acknowledged: its coordinator may be killed right after."""
    sending = Sending()
    sending.merges.flush()
    sending.send(TARGETS[0])
    sending.loop.run_until(sending.loop.now_s)
    sending.send(TARGETS[0], b"waits")
    sending.merges.flush()
    assert [pairs for _, _, pairs, *_ in sending.wire.requests][1:] == [[(b"waits", b"waits")]]
    sending.loop.run_all()
    assert len(sending.wire.requests) == 2
