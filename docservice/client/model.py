"""Documents, as the client gives them."""

from datetime import datetime
from typing import Literal

import msgspec

#: How many replicas a request asks for; see the server's documentation.
Consistency = Literal["one", "two", "quorum", "all", "local_quorum", "each_quorum"]


class How(msgspec.Struct, frozen=True):
    """What a request asks of the cluster; None leaves it as the cluster is set."""

    consistency: Consistency | None = None
    #: Whether a stand-in for a replica that is down counts.
    sloppy: bool | None = None


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """A document that was read."""

    id: str
    content: str
    created_at: datetime
    #: When it deletes itself; None: never.
    delete_at: datetime | None
    #: SHA-256 of the content's bytes in UTF-8, hexadecimal.
    checksum: str


class CreatedDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A document that was created."""

    id: str
    created_at: datetime
    delete_at: datetime | None
    checksum: str
    #: An earlier request with the same key had created it.
    replayed: bool = False


class NewDocument(msgspec.Struct, frozen=True):
    """A document to create, with more than its content."""

    content: str
    ttl_seconds: int | None = None
    #: Names the create over retries, processes and time; None: one is made up.
    key: str | None = None
