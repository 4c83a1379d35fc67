"""Judging a history: what no sequence of faults may let a client see.

The invariants are those of the design, by their numbers; N is the number of copies. A write was
taken by w replicas when it was acknowledged (hints left out), a read heard r owners.

Rules
-----
I1   An acknowledged create is never absent for a read with w + r > N, and never deleted by itself.
I2   A majority of the owners, and R of them, are absent for a 404; none of those had it on disk.
I3   An acknowledged delete is never undone for a strict read with w + r > N.
I8   All reads of an id give the same bytes.
I4   A document that has begun to be purged is never read again, anywhere.
I9   Of a key's bodies at most one is ever acknowledged, in the strong mode (W > N / 2).
I10  A create under the key of a deleted document, with w + w' > N, is refused.
I11  What is read was created under that id, before.
I17  What has expired is not read, nor is anything gone before it has; clocks may be wrong.
I12  A create that was refused leaves no content on any disk, a refused delete no tombstone.
I13, I14  What sessions promise: ``sessions``.
I27  A machine that runs undisturbed answers by the deadline, whatever befalls the others.

And once every fault is over and all replicas were repaired:

I1   What was acknowledged or read, and never deleted, is on every owner's disk.
I4   What was acknowledged or read as deleted is deleted there, or purged.
I22  A disk that was wiped, or put back to an old copy, has been fenced (``invariants``).

Replicas whose copy a fault destroyed (``atlas``) count no more, and nothing but I4 is promised of a
document whose last copy it was.

Where there are several regions, this holds within each of them, and between them for what was asked
of a quorum in each region. For the rest, between them nothing that was
acknowledged is lost, and I20 says from when on it is everywhere (``invariants`` of the simulation).

A region that an operator has said to be gone counts as destroyed, and no quorum in each region has
a part of it until it is back. Its machines may show what others have purged until they hear that.

"Absent" counts only from owners, so it needs no strictness; "found" counts from hint holders too.
"""

from collections.abc import Callable, Iterable, Iterator
from math import inf

from cluster.ids import DocumentId
from docservice.documents import Created, DocumentDeleted, DocumentNotFound, Found
from kvnode.errors import KeyDeleted, KeyReused
from kvnode.record import Record
from kvnode.results import Stored
from scripts.checker.evidence import Bounds, Evidence, Violation, created_after, expired_s
from scripts.checker.history import Kind, NoAnswer, Operation, Refused
from scripts.checker.sessions import judge_sessions


def judge(history: list[Operation], evidence: Evidence) -> Iterator[Violation]:
    """Everything in a finished history that must not be."""
    documents: dict[bytes, list[Operation]] = {}
    for operation in history:
        yield from _in_time(operation, evidence.bounds)
        if operation.document_id is not None:
            documents.setdefault(operation.document_id, []).append(operation)
    origins = _origins(history)
    yield from _refusals_without_effect(origins, history, evidence)
    yield from judge_sessions(history, evidence)
    for document_id, operations in documents.items():
        for what in _document(operations, origins, evidence):
            yield Violation(*what, document_id)
        for what in _expiry(operations, evidence):
            yield Violation(*what, document_id)
        for what in _guesses(document_id, operations, evidence):
            yield Violation(*what, document_id)
        for what in _resurrections(document_id, operations, evidence):
            yield Violation(*what, document_id)


def judge_converged(
    history: list[Operation],
    stored: Callable[[DocumentId], list[Record | None]],
    evidence: Evidence,
    now_s: float,
) -> Iterator[Violation]:
    """Everything that must not be once every fault is over and all replicas were repaired.

    Args:
        stored: What each owner of a document has on disk, or would, had all not agreed to purge it.
        now_s: Virtual time.
    """
    deletes = [op for op in history if op.kind is Kind.DELETE]
    deleted = {op.document_id for op in deletes}
    for op in history:
        if op.document_id is None or op.document_id in evidence.atlas.lost:
            continue
        held = stored(op.document_id)
        expired = now_s >= expired_s(op.document_id, evidence)[0]
        purged_s = evidence.purged_s.get(op.document_id, inf)
        lasts = op.document_id not in deleted and now_s < expired_s(op.document_id, evidence)[0]
        lost = any(record is None or record.create is None for record in held)
        live = any(
            purged_s == inf
            if record is None
            else record.tombstone is None
            and not created_after(record.create, purged_s, evidence.bounds)
            for record in held
        )
        if isinstance(op.answer, Created | Found) and lasts and lost:
            yield Violation("I1", f"lost: {op}", op.document_id)
        gone = isinstance(op.answer, Stored | DocumentDeleted) and op.document_id in deleted
        if gone and live and not expired:
            yield Violation("I4", f"not deleted everywhere: {op}", op.document_id)


