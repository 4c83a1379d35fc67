"""Whose database this is. Checked at every start, so that a disk in the wrong place is noticed.

The boot counter goes up, durably, before a node says anything to its peers; it is the node's
incarnation in membership. Every boot has an id of its own as well, and its disk knows them all
(``kvnode.boots``).
"""

from collections.abc import Callable
from typing import Final

import msgpack
import msgspec

from kvnode.errors import CannotStart
from kvnode.ports import Engine
from kvnode.storage.keys import IDENTITY_KEY, REPLACED_KEY, own_boot_key

FORMAT_VERSION: Final = 4


class Identity(msgspec.Struct, frozen=True):
    """What ``init`` writes and every start reads."""

    cluster_id: str
    node: str
    partitions: int
    boot_counter: int = 0

    def encode(self) -> bytes:
        """Msgpack: [format version, cluster id, node, partitions, boot counter]."""
        fields = [FORMAT_VERSION, self.cluster_id, self.node, self.partitions, self.boot_counter]
        return bytes(msgpack.packb(fields))


class Replaced(msgspec.Struct, frozen=True):
    """Why a database is new though its node is not: it took the place of a damaged one.

    What it lacks was not deleted, so a node that finds this vouches for no absence before it has
    been rebuilt from its peers.
    """

    at_ms: int
    #: What was wrong, for people.
    reason: str
    #: Name of the directory, within the node's, that has the damaged files.
    aside: str

    def encode(self) -> bytes:
        """Msgpack: [at_ms, reason, aside]; the value of ``keys.REPLACED_KEY``."""
        return bytes(msgpack.packb([self.at_ms, self.reason, self.aside]))


def decode_replaced(encoded: bytes) -> Replaced:
    """The inverse of ``Replaced.encode``."""
    return Replaced(*msgspec.convert(msgpack.unpackb(encoded), tuple[int, str, str]))


def decode_identity(encoded: bytes | None) -> Identity:
    """The stored identity. Raises CannotStart when it is missing or unreadable."""
    if encoded is None:
        msg = "the database has no identity: it was not made by 'python -m kvnode.storage'"
        raise CannotStart(msg)
    try:
        version, *fields = msgpack.unpackb(encoded)
        if version == FORMAT_VERSION:
            return Identity(*msgspec.convert(fields, tuple[str, str, int, int]))
    except (ValueError, TypeError) as error:
        msg = f"the database's identity is unreadable: {error}"
        raise CannotStart(msg) from error
    msg = f"the database has format version {version}, this build reads {FORMAT_VERSION}"
    raise CannotStart(msg)


def boot(engine: Engine, expected: Identity, boot_id: bytes, done: Callable[[], None]) -> Identity:
    """Check the database against what the cluster file says, and count this boot.

    ``done`` is called when the count is durable; nothing may be served before.

    Raises:
        CannotStart: the database belongs to another cluster or node.
    """
    stored = decode_identity(engine.get(IDENTITY_KEY))
    for name in ("cluster_id", "node", "partitions"):
        found, wanted = getattr(stored, name), getattr(expected, name)
        if found != wanted:
            what = name.replace("_", " ")
            msg = f"the database has {what} {found!r}, the cluster file says {wanted!r}"
            raise CannotStart(msg)
    booted = msgspec.structs.replace(stored, boot_counter=stored.boot_counter + 1)
    _put(engine, booted, boot_id)
    engine.barrier(done)
    return booted


def take_replaced(engine: Engine) -> Replaced | None:
    """Whether the database is a replacement; the row goes with the batch that is being gathered.

    Whoever takes it must put in the same batch that nothing here is to be believed yet.
    """
    encoded = engine.get(REPLACED_KEY)
    if encoded is None:
        return None
    engine.delete(REPLACED_KEY)
    return decode_replaced(encoded)


def raise_boot_count(engine: Engine, identity: Identity, boot_id: bytes, count: int) -> None:
    """Store a higher count: peers remember a boot that this database does not know."""
    _put(engine, msgspec.structs.replace(identity, boot_counter=count), boot_id)


def _put(engine: Engine, identity: Identity, boot_id: bytes) -> None:
    engine.put(IDENTITY_KEY, identity.encode())
    engine.put(own_boot_key(identity.boot_counter, boot_id), b"")
