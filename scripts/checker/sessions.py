"""Judging what sessions were told: each by what its token knew.

Rules
-----
I13  Monotonic reads: once a session was shown a document, it is not told that there is none, nor
     shown an older one; once it was told that a document is deleted, it is not shown it.
I14  Read your writes: the same after its own creates and deletes. An error that may be retried is
     no answer, so it breaks neither.

Whichever nodes answered, in whichever regions: a session is nobody's but its client's.

What was purged, has expired, or was last on a disk that a fault destroyed may be absent. And once
a document can have been purged, what its key makes is another one, though it may not have been.
"""

from collections.abc import Iterator
from math import inf

from docservice.documents import Created, DocumentDeleted, DocumentNotFound, Found
from kvnode.errors import KeyDeleted, StoreError
from kvnode.record import Create, Record, Sighting
from kvnode.results import Stored
from scripts.checker.evidence import Evidence, Violation, created_after, expired_s
from scripts.checker.history import Operation


def judge_sessions(history: list[Operation], evidence: Evidence) -> Iterator[Violation]:
    """Everything that a session was told and must not be."""
    for op in history:
        for before in op.heard_before:
            if before.document_id == op.document_id is not None:
                broken = _older(before, op, evidence)
                if broken:
                    rule = "I13" if isinstance(before.answer, Found | StoreError) else "I14"
                    yield Violation(rule, f"{broken}: {op}, after {before}", op.document_id)


def _older(before: Operation, op: Operation, evidence: Evidence) -> str | None:
    """What is wrong with an answer after an earlier one, None when nothing is."""
    assert op.document_id is not None
    assert op.answered_s is not None or op.answer is None
    purged_s = evidence.purged_s.get(op.document_id, inf)
    over_s = min(purged_s, expired_s(op.document_id, evidence)[0])
    shown = _shown(before)
    if shown is not None:
        if isinstance(op.answer, DocumentNotFound):
            excused = op.document_id in evidence.atlas.lost or (op.answered_s or 0) >= over_s
            return None if excused else "absent"
        if isinstance(op.answer, Found):
            create = op.answer.create
            sighting = Sighting(shown.created_at_ms, shown.checksum[: Sighting.HEAD_BYTES])
            newer = sighting.is_in(Record(create)) or created_after(
                create, purged_s, evidence.bounds
            )
            another_life = (
                create.created_at_ms > shown.created_at_ms + evidence.bounds.life_s * 1000
            )
            return None if newer or another_life else "an older document"
    gone = isinstance(before.answer, DocumentDeleted | KeyDeleted | Stored)
    if gone and isinstance(op.answer, Found):
        return (
            None if created_after(op.answer.create, purged_s, evidence.bounds) else "it was deleted"
        )
    return None


def _shown(operation: Operation) -> Create | None:
    answer = operation.answer
    return answer.create if isinstance(answer, Created | Found) else None