def _document(
    operations: list[Operation],
    origins: dict[str, list[Operation]],
    evidence: Evidence,
) -> Iterator[tuple[str, str]]:
    creates = [op for op in operations if op.kind is Kind.CREATE]
    deletes = [op for op in operations if op.kind is Kind.DELETE]
    found = [op for op in operations if isinstance(op.answer, Found)]
    yield from _absences(creates, deletes, operations, evidence)
    yield from _deletes(deletes, creates, found, evidence)
    yield from _bodies(creates, found, evidence)
    for op in found:
        assert isinstance(op.answer, Found)
        content = op.answer.create.content.decode()
        tried = [
            origin
            for origin in origins.get(content, [])
            if origin.document_id == op.document_id and not _after(origin, op)
        ]
        if not tried:
            yield "I11", f"nobody had created {content!r}: {op}"


def _absences(
    creates: list[Operation],
    deletes: list[Operation],
    operations: list[Operation],
    evidence: Evidence,
) -> Iterator[tuple[str, str]]:
    acknowledged = [op for op in creates if op.acknowledged]
    copies = evidence.bounds.copies
    for op in operations:
        assert op.document_id is not None
        purged_s = evidence.purged_s.get(op.document_id, inf)
        over = op.answered_s is None or op.answered_s >= min(
            purged_s, expired_s(op.document_id, evidence)[0]
        )
        if over:
            continue
        if isinstance(op.answer, DocumentNotFound):
            for create in _that_meet(acknowledged, op, evidence):
                if (
                    _after(op, create)
                    and _left(create, evidence, op) + op.heard(op.answer.acked) > copies
                ):
                    yield "I1", f"absent: {op}, after {create}"
        gone = isinstance(op.answer, DocumentDeleted | KeyDeleted)
        if gone and all(_after(delete, op) for delete in deletes):
            yield "I1", f"nobody had deleted it: {op}"


def _expiry(operations: list[Operation], evidence: Evidence) -> Iterator[tuple[str, str]]:
    for op in operations:
        if isinstance(op.answer, Found) and op.invoked_s > expired_s(op.document_id, evidence)[1]:
            yield "I17", f"read after its time had passed: {op}"


def _left(write: Operation, evidence: Evidence, later: Operation) -> int:
    """Of the replicas that had a write, those whose copy was not destroyed before another one."""
    if write.document_id in evidence.atlas.lost:
        return 0
    if (write.answered_s or inf) <= evidence.level_s <= later.invoked_s:
        return evidence.bounds.copies
    destroyed = evidence.atlas.destroyed_since(write.document_id or b"", write.invoked_s)
    return write.counted - destroyed


