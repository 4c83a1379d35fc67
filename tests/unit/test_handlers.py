"""Requests from the wire: right ones are answered, wrong ones end the connection, none crashes."""

import asyncio
from math import inf, nan
from typing import Any, cast

import pytest
import structlog
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cluster.ids import NodeId
from cluster.membership import Membership
from cluster.settings import HintSettings, TraceSettings
from kvnode.codec import encode
from kvnode.coordinator import Coordinator
from kvnode.errors import KeyReused, Unavailable
from kvnode.handlers import Handlers
from kvnode.inspection import Inspection, from_wire
from kvnode.partings import Partings
from kvnode.record import CONTENT_BYTES_MAX, Create, Record, Tombstone
from kvnode.regionhandlers import Known
from kvnode.results import Fetched, Stored
from kvnode.rpc.connection import Connection
from kvnode.rpc.frames import FRAME_BYTES_MAX, Message, ProtocolError, encode_frame
from kvnode.rpc.operations import MERGE_RECORDS_MAX, FetchResult, Op
from kvnode.rpc.transport import Transport
from kvnode.services.gossip import Gossip
from kvnode.services.layouts import Layouts
from kvnode.services.levelling import Levelling
from kvnode.storage.memory import MemoryDisk, MemoryEngine
from kvnode.system import SystemClock, SystemEntropy
from kvnode.tracing import Tracer
from kvnode.watermarks import Watermarks
from tests.support.replicas import new_replica
from tests.support.rings import rings_with

ID, OTHER_ID = bytes(16), b"\x01" * 16
RECORD = Record(Create(b"x", 1, 0, b"c" * 32, b"f" * 16))
ENCODED = encode(ID, RECORD)
DELETED = Record(tombstone=Tombstone(1, 2))
TOMBSTONE = encode(ID, DELETED)
FINGERPRINT = b"f" * 16
A1, A2 = NodeId("a1"), NodeId("a2")
#: Two regions, so that what travels between them can be asked as well.
RINGS = rings_with({"a": [(A1,)], "b": [(A2,)]})


class Answers:
    """A connection that notes what is sent on it."""

    def __init__(self) -> None:
        self.sent: list[list[Any]] = []
        self.aborted: list[str] = []
        #: Of requests that would have ended the connection within the call, why.
        self.ended: list[str] = []

    def reply(self, request_id: int, fields: list[Any], size_bytes: int) -> None:
        """See ``Connection``."""
        assert size_bytes >= 0
        self.sent.append([Op.REPLY, request_id, *fields])

    def fail(self, request_id: int, code: str, detail: str, *extra: object) -> None:
        """See ``Connection``."""
        self.sent.append([Op.FAILED, request_id, code, detail, *extra])

    def abort(self, reason: str) -> None:
        """See ``Connection``."""
        self.aborted.append(reason)


class StubCoordinator:
    """Answers as if all had gone well, or raises."""

    def __init__(self, error: Exception | None) -> None:
        self.clock = SystemClock()
        self.rings = RINGS
        self._error = error

    async def create(self, _: bytes, record: Record, **asked: object) -> Stored:
        """See ``DocumentStore``."""
        self._fail(asked)
        return Stored(record, 2, 2, 3, 1)

    async def read(self, _: bytes, **asked: object) -> Fetched:
        """See ``DocumentStore``."""
        self._fail(asked)
        return Fetched(RECORD, 1, 1, 3)

    delete = create
    read_here = read

    def _fail(self, asked: dict[str, object]) -> None:
        assert isinstance(asked.get("write_quorum", asked.get("read_quorum")), int)
        assert isinstance(asked["sloppy"], bool)
        if self._error is not None:
            raise self._error


class StubTransport:
    """Nobody is linked."""

    def tell(self, op: Op, fields: list[Any], deadline_s: float, *, only: NodeId | None) -> None:
        """To nobody."""

    def review(self) -> None:
        """Of nobody."""

    def connected(self, node: NodeId) -> bool:
        """To nobody."""
        return False


