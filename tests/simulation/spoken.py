"""What operators have said of regions, as the disks know it; for ``invariants``.

Rules
-----
1. From the first disk that has heard that a region is gone, its nodes count as away: others may
   purge without them, and what only they had is lost.
2. A disk whose own region's word rises is fenced in the same batch.
"""

from collections.abc import Mapping

from cluster.ids import NodeId
from cluster.layout import Rings
from kvnode.floors import decode_floor
from kvnode.standing import is_gone
from kvnode.storage.commit import Changes
from kvnode.storage.keys import floor_key, region_of_standing, standing_key
from tests.simulation.atlas import Atlas
from tests.simulation.disk import SimDisk


class Spoken:
    """Of one cluster."""

    def __init__(self, rings: Rings, atlas: Atlas, disks: Mapping[str, SimDisk]) -> None:
        self._rings = rings
        self._atlas = atlas
        self._disks = disks
        #: By region, the latest word that any disk has heard.
        self._latest: dict[str, int] = {}

    def heard(self, machine: str, key: bytes, value: bytes, changes: Changes) -> str | None:
        """A disk is about to hear a word; what is wrong with that."""
        region, word = region_of_standing(key), int.from_bytes(value, "big")
        if word > self._latest.get(region, 0):
            self._latest[region] = word
            if is_gone(word):
                self._atlas.go_away(self._rings.nodes_of(region))
        node = NodeId(machine)
        before = self._disks[machine].values.get(key, b"")
        if int.from_bytes(before, "big") >= word:
            return f"{machine} forgets that {region} is at {int.from_bytes(before, 'big')}"
        if self._rings.region_of[node] != region:
            return None
        believed = [
            partition
            for partition in self._rings.partitions_of(node)
            if not (floor := changes.get(floor_key(partition)) or self._floor(machine, partition))
            or not decode_floor(floor).fenced
        ]
        return f"{machine} hears of its own region and believes {believed}" if believed else None

    def is_away(self, machine: str) -> bool:
        """Whether a machine's region is gone, as far as any disk knows."""
        return is_gone(self._latest.get(self._rings.region_of[NodeId(machine)], 0))

    def unaware(self) -> dict[str, list[str]]:
        """By region that is gone, the disks of other ones that have not heard it.

        Without those that are absent: they are fenced when they return.
        """
        return {
            region: unaware
            for region, word in self._latest.items()
            if is_gone(word) and (unaware := self._unaware(region, word))
        }

    def _unaware(self, region: str, word: int) -> list[str]:
        return [
            name
            for name, disk in self._disks.items()
            if self._rings.region_of[NodeId(name)] != region
            and not self._atlas.was_ever_away(name)
            and int.from_bytes(disk.values.get(standing_key(region), b""), "big") < word
        ]

    def _floor(self, machine: str, partition: int) -> bytes | None:
        return self._disks[machine].values.get(floor_key(partition))
