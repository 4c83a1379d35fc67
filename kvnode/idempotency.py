"""What a second create under an idempotency key meets."""

from kvnode.errors import KeyDeleted, KeyReused
from kvnode.record import Create, Record, Status


def first_create(held: Record, fingerprint: bytes, now_ms: int) -> Create:
    """What the key's document was created as, if it lives and came from the same body.

    The tombstone is looked at first: a replica that knows only it must give the same answer as one
    that knows the create too.

    Raises:
        KeyDeleted: it was deleted, or has expired.
        KeyReused: it came from another body.
    """
    if held.create is None or held.tombstone is not None:
        raise KeyDeleted("the key's document was deleted")
    if held.create.fingerprint != fingerprint:
        raise KeyReused("the key's document has another body")
    if held.status(now_ms) is not Status.ACTIVE:
        raise KeyDeleted("the key's document has expired")
    return held.create
