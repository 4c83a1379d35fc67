"""The one port through which the document service reaches records.

Two adapters: ``kvnode.coordinator.Coordinator`` inside a node, and ``kvnode.client.ClusterClient``
in a separate document service. Another distributed engine would be a third.
"""

from collections.abc import Awaitable
from typing import Protocol

from kvnode.record import Record, Sighting
from kvnode.results import Fetched, Stored


class DocumentStore(Protocol):
    """Records by id, with a quorum per call.

    With ``each_region`` the quorum is one of owners in each region, not only in this one; the
    counts of the answer are then sums over the regions.

    Deadlines are readings of ``Clock.monotonic_s`` and are passed on, never restarted. Every
    method may raise Unavailable, Overloaded or DiskLow (nothing was written), and each names
    what else it raises.
    """

    def mint_partition(self) -> int | None:
        """A partition that this process can write without a network hop; None: any will do."""

    def create(
        self,
        document_id: bytes,
        record: Record,
        *,
        keyed: bool,
        write_quorum: int,
        sloppy: bool,
        deadline_s: float,
        each_region: bool = False,
    ) -> Awaitable[Stored]:
        """Store ``record`` on ``write_quorum`` distinct nodes, durably.

        With ``keyed``, one local read comes first: a record that is there already is stored
        again in place of ``record`` (if it came from the same body) so that a retry ends on W
        replicas. ``Stored.record`` is the join of what the answering replicas hold.

        An adapter that can start at once does so and returns a future, so that a caller can have
        many creates under way without a task each.

        Raises (here, or by the answer):
            KeyReused: the key's document has another body (only with ``keyed``).
            KeyDeleted: the key's document is deleted or expired (only with ``keyed``).
            WriteTimeout: fewer than W replicas acknowledged in time; the outcome is unknown.
        """

    async def read(
        self,
        document_id: bytes,
        *,
        read_quorum: int,
        sloppy: bool,
        deadline_s: float,
        seen: Sighting | None = None,
        each_region: bool = False,
    ) -> Fetched:
        """The join of at least ``read_quorum`` replicas' answers.

        ``Fetched.record`` is None only when a majority of the owners say that they have nothing.
        With ``seen``, what does not show it is returned only when it is the word of all owners.

        Raises:
            ReadTimeout: too few replicas answered in time.
        """

    async def delete(
        self,
        document_id: bytes,
        record: Record,
        *,
        write_quorum: int,
        sloppy: bool,
        deadline_s: float,
        each_region: bool = False,
    ) -> Stored:
        """Store a record that has only a tombstone. No read first.

        Raises:
            WriteTimeout: fewer than W replicas acknowledged in time; the outcome is unknown.
        """
