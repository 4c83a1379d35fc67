"""What a run comes to: counts, one line, and the story of what went wrong."""

from collections import Counter
from collections.abc import Sequence
from math import floor
from typing import Final

import msgspec

from kvnode.errors import StoreError
from scripts.checker.evidence import Violation
from scripts.checker.history import Kind, NoAnswer, Operation, Refused

#: By invariant, what clients would call it.
_SORTS: Final = {
    "I1": "lost",
    "I3": "resurrected",
    "I4": "resurrected",
    "I10": "resurrected",
    "I17": "resurrected",
    "I9": "duplicated",
    "I8": "wrong bytes",
    "I11": "wrong bytes",
}
SORTS: Final = ("lost", "resurrected", "duplicated", "wrong bytes", "otherwise wrong")


class Verdict(msgspec.Struct, frozen=True):
    """Counts; documents for what is wrong, operations otherwise."""

    operations: int
    acknowledged: int
    wrong: dict[str, int]
    unknown: int
    unavailable_s: int
    #: Documents that would be wrong, if strikes had not destroyed the only copies that clients
    #: were told of.
    excused: int

    @property
    def passed(self) -> bool:
        """Nothing was wrong."""
        return not any(self.wrong.values())

    def __str__(self) -> str:
        wrong = ", ".join(f"{count} {sort}" for sort, count in self.wrong.items())
        return (
            f"{'PASSED' if self.passed else 'FAILED'}: {self.operations:,} operations, "
            f"{self.acknowledged:,} acknowledged: {wrong}; {self.unknown} unknown outcomes, "
            f"{self.unavailable_s} s unavailable, {self.excused} excused"
        )


def pronounce(
    history: Sequence[Operation], violations: Sequence[Violation], excused: int
) -> Verdict:
    """Count. A document that is wrong in several ways of one sort counts once."""
    found: Counter[str] = Counter()
    for sort, _ in dict.fromkeys(
        (_sort(one), one.document_id or str(one).encode()) for one in violations
    ):
        found[sort] += 1
    return Verdict(
        operations=len(history),
        acknowledged=sum(operation.acknowledged for operation in history),
        wrong={sort: found[sort] for sort in SORTS},
        unknown=sum(map(_is_unknown, history)),
        unavailable_s=len(unavailable(history)),
        excused=excused,
    )


def unavailable(history: Sequence[Operation]) -> list[int]:
    """Seconds of the run in which clients asked and nobody got what it asked for.

    A definite answer, as that there is no such document, counts as got.
    """
    asked: dict[int, None] = {}
    served: dict[int, None] = {}
    for operation in history:
        asked[floor(operation.invoked_s)] = None
        if operation.answered_s is not None and is_definite(operation):
            served[floor(operation.answered_s)] = None
    return [second for second in asked if second not in served]


def is_definite(operation: Operation) -> bool:
    """Whether the answer is one that a client can rest on."""
    answer = operation.answer
    if isinstance(answer, StoreError):
        return not answer.retryable and answer.code != "corrupt-record"
    return operation.acknowledged


def _is_unknown(operation: Operation) -> bool:
    if operation.kind is Kind.READ or operation.acknowledged:
        return False
    answer = operation.answer
    if isinstance(answer, StoreError):
        return answer.outcome == "unknown"
    return answer is None or (isinstance(answer, NoAnswer) and not isinstance(answer, Refused))


def _sort(violation: Violation) -> str:
    return _SORTS.get(violation.invariant, SORTS[-1])
