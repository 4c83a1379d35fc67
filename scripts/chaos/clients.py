"""Requests over HTTP, each remembered in the history: what was asked, heard, and when.

Rules
-----
1. A client knows only what the answer says: the id, the times, Stele-Acks, the problem's code and
   outcome. From these the history gets the same values as in the simulation.
2. A request whose connection broke, or that was not answered long after its deadline, has an
   unknown outcome. It is not repeated; a client that wants to must ask again, in a new operation.
3. An answer that the API does not know, or whose bytes contradict their checksum, is a violation.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final, TypeVar
from uuid import UUID

import msgspec

from cluster.ids import DocumentId, format_document_id, uuid8_of_key
from docservice.documents import (
    TENANT,
    Created,
    DocumentDeleted,
    DocumentNotFound,
    Found,
    Quorums,
)
from kvnode.errors import (
    CorruptRecord,
    DiskLow,
    KeyDeleted,
    KeyReused,
    Overloaded,
    ReadTimeout,
    StoreError,
    Unavailable,
    WriteTimeout,
)
from kvnode.record import NEVER_MS, Create, Record
from kvnode.results import Fetched, Stored
from scripts.chaos.connection import Answer, HttpConnection
from scripts.checker.evidence import Violation
from scripts.checker.history import Kind, NoAnswer, Operation

TIMEOUT_S: Final = 2.0
#: After a deadline, until a client gives up an answer.
PATIENCE_S: Final = 1.0
_QUORUM_ERRORS: Final = {one.code: one for one in (Unavailable, WriteTimeout, ReadTimeout)}
_PLAIN_ERRORS: Final = {one.code: one for one in (DiskLow, KeyReused, Overloaded, CorruptRecord)}
#: Refused before anybody looked at it.
_BUSY: Final = ("too-many-requests", "too-many-connections", "request-timeout")
_Result = TypeVar("_Result", Created, Found, Stored)


class Clients:
    """Every client of a cluster.

    Args:
        addresses: Host and port of every node's data listener.
        began_s: The monotonic time at which the history's clock is zero.
    """

    def __init__(
        self, addresses: Mapping[str, tuple[str, int]], cluster_id: str, began_s: float
    ) -> None:
        self.machines = addresses
        self.history: list[Operation] = []
        #: What no sequence of answers may contain, found while they came.
        self.violations: list[Violation] = []
        #: When documents with a time to live end, as answers said.
        self.expires_ms: dict[bytes, int] = {}
        self._cluster_id = bytes.fromhex(cluster_id)
        self._began_s = began_s
        self._idle: dict[str, list[HttpConnection]] = {name: [] for name in addresses}

    def now_s(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._began_s

    def id_of_key(self, key: str) -> DocumentId:
        """The id that an idempotency key gives."""
        return uuid8_of_key(self._cluster_id, TENANT, key)

    async def create(
        self,
        via: str,
        content: str,
        *,
        key: str | None = None,
        ttl_s: int | None = None,
        write: int = 1,
        sloppy: bool = True,
        timeout_s: float = TIMEOUT_S,
    ) -> Created:
        """Create a document through a node. Raises StoreError or NoAnswer."""
        operation = self._invoke(Kind.CREATE, via, Quorums(1, write, sloppy), timeout_s)
        operation.content, operation.key, operation.ttl_s = content, key, ttl_s
        operation.document_id = self.id_of_key(key) if key is not None else None
        body = {"content": content} | ({} if ttl_s is None else {"ttl_seconds": ttl_s})
        headers = {"Content-Type": "application/json"}
        if key is not None:
            headers["Idempotency-Key"] = key
        target = f"/documents?w={write}&sloppy={_spelt(sloppy)}"
        sent = msgspec.json.encode(body)

        def created(answer: Answer) -> Created:
            return self._created(operation, answer)

        return await self._answer(operation, "POST", target, headers, sent, created)

    async def read(
        self,
        via: str,
        document_id: DocumentId,
        *,
        read: int = 1,
        sloppy: bool = True,
        timeout_s: float = TIMEOUT_S,
    ) -> Found:
        """Read a document through a node. Raises StoreError or NoAnswer."""
        operation = self._invoke(Kind.READ, via, Quorums(read, 1, sloppy), timeout_s)
        operation.document_id = document_id
        target = f"/documents/{format_document_id(document_id)}?r={read}&sloppy={_spelt(sloppy)}"

        def found(answer: Answer) -> Found:
            return self._found(operation, answer)

        return await self._answer(operation, "GET", target, {}, b"", found)

    async def delete(
        self,
        via: str,
        document_id: DocumentId,
        *,
        write: int = 1,
        sloppy: bool = True,
        timeout_s: float = TIMEOUT_S,
    ) -> Stored:
        """Delete a document through a node. Raises StoreError or NoAnswer."""
        operation = self._invoke(Kind.DELETE, via, Quorums(1, write, sloppy), timeout_s)
        operation.document_id = document_id
        target = f"/documents/{format_document_id(document_id)}?w={write}&sloppy={_spelt(sloppy)}"

        def deleted(answer: Answer) -> Stored:
            return _stored(answer, Record())

        return await self._answer(operation, "DELETE", target, {}, b"", deleted)

    def hang_up(self) -> None:
        """Close every connection that nobody uses."""
        for connections in self._idle.values():
            while connections:
                connections.pop().close()

    def _invoke(self, kind: Kind, via: str, quorums: Quorums, timeout_s: float) -> Operation:
        now_s = self.now_s()
        operation = Operation(len(self.history) + 1, kind, via, quorums, now_s, now_s + timeout_s)
        self.history.append(operation)
        return operation

    async def _answer(
        self,
        operation: Operation,
        method: str,
        target: str,
        headers: dict[str, str],
        body: bytes,
        understood: Callable[[Answer], _Result],
    ) -> _Result:
        timeout_s = operation.deadline_s - operation.invoked_s
        headers = {"Stele-Timeout-Ms": str(int(timeout_s * 1000)), **headers}
        try:
            answer = await self._send(operation.via, method, target, headers, body, timeout_s)
            if answer.status >= 400:
                raise self._refusal(operation, answer)
            result = self._understood(operation, answer, understood)
        except (StoreError, NoAnswer) as error:
            operation.answer = error
            raise
        except asyncio.CancelledError:
            operation.disturbed = True  # the client itself went away
            raise
        else:
            operation.answer = result
            return result
        finally:
            operation.answered_s = self.now_s()

    async def _send(
        self,
        via: str,
        method: str,
        target: str,
        headers: dict[str, str],
        body: bytes,
        timeout_s: float,
    ) -> Answer:
        idle = self._idle[via]
        connection = idle.pop() if idle else HttpConnection(*self.machines[via])
        if not connection.quiet:
            connection.close()
            connection = HttpConnection(*self.machines[via])
        answer = await connection.request(method, target, headers, body, timeout_s + PATIENCE_S)
        if connection.usable:
            idle.append(connection)
        return answer

    def _understood(
        self, operation: Operation, answer: Answer, understood: Callable[[Answer], _Result]
    ) -> _Result:
        try:
            return understood(answer)
        except (LookupError, TypeError, ValueError, msgspec.MsgspecError) as error:
            self._wrong("I26", f"not an answer of the API ({error!r}): {answer}", operation)
            raise NoAnswer("not understood") from error

    def _created(self, operation: Operation, answer: Answer) -> Created:
        assert operation.content is not None
        document = msgspec.json.decode(answer.body)
        document_id = DocumentId(UUID(document["id"]).bytes)
        if operation.document_id not in (None, document_id):
            self._wrong("I9", f"another id for its key: {document}", operation)
        operation.document_id = document_id
        create = self._create_of(operation, document, operation.content.encode())
        stored = _stored(answer, Record(create))
        return Created(document_id, create, stored, "idempotency-replayed" in answer.headers)

    def _found(self, operation: Operation, answer: Answer) -> Found:
        document = msgspec.json.decode(answer.body)
        if document["id"] != format_document_id(operation.document_id or b""):
            self._wrong("I11", f"another document: {document}", operation)
        create = self._create_of(operation, document, document["content"].encode())
        answered, required, copies, _ = _acks(answer)
        return Found(create, Fetched(Record(create), answered, required, copies))

    def _create_of(self, operation: Operation, document: dict[str, Any], content: bytes) -> Create:
        checksum = bytes.fromhex(document["checksum"])
        if hashlib.sha256(content).digest() != checksum:
            self._wrong("I8", f"the checksum is not the content's: {document}", operation)
        delete_at = document["delete_at"]
        expires_at_ms = NEVER_MS if delete_at is None else _ms(delete_at)
        if operation.document_id is not None and delete_at is not None:
            self.expires_ms[operation.document_id] = expires_at_ms
        return Create(content, _ms(document["created_at"]), expires_at_ms, checksum)

    def _refusal(self, operation: Operation, answer: Answer) -> StoreError:
        try:
            problem = msgspec.json.decode(answer.body)
            code, detail = problem["code"], problem["detail"]
            acks, required = problem["acks"] or 0, problem["required"] or 0
        except (msgspec.DecodeError, KeyError, TypeError):
            code, detail, acks, required = "", repr(answer.body), 0, 0
        read = operation.kind is Kind.READ
        if code == DocumentNotFound.code and read:
            return DocumentNotFound(acked=acks, required=required)
        if code == DocumentDeleted.code:
            deleted = DocumentDeleted(acked=acks, required=required)
            return deleted if read else KeyDeleted(detail)
        if code in _QUORUM_ERRORS:
            return _QUORUM_ERRORS[code](detail, acked=acks, required=required)
        if code in _PLAIN_ERRORS:
            return _PLAIN_ERRORS[code](detail)
        if code not in _BUSY:
            self._wrong("I26", f"answered {answer.status} {answer.body!r}", operation)
        return Overloaded(detail)

    def _wrong(self, invariant: str, what: str, operation: Operation) -> None:
        self.violations.append(Violation(invariant, f"{what}: {operation}", operation.document_id))


def _stored(answer: Answer, record: Record) -> Stored:
    acked, required, copies, hints = _acks(answer)
    return Stored(record, acked, required, copies, hints)


def _acks(answer: Answer) -> tuple[int, int, int, int]:
    """``Stele-Acks: 2/2; n=3; hints=1``: acknowledged, required, copies, hints."""
    ratio, copies, hints = answer.headers["stele-acks"].split("; ")
    acked, required = ratio.split("/")
    return int(acked), int(required), int(copies[2:]), int(hints[6:])


def _ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def _spelt(value: bool) -> str:
    return "true" if value else "false"