def _guesses(
    document_id: bytes, operations: list[Operation], evidence: Evidence
) -> Iterator[tuple[str, str]]:
    copies = evidence.bounds.copies
    for op in operations:
        if isinstance(op.answer, DocumentNotFound):
            if op.answer.acked < max(op.quorums.read, copies // 2 + 1):
                yield "I2", f"too few said so: {op}"
            assert op.answered_s is not None
            holders = evidence.holders_during(document_id, op.invoked_s, op.answered_s)
            holders = [one for one in holders if evidence.bounds.together(one, op.via)]
            if len(holders) + op.heard(op.answer.acked) > copies:
                yield "I2", f"{holders} had it: {op}"


def _resurrections(
    document_id: bytes, operations: list[Operation], evidence: Evidence
) -> Iterator[tuple[str, str]]:
    gone_s = evidence.gone_s.get(document_id)
    for op in operations:
        if not isinstance(op.answer, Found) or gone_s is None or op.invoked_s <= gone_s:
            continue
        purged_s = evidence.purged_s.get(document_id, gone_s)
        anew = created_after(op.answer.create, purged_s, evidence.bounds)
        if not (anew or evidence.is_misled(op.via, op.invoked_s)):
            yield "I4", f"back after it was purged: {op}"


def _deletes(
    deletes: list[Operation], creates: list[Operation], found: list[Operation], evidence: Evidence
) -> Iterator[tuple[str, str]]:
    copies = evidence.bounds.copies
    for delete in deletes:
        if not delete.acknowledged:
            continue
        purged_s = evidence.purged_s.get(delete.document_id or b"", inf)
        for op in _that_meet(found, delete, evidence):
            assert isinstance(op.answer, Found)
            if created_after(op.answer.create, purged_s, evidence.bounds):
                continue  # by a create that nobody heard of: another life of the key
            left = _left(delete, evidence, op)
            strict = not op.quorums.sloppy and left + op.heard(op.answer.fetched.answered) > copies
            if strict and _after(op, delete):
                yield "I3", f"still there: {op}, after {delete}"
        for op in _that_meet(creates, delete, evidence):
            left = _left(delete, evidence, op)
            if op.acknowledged and _after(op, delete) and left + op.counted > copies:
                yield "I10", f"created again: {op}, after {delete}"


def _bodies(
    creates: list[Operation], found: list[Operation], evidence: Evidence
) -> Iterator[tuple[str, str]]:
    if not creates:
        return
    destroyed = evidence.atlas.destroyed_since(creates[0].document_id or b"", 0)
    bounds = evidence.bounds
    everywhere = all(op.quorums.each_region for op in creates)
    apart = not everywhere and not bounds.together(*(op.via for op in creates))
    if apart or not _strong(creates, bounds.copies, destroyed):
        return
    acknowledged = [op for op in creates if op.acknowledged]
    contents = {op.content for op in acknowledged}
    if len(contents) > 1:
        yield "I9", f"several bodies: {'; '.join(map(str, acknowledged))}"
    for op in found:
        assert isinstance(op.answer, Found)
        contents.add(op.answer.create.content.decode())
        if len(contents) > 1:
            yield "I8", f"another body: {op}"
            return


def _strong(creates: Iterable[Operation], copies: int, destroyed: int) -> bool:
    """Whether one body is promised: there is no key, or all W under it are a majority."""
    return all(op.key is None or op.quorums.write - destroyed > copies // 2 for op in creates)


def _in_time(operation: Operation, bounds: Bounds) -> Iterator[Violation]:
    if operation.disturbed or isinstance(operation.answer, Refused):
        return
    answered_s = operation.answered_s
    late = answered_s is None or answered_s > operation.deadline_s + bounds.late_s
    if late or isinstance(operation.answer, NoAnswer):
        yield Violation("I27", f"not in time: {operation}", operation.document_id)


def _refusals_without_effect(
    origins: dict[str, list[Operation]], history: list[Operation], evidence: Evidence
) -> Iterator[Violation]:
    for content, creates in origins.items():
        stored_as = evidence.contents.get(content.encode())
        if stored_as is not None and not any(_may_store(op, evidence) for op in creates):
            refused = "; ".join(map(str, creates))
            yield Violation("I12", f"refused and stored: {refused}", stored_as)
    deletes = [op for op in history if op.kind is Kind.DELETE]
    effective = {op.document_id for op in deletes if not op.refused}
    for op in deletes:
        if op.document_id in evidence.deleted and op.document_id not in effective:
            yield Violation("I12", f"refused and deleted: {op}", op.document_id)


def _may_store(create: Operation, evidence: Evidence) -> bool:
    """Whether a create's content may be on a disk after its answer.

    One that a delete overtakes is stored, perhaps read, and then answered with KeyDeleted. In the
    weak mode, and in another region, a body is stored before anybody knows of another one.
    """
    bounds = evidence.bounds
    weak = create.quorums.write <= bounds.copies // 2 or not bounds.together(*bounds.region_of)
    return (
        not create.refused
        or isinstance(create.answer, KeyDeleted)
        or (isinstance(create.answer, KeyReused) and weak)
    )


def _that_meet(
    operations: Iterable[Operation], other: Operation, evidence: Evidence
) -> list[Operation]:
    """Those whose quorums meet another one's in some region."""
    asked = _regions_of(other, evidence)
    return [op for op in operations if not asked.isdisjoint(_regions_of(op, evidence))]


def _regions_of(operation: Operation, evidence: Evidence) -> set[str | None]:
    """The regions of whose owners a quorum was asked for."""
    region_of, own = evidence.bounds.region_of, evidence.bounds.region_of.get(operation.via)
    if not operation.quorums.each_region:
        return {own}
    away = evidence.away_between(operation.invoked_s, operation.answered_s or inf)
    return {own, *region_of.values()}.difference(away)


def _origins(history: list[Operation]) -> dict[str, list[Operation]]:
    origins: dict[str, list[Operation]] = {}
    for op in history:
        if op.content is not None:
            origins.setdefault(op.content, []).append(op)
    return origins


def _after(later: Operation, earlier: Operation) -> bool:
    """Whether ``later`` was invoked when ``earlier`` was over."""
    return earlier.answered_s is not None and later.invoked_s >= earlier.answered_s
