"""What operators have said of regions, as the disks know it; for ``invariants``.

Rules
-----
1. From the first disk that has heard that a region is gone, its nodes count as away: others may
   purge without them, and what only they had is lost.
2. A disk whose own region's word rises is fenced in the same batch.
3. A machine may show what others have purged as long as it has not heard the latest word of its
   own region; no longer.
4. A quorum in each region may be without one from the moment at which an operator says that it is
   gone until the disks of all other regions have it that it is back.
"""

from collections.abc import Callable, Mapping
from math import inf

from cluster.ids import NodeId
from cluster.layout import Rings
from kvnode.floors import decode_floor
from kvnode.standing import is_gone
from kvnode.storage.commit import Changes
from kvnode.storage.keys import floor_key, region_of_standing, standing_key
from tests.simulation.atlas import Atlas
from tests.simulation.disk import SimDisk


class Spoken:
    """Of one cluster.

    Args:
        region_of: Of every machine, also of those without a disk.
    """

    def __init__(
        self,
        rings: Rings,
        region_of: Mapping[str, str],
        atlas: Atlas,
        disks: Mapping[str, SimDisk],
        true_s: Callable[[], float],
    ) -> None:
        self._rings = rings
        self._region_of = region_of
        self._atlas = atlas
        self._disks = disks
        self._true_s = true_s
        #: By region, the latest word that any disk has heard.
        self._latest: dict[str, int] = {}
        #: What was heard of a region by any disk, and by each disk of its own; since when.
        self._risen: dict[str, list[tuple[float, int]]] = {}
        #: From when until when a quorum in each region may be without one.
        self._away: list[tuple[str, float, float]] = []

    def said(self, region: str) -> None:
        """An operator has just said that a region is gone."""
        if region not in self._now_away():
            self._away.append((region, self._true_s(), inf))

    def heard(self, machine: str, key: bytes, value: bytes, changes: Changes) -> str | None:
        """A disk is about to hear a word; what is wrong with that."""
        region, word = region_of_standing(key), int.from_bytes(value, "big")
        if word > self._latest.get(region, 0):
            self._latest[region] = word
            self._risen.setdefault(region, []).append((self._true_s(), word))
            if is_gone(word):
                self._atlas.go_away(self._rings.nodes_of(region))
        node = NodeId(machine)
        before = _word(self._disks[machine].values, region)
        if before >= word:
            return f"{machine} forgets that {region} is at {before}"
        if self._rings.region_of[node] != region:
            self._take_back(region, {machine: word})
            return None
        self._risen.setdefault(machine, []).append((self._true_s(), word))
        believed = [
            partition
            for partition in self._rings.partitions_of(node)
            if not (floor := changes.get(floor_key(partition)) or self._floor(machine, partition))
            or not decode_floor(floor).fenced
        ]
        return f"{machine} hears of its own region and believes {believed}" if believed else None

    def forget(self, machine: str, values: Mapping[bytes, bytes]) -> None:
        """A disk is about to be replaced; see ``DiskWatch.forget``."""
        word = _word(values, self._region_of[machine])
        self._risen.setdefault(machine, []).append((self._true_s(), word))

    def is_misled(self, machine: str, at_s: float) -> bool:
        """Whether a machine may show what others have purged (rule 3).

        One without a disk asks all nodes of its region.
        """
        region = self._region_of[machine]
        asked = [machine] if machine in self._disks else self._rings.nodes_of(region)
        latest = self._known(region, at_s)
        return any(self._known(name, at_s) < latest for name in asked)

    def away_between(self, start_s: float, end_s: float) -> list[str]:
        """The regions that a quorum in each region may have been without (rule 4)."""
        return [region for region, s, until_s in self._away if s <= end_s and until_s >= start_s]

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
            and _word(disk.values, region) < word
        ]

    def _now_away(self) -> list[str]:
        return self.away_between(inf, inf)

    def _take_back(self, region: str, heard: Mapping[str, int]) -> None:
        """Note that all others know that a region is back, if with this word they do."""
        others = [name for name in self._disks if self._region_of[name] != region]
        words = [heard.get(name, _word(self._disks[name].values, region)) for name in others]
        if region in self._now_away() and not any(map(is_gone, words)):
            closing = next(one for one in self._away if one[0] == region and one[2] == inf)
            self._away[self._away.index(closing)] = (*closing[:2], self._true_s())

    def _known(self, whose: str, at_s: float) -> int:
        """The latest word of ``_risen``, until then."""
        return ([0] + [word for s, word in self._risen.get(whose, ()) if s <= at_s])[-1]

    def _floor(self, machine: str, partition: int) -> bytes | None:
        return self._disks[machine].values.get(floor_key(partition))


def _word(values: Mapping[bytes, bytes], region: str) -> int:
    return int.from_bytes(values.get(standing_key(region), b""), "big")