def serve(
    *messages: Message, error: Exception | None = None, hint_bytes_max: int = 10_000
) -> Answers:
    """What one node sends for these requests."""

    async def run() -> Answers:
        loop, clock = asyncio.get_running_loop(), SystemClock()
        hints = HintSettings(target_bytes_max=hint_bytes_max, total_bytes_max=hint_bytes_max)
        engine = MemoryEngine(MemoryDisk(), loop, commit_latency_s=lambda: 0.0, failed=_raise)
        gossip = Gossip(
            Membership(NodeId("a1"), 1, [NodeId("a1"), NodeId("a2")], interval_s=1, now_s=0),
            interval_s=1,
            ring_epoch=lambda: 1,
            skew_told_s=1,
            clock=clock,
            entropy=SystemEntropy(),
            log=structlog.get_logger(),
            on_change=lambda: None,
        )
        coordinator = cast("Coordinator", StubCoordinator(error))
        replica = new_replica(engine, clock, hints=hints, region="a", regions=["b"])
        handlers = Handlers(
            replica,
            coordinator,
            gossip,
            absent=list,
            known=Known(
                Levelling(replica, RINGS),
                Watermarks(RINGS, NodeId("a1")),
                Partings(
                    replica,
                    RINGS,
                    NodeId("a1"),
                    fence=lambda: None,
                    transport=cast("Transport", StubTransport()),
                    clock=clock,
                    log=structlog.get_logger(),
                ),
                bytes(8),
            ),
            layouts=Layouts(
                replica,
                RINGS.copy(),
                NodeId("a1"),
                settle_s=1.0,
                adopted=lambda before, layout: None,
                is_done=lambda: True,
                allow=lambda allowed: None,
                transport=cast("Transport", StubTransport()),
                clock=clock,
                log=structlog.get_logger(),
            ),
            tracer=Tracer("a1", TraceSettings(), clock, SystemEntropy()),
        )
        answers = Answers()
        for message in messages:
            try:
                handlers(cast("Connection", answers), "a2", message)
            except ProtocolError as refusal:
                answers.ended.append(str(refusal))
        await engine.close()
        await asyncio.gather(*handlers._tasks)
        await handlers.close()
        return answers

    return asyncio.run(run())


def _raise(error: BaseException) -> None:
    raise error


_fields = st.lists(
    st.sampled_from([ID, ENCODED, TOMBSTONE, FINGERPRINT, b"", None, True, -1, 0, 1, 1 << 63])
    | st.sampled_from([inf, nan, 0.5, "", "a2", "x" * 300, [], [[]], {}])
    | st.lists(st.integers() | st.text(max_size=2), max_size=3)
    | st.lists(st.sampled_from([ID, ENCODED, TOMBSTONE, None]), max_size=4)
    | st.binary(max_size=20),
    max_size=6,
)
_operations = st.sampled_from([*(int(op) for op in Op if op > Op.REFUSED), 5, 99])


@given(_operations, _fields)
@example(int(Op.READ), [])
@example(int(Op.READ), [ID, inf, True, None])
@example(int(Op.READ), [ID, 1, True, [inf, b""]])
@example(int(Op.READ), [ID, 1, True, [1]])
@example(int(Op.CREATE), [ID, ENCODED, True, "2", True])
@settings(max_examples=300, deadline=None)
def test_any_fields_are_answered_or_end_the_connection(operation: int, fields: list[Any]) -> None:
    """Rule 1. Regression: no fields at all, or an infinite quorum, ended in a traceback."""
    answers = serve([operation, 7, 1000, *fields])
    assert len(answers.sent) + len(answers.aborted) + len(answers.ended) == 1
    assert all(sent[1] == 7 for sent in answers.sent)
    assert all(reason.startswith("protocol error") for reason in answers.aborted)


@pytest.mark.parametrize(
    "header", [[Op.FETCH], [Op.FETCH, 1], [Op.FETCH, "1", 1000], [Op.FETCH, 1, None], [77, 1, 1]]
)
def test_a_request_without_its_header_ends_the_connection(header: Message) -> None:
    """There is nobody to answer to."""
    assert len(serve(header).ended) == 1


def merge(request_id: int, hint_for: str | None, *fields: bytes) -> Message:
    """One MERGE."""
    return [Op.MERGE, request_id, 1000, hint_for, False, None, list(fields)]


def fetch(request_id: int, document_id: bytes = ID) -> Message:
    """One FETCH of a coordinator that knows nothing."""
    return [Op.FETCH, request_id, 1000, document_id, None]


def test_replicas_merge_fetch_and_vote() -> None:
    """The three that a write or a read is made of."""
    create = merge(1, None, ID, ENCODED)
    assert serve(create).sent == [[Op.REPLY, 1, None]]
    both = encode(ID, Record(RECORD.create, DELETED.tombstone))
    deleted = serve(create, merge(2, None, ID, TOMBSTONE)).sent
    assert deleted == [[Op.REPLY, 1, None], [Op.REPLY, 2, [[0, both, None, None]]]]
    assert serve(fetch(3)).sent == [[Op.REPLY, 3, FetchResult.ABSENT, None]]
    vote = [Op.VOTE, 4, 1000, ID, FINGERPRINT]
    assert serve(vote).sent == [[Op.REPLY, 4, FINGERPRINT, None]]


