"""What a node does with a request from the wire: check its fields, make one call, answer.

Rules
-----
1. Fields of the wrong number or type end the connection (``ProtocolError``): the sender has a bug
   or is no peer. Nothing is allocated or stored for them.
2. An operating error is an answer, [FAILED, request id, code, detail, acked, required].
3. Replica operations run within the call; what must wait for other nodes runs in a task, of which
   there is a bounded number.
"""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

from cluster.ids import NodeId, partition_of
from kvnode.agreement import Agreement, Proposal
from kvnode.batching import check_id, pairs_of
from kvnode.boots import boot_from_wire
from kvnode.codec import verify
from kvnode.comparing import SPANS_MAX, Comparing, span_from_wire
from kvnode.coordinating import OPERATIONS, Operation
from kvnode.coordinator import Coordinator
from kvnode.errors import NotMember, StoreError, Unavailable
from kvnode.inspection import inspect, to_wire
from kvnode.notedanswers import NotedAnswers
from kvnode.notedcalls import noting
from kvnode.record import FINGERPRINT_BYTES
from kvnode.regionhandlers import Known, RegionHandlers
from kvnode.replica import Replica
from kvnode.rpc.connection import Answers
from kvnode.rpc.frames import Message, ProtocolError
from kvnode.rpc.operations import MERGE_RECORDS_MAX, Fields, Op
from kvnode.services.gossip import Gossip
from kvnode.services.layouts import Layouts
from kvnode.traceviews import spans_for, spans_to_wire
from kvnode.tracing import Tracer

#: Requests of document services under way at once.
COORDINATED_MAX: Final = 10_000

#: Who sends these counts; it was proved in the handshake.
_SIGNED: Final = (Op.CHECKIN, Op.WATERMARK, Op.STANDING, Op.LAYOUT)

#: What may belong to traces: what clients wait for, and what brings their writes to other regions.
TRACED: Final = (*OPERATIONS, Op.MERGE, Op.FETCH, Op.VOTE, Op.SHIP)

Handler = Callable[[Answers, int, float, Fields], None]


