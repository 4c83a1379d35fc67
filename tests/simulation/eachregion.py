"""Random requests at the level ``each_quorum``, beside those of clients that ask their own region.

A key of theirs is used at this level only, so that one body is promised in all regions (I9).
"""

from collections.abc import Mapping
from random import Random
from typing import Final

from cluster.ids import DocumentId
from docservice.documents import Created, Found
from kvnode.results import Stored
from scripts.checker.history import Operation
from scripts.checker.workload import How, Workload
from tests.simulation.cluster import SimCluster

_MIX: Final = {"create": 4, "strong": 2, "race": 3, "ending": 2, "read": 6, "delete": 3}
_QUORUM: Final = 2


class EachRegion(Workload):
    """One client, for a request takes the longest way there is."""

    clients = 1

    def __init__(self, cluster: SimCluster, chance: Random) -> None:
        super().__init__(_Everywhere(cluster), chance, _MIX)

    async def _create_keyed(self, via: str, body: str, key: str, write: int, how: How) -> None:
        await super()._create_keyed(via, f"{body} everywhere", f"{key} everywhere", write, how)

    def _content(self, number: int) -> str:
        return f"document {number} everywhere"


class _Everywhere:
    """A cluster that is asked for a quorum in each region, whatever level its clients name."""

    def __init__(self, cluster: SimCluster) -> None:
        self._cluster = cluster

    @property
    def machines(self) -> Mapping[str, object]:
        return self._cluster.machines

    @property
    def history(self) -> list[Operation]:
        return self._cluster.history

    def now_s(self) -> float:
        return self._cluster.now_s()

    def id_of_key(self, key: str) -> DocumentId:
        return self._cluster.id_of_key(key)

    async def create(
        self,
        via: str,
        content: str,
        *,
        key: str | None = None,
        ttl_s: int | None = None,
        write: int = 1,
        sloppy: bool = True,
        timeout_s: float = 2.0,
    ) -> Created:
        del write, sloppy
        return await self._cluster.create(
            via,
            content,
            key=key,
            ttl_s=ttl_s,
            write=_QUORUM,
            sloppy=False,
            each_region=True,
            timeout_s=timeout_s,
        )

    async def read(
        self,
        via: str,
        document_id: DocumentId,
        *,
        read: int = 1,
        sloppy: bool = True,
        timeout_s: float = 2.0,
    ) -> Found:
        del read, sloppy
        return await self._cluster.read(
            via, document_id, read=_QUORUM, sloppy=False, each_region=True, timeout_s=timeout_s
        )

    async def delete(
        self,
        via: str,
        document_id: DocumentId,
        *,
        write: int = 1,
        sloppy: bool = True,
        timeout_s: float = 2.0,
    ) -> Stored:
        del write, sloppy
        return await self._cluster.delete(
            via, document_id, write=_QUORUM, sloppy=False, each_region=True, timeout_s=timeout_s
        )
