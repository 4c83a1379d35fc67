"""What a judge has to know of a run besides what its clients heard, and how it says what is wrong.

The simulation sees every commit of every disk; a run of real processes sees what it did to them,
and their disks when all is over. Each says what it knows.
"""

from collections.abc import Mapping, Sequence
from math import inf
from typing import Protocol

import msgspec

from cluster.ids import DocumentId
from kvnode.record import Create


class Violation(AssertionError):
    """An invariant does not hold.

    Args:
        document_id: The document it does not hold for.
        at_s: When that was seen, if it was at once.
    """

    def __init__(
        self,
        invariant: str,
        what: str,
        document_id: bytes | None = None,
        at_s: float | None = None,
    ) -> None:
        super().__init__(f"{invariant}: {what}")
        self.invariant = invariant
        self.document_id = document_id
        self.at_s = at_s


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """What a run promises of itself."""

    copies: int
    #: Of any wall clock that a node reads.
    clock_error_s: float
    #: Beyond its deadline, until a client hears an answer.
    late_s: float
    #: The wall time at which the times of a history are zero.
    start_ms: int
    #: What was created so much later under the same key may be another life of it: the document can
    #: have been purged meanwhile, for all that a session knows.
    life_s: float = inf
    #: Of every machine, where there are several regions: quorums are of one.
    region_of: Mapping[str, str] = {}

    def together(self, *machines: str) -> bool:
        """Whether machines are in one region."""
        return len({self.region_of.get(machine) for machine in machines}) <= 1


class Damage(Protocol):
    """Which copies faults have destroyed."""

    @property
    def lost(self) -> Mapping[bytes, None]:
        """Documents whose last copy it was: nothing is promised of them any more."""

    def destroyed_since(self, document_id: bytes, start_s: float) -> int:
        """How many copies of a document were destroyed since a time."""


class Evidence(Protocol):
    """What is known of a run."""

    @property
    def bounds(self) -> Bounds:
        """What the run promises of itself."""

    @property
    def atlas(self) -> Damage:
        """What faults have destroyed."""

    @property
    def purged_s(self) -> Mapping[bytes, float]:
        """From when on a deleted document may be off the disks."""

    @property
    def gone_s(self) -> Mapping[bytes, float]:
        """From when on a deleted document is surely not read again."""

    @property
    def level_s(self) -> float:
        """From then on all that was written before is on all disks that it belongs to."""

    @property
    def expires_ms(self) -> Mapping[bytes, int]:
        """When documents with a time to live end."""

    @property
    def contents(self) -> Mapping[bytes, DocumentId]:
        """What is known to have been on a disk."""

    @property
    def deleted(self) -> Mapping[DocumentId, None]:
        """Documents known to have had a tombstone on a disk."""

    def is_misled(self, machine: str, at_s: float) -> bool:
        """Whether others had given up a machine's region, and it may not have known."""

    def away_between(self, start_s: float, end_s: float) -> Sequence[str]:
        """The regions given up then: a quorum in each region may be one without them."""

    def holders_during(self, document_id: bytes, start_s: float, end_s: float) -> list[str]:
        """The replicas known to have had a document on disk all the time."""


def created_after(create: Create | None, purged_s: float, bounds: Bounds) -> bool:
    """A key is free again once its document was purged, also for a create that was stuck."""
    return (
        create is not None
        and create.created_at_ms > bounds.start_ms + (purged_s - bounds.clock_error_s) * 1000
    )


def expired_s(document_id: bytes | None, evidence: Evidence) -> tuple[float, float]:
    """The true times at which the first and the last clock says that a document has expired."""
    expires_ms = evidence.expires_ms.get(document_id or b"")
    if expires_ms is None:
        return inf, inf
    bounds = evidence.bounds
    expires_s = (expires_ms - bounds.start_ms) / 1000
    return expires_s - bounds.clock_error_s, expires_s + bounds.clock_error_s