class Handlers:
    """The table of operations of one node.

    Args:
        absent: The nodes of this region that were given up (``kvnode.services.purge``, rule 4).
    """

    def __init__(
        self,
        replica: Replica,
        coordinator: Coordinator,
        gossip: Gossip,
        *,
        absent: Callable[[], list[NodeId]],
        known: Known,
        layouts: Layouts,
        tracer: Tracer,
    ) -> None:
        self._layouts = layouts
        self._partings = known.partings
        self._loop = asyncio.get_running_loop()
        self._replica = replica
        self._coordinator = coordinator
        self._gossip = gossip
        self._absent = absent
        self._tracer = tracer
        regional = RegionHandlers(coordinator, known, self._start)
        self._comparing = Comparing(replica)
        self._agreement = Agreement(replica, coordinator.rings)
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._handlers: dict[int, Handler] = {
            Op.MERGE: self._merge,
            Op.FETCH: self._fetch,
            Op.VOTE: self._vote,
            Op.GOSSIP: self._exchange,
            Op.NEWS: self._news,
            Op.COMPARE: self._compare,
            Op.TREE: self._tree,
            Op.BUCKETS: self._buckets,
            Op.PAGE: self._page,
            Op.PROMISE: self._promise,
            Op.FLOOR: self._floor,
            Op.CHECKIN: self._check_in,
            Op.SHIP: regional.ship,
            Op.WATERMARK: regional.watermark,
            Op.LEVEL: regional.level,
            Op.STANDING: regional.standing,
            Op.LAYOUT: self._layout,
            Op.INSPECT: self._inspect,
            Op.TRACED: self._traced,
            Op.TRACES: self._traces,
            **{op: partial(self._coordinate, operation) for op, operation in OPERATIONS.items()},
        }

    def __call__(self, connection: Answers, peer: str, message: Message) -> None:
        """Serve one request: [operation, request id, timeout_ms, *fields]."""
        if message[0] in _SIGNED:
            message = [*message[:3], peer, *message[3:]]
        handler = self._handlers.get(message[0])
        if handler is None or len(message) < 3:
            msg = f"unknown operation {message[0]} from {peer}"
            raise ProtocolError(msg)
        request_id, timeout_ms = message[1], message[2]
        if not (isinstance(request_id, int) and isinstance(timeout_ms, int)):
            msg = f"bad request header from {peer}"
            raise ProtocolError(msg)
        try:
            handler(connection, request_id, timeout_ms / 1000, message[3:])
        except (ValueError, TypeError) as error:
            msg = f"bad fields of operation {message[0]} from {peer}: {error}"
            raise ProtocolError(msg) from error
        except StoreError as error:
            _fail(connection, request_id, error)

    async def close(self) -> None:
        """Let what is under way end."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # Between replicas

    def _merge(self, connection: Answers, request_id: int, _: float, fields: Fields) -> None:
        hint_for, patient, vouched_at, flat = fields
        if not (hint_for is None or isinstance(hint_for, str)) or not isinstance(flat, list):
            raise TypeError("not a hint's target and a list of records")
        if not (vouched_at is None or isinstance(vouched_at, int)):
            raise TypeError("not a purge floor")
        if hint_for is None:
            self._merge_all(connection, request_id, flat, vouched_at, patient=bool(patient))
        else:
            self._hold_all(connection, request_id, NodeId(hint_for), flat)

    def _merge_all(
        self,
        connection: Answers,
        request_id: int,
        flat: Fields,
        vouched_at: int | None,
        *,
        patient: bool,
    ) -> None:
        exceptions: list[Fields] = []
        pairs = pairs_of(flat, MERGE_RECORDS_MAX)
        self._replica.admit()
        join, floor_of = self._replica.join, self._replica.floor_of
        for index, (document_id, encoded) in enumerate(pairs):
            try:
                verify(document_id, encoded)
                vouched = vouched_at is not None and vouched_at == floor_of(document_id)
                held = join(document_id, encoded, vouched=vouched)
            except StoreError as error:
                exceptions.append([index, None, error.code, str(error)])
            else:
                if held is not None:
                    exceptions.append([index, held, None, None])
        merged = partial(_merged, connection, request_id, exceptions)
        self._replica.when_durable(merged, patient=patient)

    def _hold_all(self, connection: Answers, request_id: int, target: NodeId, flat: Fields) -> None:
        exceptions: list[Fields] = []

        def held(index: int, kept: bool) -> None:
            if not kept:
                exceptions.append([index, None, "hints-full", "no room for a hint"])

        for index, (document_id, encoded) in enumerate(pairs_of(flat, MERGE_RECORDS_MAX)):
            try:
                verify(document_id, encoded)
                self._replica.hint_store.hold(target, document_id, encoded, partial(held, index))
            except StoreError as error:
                exceptions.append([index, None, error.code, str(error)])
        # Barriers fire in order: when this one does, every hint before it has had its word.
        merged = partial(_merged, connection, request_id, exceptions)
        self._replica.when_durable(merged, patient=False)

    def _fetch(self, connection: Answers, request_id: int, _: float, fields: Fields) -> None:
        document_id, known_header = fields
        check_id(document_id)
        result, encoded = self._replica.fetch(document_id, known_header)
        connection.reply(request_id, [result, encoded], len(encoded) if encoded else 0)

    def _vote(self, connection: Answers, request_id: int, _: float, fields: Fields) -> None:
        document_id, fingerprint = fields
        check_id(document_id)
        if not (isinstance(fingerprint, bytes) and len(fingerprint) == FINGERPRINT_BYTES):
            raise TypeError("fingerprint is not 16 bytes")
        voted = partial(_voted, connection, request_id)
        self._replica.vote(document_id, fingerprint, voted)

    def _exchange(self, connection: Answers, request_id: int, _: float, fields: Fields) -> None:
        (digest,) = fields
        answer = news, own, _ = self._gossip.answer(digest)
        connection.reply(request_id, answer, 64 * (len(news) + len(own)))

    def _news(self, connection: Answers, request_id: int, _: float, fields: Fields) -> None:
        (news,) = fields
        self._gossip.receive(news)
        connection.reply(request_id, [], 0)

    # Between owners of the same partitions

    def _compare(self, connection: Answers, request_id: int, _: float, fields: Fields) -> None:
        first_expiring, rows = fields
        answer = self._comparing.compare(first_expiring, rows)
        # What is called equal is on this disk by then.
        compared = partial(connection.reply, request_id, [answer], 32 * len(answer))
        self._replica.when_durable(compared, patient=True)

    def _tree(self, connection: Answers, request_id: int, _: float, fields: Fields) -> None:
        (spans,) = fields
        if len(spans) > SPANS_MAX:
            raise ValueError("too many spans")
        packed = self._comparing.children([span_from_wire(span) for span in spans])
        connection.reply(request_id, [packed], sum(map(len, packed)))

    def _buckets(self, connection: Answers, request_id: int, _: float, fields: Fields) -> None:
        partition, first_expiring = fields
        self._comparing.check_partition(partition)
        found = self._comparing.buckets(partition, first_expiring)
        rows = [[bucket.family, bucket.number, digest] for bucket, digest in found.items()]
        connection.reply(request_id, [rows], 24 * len(rows))

    def _page(self, connection: Answers, request_id: int, _: float, fields: Fields) -> None:
        place, after = fields
        if after:
            check_id(after)
        entries = self._comparing.page(self._comparing.place_from_wire(place), after)
        rows = [[entry.document_id, entry.digest] for entry in entries]
        connection.reply(request_id, [rows], 32 * len(rows))

    def _promise(self, connection: Answers, request_id: int, _: float, fields: Fields) -> None:
        *proposed, layouts = fields
        proposal = Proposal(*proposed)
        self._comparing.check_partition(proposal.partition)
        veto: str | None
        if not self._agreement.knows(layouts):
            veto = "layout"
        elif self._replica.owns(proposal.partition):
            veto = self._agreement.promise(proposal)
        else:
            veto = self._agreement.holder_veto(proposal)
        promised = partial(connection.reply, request_id, [veto, self._absent()], 0)
        self._replica.when_durable(promised, patient=False)

    def _floor(self, connection: Answers, request_id: int, _: float, fields: Fields) -> None:
        partition, bucket, newest_deleted_ms = fields
        self._comparing.check_partition(partition)
        if self._replica.owns(partition):
            self._replica.meet_floor(partition, bucket, newest_deleted_ms)
        connection.reply(request_id, [], 0)

    def _check_in(self, connection: Answers, request_id: int, _: float, fields: Fields) -> None:
        peer, boot, known = fields
        remembered = self._replica.boots.meet(
            NodeId(peer), boot_from_wire(boot), list(map(boot_from_wire, known))
        )
        floors, told = self._replica.floors(), self._replica.boots.told()
        size_bytes = 32 * (len(floors) + len(told))
        met = partial(connection.reply, request_id, [remembered, floors, told], size_bytes)
        self._replica.when_durable(met, patient=False)

    def _layout(self, connection: Answers, request_id: int, _: float, fields: Fields) -> None:
        peer, *told = fields
        if not self._partings.hears(peer):
            connection.fail(request_id, "parted", "an operator's word keeps regions apart")
            return
        answer, size_bytes = self._layouts.hear(NodeId(peer), told)
        # What this node is heard to know is on its disk.
        heard = partial(connection.reply, request_id, answer, size_bytes)
        self._replica.when_durable(heard, patient=False)

    def _inspect(self, connection: Answers, request_id: int, _: float, fields: Fields) -> None:
        (document_id,) = fields
        check_id(document_id)
        partition = partition_of(document_id, self._comparing.partitions)
        connection.reply(request_id, to_wire(inspect(self._replica, document_id, partition)), 256)

    # Of traces

    def _traced(
        self, connection: Answers, request_id: int, timeout_s: float, fields: Fields
    ) -> None:
        """What was asked for, with a span for each trace that it belongs to."""
        contexts, op, *fields = fields
        if op not in TRACED:
            raise ValueError("not an operation that is traced")
        spans = self._tracer.received(contexts, f"rpc.{Op(op).name.lower()}")
        noted = NotedAnswers(connection, spans)
        try:
            operation = OPERATIONS.get(op)
            if operation is not None:
                coordinator = noting(self._coordinator, spans[0], self._tracer.hops)
                self._begin(coordinator, operation, noted, request_id, timeout_s, fields)
            else:
                self._handlers[op](noted, request_id, timeout_s, fields)
        except StoreError as error:
            _fail(noted, request_id, error)

    def _traces(self, connection: Answers, request_id: int, _: float, fields: Fields) -> None:
        spans = spans_for(self._tracer, fields)
        connection.reply(request_id, spans_to_wire(spans), 512 * len(spans))

    # On behalf of document services, and of nodes in other regions

    def _coordinate(
        self,
        operation: Operation,
        connection: Answers,
        request_id: int,
        timeout_s: float,
        fields: Fields,
    ) -> None:
        self._begin(self._coordinator, operation, connection, request_id, timeout_s, fields)

    def _begin(
        self,
        coordinator: Coordinator,
        operation: Operation,
        connection: Answers,
        request_id: int,
        timeout_s: float,
        fields: Fields,
    ) -> None:
        check_id(fields[0] if fields else None)
        deadline_s = coordinator.clock.monotonic_s() + timeout_s
        self._start(connection, request_id, operation(coordinator, fields, deadline_s))

    def _start(
        self,
        connection: Answers,
        request_id: int,
        operation: Coroutine[Any, Any, tuple[Fields, int]],
    ) -> None:
        """Answer when the operation has ended; there is a bounded number of them."""
        if len(self._tasks) >= COORDINATED_MAX:
            operation.close()
            connection.fail(request_id, "overloaded", f"{COORDINATED_MAX} requests are under way")
            return
        task = self._loop.create_task(_answer(connection, request_id, operation))
        self._tasks[task] = None
        task.add_done_callback(self._tasks.pop)


async def _answer(
    connection: Answers, request_id: int, operation: Coroutine[Any, Any, tuple[Fields, int]]
) -> None:
    try:
        fields, size_bytes = await operation
    except StoreError as error:
        _fail(connection, request_id, error)
    except (ValueError, TypeError) as error:
        connection.abort(f"protocol error: bad fields: {error}")
    else:
        connection.reply(request_id, fields, size_bytes)


def _fail(connection: Answers, request_id: int, error: StoreError) -> None:
    counts = (error.acked, error.required) if isinstance(error, Unavailable) else (0, 0)
    code = error.passed_on_as if isinstance(error, NotMember) else error.code
    connection.fail(request_id, code, str(error), *counts)


def _merged(connection: Answers, request_id: int, exceptions: list[Fields]) -> None:
    size_bytes = sum(len(row[1]) for row in exceptions if row[1] is not None)
    connection.reply(request_id, [exceptions or None], size_bytes)


def _voted(connection: Answers, request_id: int, voted: bytes, held: bytes | None) -> None:
    connection.reply(request_id, [voted, held], len(held) if held else 0)
