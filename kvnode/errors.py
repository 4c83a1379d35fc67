"""Every error the store raises on purpose. Broken invariants are assertions, not these.

``code`` goes over the wire and into problem pages, logs and metrics: never rename or reuse one.
``outcome`` decides retries: ``not_applied`` (nothing was written), ``unknown`` (it may have
been, or may yet be) or ``applied``. ``retryable`` says whether the unchanged request may
succeed later.
"""

from typing import ClassVar, Literal

Outcome = Literal["not_applied", "unknown", "applied"]


class StoreError(Exception):
    """Base of the family."""

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False
    outcome: ClassVar[Outcome] = "not_applied"


class CorruptRecord(StoreError):
    """Stored or received bytes fail their checksum or do not decode. Never served or merged."""

    code = "corrupt-record"


class DamagedBlock(CorruptRecord):
    """A part of the database's files can't be read; which keys are in it is not known."""


class Unavailable(StoreError):
    """Too few replicas can take part; a write that raises this left nothing behind."""

    code = "unavailable"
    retryable = True

    def __init__(self, detail: str, *, acked: int = 0, required: int = 0) -> None:
        super().__init__(detail)
        self.detail, self.acked, self.required = detail, acked, required


class NotMember(Unavailable):
    """This node coordinates no writes: it is joining or leaving its region. Others do."""

    #: As who could ask another node is told. For a person it is unavailable.
    passed_on_as: ClassVar[str] = "not-member"


class WriteTimeout(Unavailable):
    """Some replicas may hold the write, fewer than required said so in time."""

    code = "write-timeout"
    outcome = "unknown"


class ReadTimeout(Unavailable):
    """Too few replicas answered a read in time."""

    code = "read-timeout"


class Overloaded(StoreError):
    """A bounded queue is full; nothing was started."""

    code = "overloaded"
    retryable = True


class DiskLow(StoreError):
    """The disk is too full for creates; reads and deletes still work."""

    code = "disk-low"
    retryable = True


class KeyReused(StoreError):
    """The idempotency key's document exists with another body."""

    code = "key-reused"


class KeyDeleted(StoreError):
    """The idempotency key's document was created before and has been deleted or has expired."""

    code = "deleted"


class Fenced(StoreError):
    """This replica's records are not to be believed until it has been rebuilt from its peers."""

    code = "fenced"
    retryable = True


class NotOwner(StoreError):
    """This node is no owner of the document's partition: the sender knows another ring."""

    code = "not-owner"
    retryable = True


class LateCopy(StoreError):
    """A copy that may be of a purged document: it was put into quarantine, not merged."""

    code = "late-copy"


class Refused(Exception):
    """What an operator asked of this node can't be done here; the message says why."""


class Malformed(Exception):
    """What an operator sent is not what was asked for; the message says what is wrong with it."""


class CannotStart(StoreError):
    """A node refuses to run; the message is the one sentence an operator reads."""

    code = "cannot-start"


class DatabaseDamaged(CannotStart):
    """The files of a database are not what was written: it is put aside, never repaired."""
