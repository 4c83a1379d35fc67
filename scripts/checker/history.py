"""What clients asked and heard: the only thing that a cluster can be judged by.

Rules
-----
1. An operation that nobody answered, or that failed with an unknown outcome, may have taken effect
   and may yet do so. One that failed definitely must never have any effect.
2. A content belongs to one create, or to one body of one key and its retries, so whoever meets it
   knows where it is from.
"""

from collections.abc import Iterable
from enum import Enum

import msgspec

from cluster.ids import DocumentId
from docservice.documents import Created, Found, Quorums
from kvnode.errors import StoreError
from kvnode.results import Stored


class NoAnswer(Exception):
    """The process that was asked died, or did not answer for long after the deadline."""


class Refused(NoAnswer):
    """Nobody listens: the request can't have had an effect."""


class Kind(Enum):
    """What was asked for."""

    CREATE = "create"
    READ = "read"
    DELETE = "delete"


#: What the client heard; None: nothing (yet).
Answer = Created | Found | Stored | StoreError | NoAnswer | None


class Operation(msgspec.Struct, eq=False):
    """One request and what became of it. Times are true ones, in seconds since the beginning."""

    number: int
    kind: Kind
    #: The machine that was asked.
    via: str
    quorums: Quorums
    invoked_s: float
    deadline_s: float
    #: Of a create that was not answered it is known only with a key.
    document_id: DocumentId | None = None
    content: str | None = None
    key: str | None = None
    ttl_s: int | None = None
    answered_s: float | None = None
    answer: Answer = None
    #: Whether the machine that was asked was paused or died meanwhile.
    disturbed: bool = False
    #: The number of its session, and what that had been answered before, oldest first.
    session: int | None = None
    heard_before: tuple["Operation", ...] = ()

    @property
    def acknowledged(self) -> bool:
        """It succeeded, and the client knows."""
        return isinstance(self.answer, Created | Found | Stored)

    @property
    def refused(self) -> bool:
        """It failed, and the client knows that it had no effect."""
        answer = self.answer
        if isinstance(answer, StoreError):
            return answer.outcome == "not_applied"
        return isinstance(answer, Refused)

    @property
    def replicas(self) -> int:
        """Primaries that had an acknowledged write on disk when it was answered, in a region.

        At a level of each region the answer has their sum; in each of them there was a quorum.
        """
        stored = self.stored
        if stored is not None and self.quorums.each_region:
            return self.quorums.write
        return stored.acked - stored.hints if stored is not None else 0

    @property
    def counted(self) -> int:
        """Of these, those that later requests count on: of an owner that comes or goes, they don't.

        While it does, a write needs an acknowledgement more (``cluster.ringchange``, rule 2).
        """
        stored = self.stored
        if stored is None or self.quorums.each_region:
            return self.replicas
        return max(0, self.replicas - max(0, stored.required - self.quorums.write))

    def heard(self, answered: int) -> int:
        """Of the owners that answered a read, those of one region."""
        return self.quorums.read if self.quorums.each_region else answered

    @property
    def hints(self) -> int:
        """Other nodes that had it on disk as a hint."""
        return self.stored.hints if self.stored is not None else 0

    @property
    def stored(self) -> Stored | None:
        """What an acknowledged write was answered with."""
        answer = self.answer.stored if isinstance(self.answer, Created) else self.answer
        return answer if isinstance(answer, Stored) else None

    def __str__(self) -> str:
        until = f"{self.answered_s:.4f}" if self.answered_s is not None else "open"
        wanted = self.quorums.read if self.kind is Kind.READ else self.quorums.write
        asked = f"{self.kind.value} via {self.via} {wanted}"
        if self.quorums.each_region:
            asked += " in each region"
        elif not self.quorums.sloppy:
            asked += " strict"
        if self.session is not None:
            asked += f" in session {self.session}"
        if self.key is not None:
            asked += f" key={self.key!r}"
        if self.content is not None:
            asked += f" {self.content!r}"
        disturbed = " (disturbed)" if self.disturbed else ""
        return f"{self.invoked_s:.4f}..{until} #{self.number} {asked}: {self._heard}{disturbed}"

    @property
    def _heard(self) -> str:
        match self.answer:
            case Created(stored=stored, replayed=replayed):
                again = "again, " if replayed else ""
                return f"created, {again}{stored.acked} acked, {stored.hints} of them hints"
            case Found(create=create, fetched=fetched):
                return f"found {create.content!r}, {fetched.answered} answered"
            case Stored(acked=acked, hints=hints):
                return f"deleted, {acked} acked, {hints} of them hints"
            case None:
                return "?"
            case error:
                return f"{type(error).__name__}: {error}"


def timeline(
    head: str,
    document_id: bytes,
    history: Iterable[Operation],
    events: Iterable[tuple[float, str]],
) -> str:
    """All that was asked about a document, among what else happened, in order."""
    lines = [(op.invoked_s, str(op)) for op in history if op.document_id == document_id]
    lines += [(at_s, f"{at_s:.4f} {what}") for at_s, what in events]
    return "\n".join([head, *(line for _, line in sorted(lines))])