def test_an_inspection_is_answered_at_once_with_what_is_durable() -> None:
    """It changes nothing and waits for nothing."""
    ((_, _, *fields), merged) = serve(merge(1, None, ID, ENCODED), [Op.INSPECT, 2, 1000, ID]).sent
    assert from_wire(fields) == Inspection(
        owner=True, doubt=None, record=None, damaged=False, hints_for=(), quarantined=None
    )
    assert merged == [Op.REPLY, 1, None]


def test_hints_are_acknowledged_or_refused_one_by_one() -> None:
    """The coordinator of the one counts it, that of the other does not."""
    hints = merge(1, "a3", ID, ENCODED, OTHER_ID, encode(OTHER_ID, RECORD))
    assert serve(hints).sent == [[Op.REPLY, 1, None]]
    (answer,) = serve(hints, hint_bytes_max=len(ENCODED) + 8).sent
    assert answer == [Op.REPLY, 1, [[1, None, "hints-full", "no room for a hint"]]]


def test_a_damaged_record_is_refused_and_its_neighbours_are_stored() -> None:
    """What the wire's CRC let through was damaged before it was sent: its sender drops it."""
    batch = merge(1, None, ID, ENCODED[:-1] + b"y", OTHER_ID, encode(OTHER_ID, RECORD))
    again = merge(2, None, ID, TOMBSTONE, OTHER_ID, encode(OTHER_ID, DELETED))
    first, second = serve(batch, again).sent
    ((index, held, code, _),) = first[2]
    assert (index, held, code) == (0, None, "corrupt-record")
    ((index, held, code, _),) = second[2]
    assert (index, code) == (1, None), "only the neighbour's tombstone met a create"
    assert held == encode(OTHER_ID, Record(RECORD.create, DELETED.tombstone))


def test_of_a_batch_with_a_broken_field_nothing_is_stored() -> None:
    """Whoever sent it has a bug; what else it says is not to be trusted either."""
    answers = serve(merge(1, None, ID, ENCODED, ID[:15], ENCODED), merge(2, None, ID, TOMBSTONE))
    assert len(answers.ended) == 1
    assert answers.sent == [[Op.REPLY, 2, None]], "the tombstone found no create"


def test_the_answer_to_the_greatest_merge_fits_in_a_frame() -> None:
    """Regression: a thousand deletes in one tick were answered with a thousand whole documents."""
    whole = Record(Create(bytes(CONTENT_BYTES_MAX), 1, 0, b"c" * 32))
    ids = [number.to_bytes(16, "big") for number in range(MERGE_RECORDS_MAX + 1)]
    creates = [merge(1, None, one, encode(one, whole)) for one in ids]
    deletes = [field for one in ids for field in (one, encode(one, DELETED))]
    answer = serve(*creates, merge(2, None, *deletes[:-2])).sent[-1]
    assert len(answer[2]) == MERGE_RECORDS_MAX
    assert len(encode_frame([answer])) < FRAME_BYTES_MAX
    assert len(serve(merge(2, None, *deletes)).ended) == 1


def test_a_client_gets_what_the_coordinator_says() -> None:
    """The record as it is now, and honestly what happened."""
    create = [Op.CREATE, 1, 1000, ID, ENCODED, True, 2, False, False]
    read = [Op.READ, 2, 1000, ID, 1, True, None, False]
    delete = [Op.DELETE, 3, 1000, ID, TOMBSTONE, 1, True, False]
    assert serve(create, read, delete).sent == [
        [Op.REPLY, 1, ENCODED, 2, 2, 3, 1],
        [Op.REPLY, 2, ENCODED, 1, 1, 3],
        [Op.REPLY, 3, TOMBSTONE, 2, 2, 3, 1],
    ]


def test_a_client_gets_the_coordinators_error_with_its_counts() -> None:
    """As values: code, detail, acknowledged, required."""
    read = [Op.READ, 1, 1000, ID, 1, True, [5, b"abc", b"de"], False]
    (failed,) = serve(read, error=Unavailable("why", acked=1, required=2)).sent
    assert failed == [Op.FAILED, 1, "unavailable", "why", 1, 2]
    (failed,) = serve(read, error=KeyReused("other")).sent
    assert failed == [Op.FAILED, 1, "key-reused", "other", 0, 0]
