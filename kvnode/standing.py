"""What operators have said of regions: that one is gone for good, or that it is back.

Rules
-----
1. A region's *word* is a number that only grows: while it is even the region takes part, while it
   is odd it is gone; 0 is that of a region nobody has spoken of. Of two words the larger counts. So
   words may be late, lost, doubled and reordered, and of two operators none undoes by chance what
   the other one has said since.
2. A word is put in the stretch in which it is heard, in one batch with what follows from it here
   (``kvnode.partings``).
"""

from collections.abc import Mapping, Sequence
from typing import Final

from kvnode.ports import Engine
from kvnode.storage.keys import STANDING_PREFIX, region_of_standing, standing_key
from kvnode.storage.ranges import all_with

#: No operator has spoken this often.
WORD_MAX: Final = (1 << 32) - 1
_WORD_BYTES: Final = 8


def is_gone(word: int) -> bool:
    """Rule 1."""
    return word % 2 == 1


class Standing:
    """As one node knows it.

    Args:
        own: The node's region.
        others: All other ones.
    """

    def __init__(self, engine: Engine, own: str, others: Sequence[str]) -> None:
        self._engine = engine
        self._others = tuple(others)
        self.own = own
        #: Of the regions that were spoken of.
        self.words: dict[str, int] = {}
        #: How often a word rose since this process began.
        self.changes = 0

    def word(self, region: str) -> int:
        """The word of a region."""
        return self.words.get(region, 0)

    def is_gone(self, region: str) -> bool:
        """Whether a region is gone."""
        return is_gone(self.word(region))

    @property
    def is_own_gone(self) -> bool:
        """Whether this node's region is."""
        return self.is_gone(self.own)

    @property
    def others(self) -> list[str]:
        """The other regions that take part, in the cluster file's order."""
        return [region for region in self._others if not self.is_gone(region)]

    @property
    def gone(self) -> list[str]:
        """The regions that are gone, in the cluster file's order, this node's in front."""
        return [region for region in (self.own, *self._others) if self.is_gone(region)]

    def take(self, words: Mapping[str, int]) -> list[str]:
        """Join what was heard; the regions whose word rose."""
        risen = [region for region, word in words.items() if word > self.word(region)]
        for region in risen:
            self.words[region] = words[region]
            self._engine.put(standing_key(region), words[region].to_bytes(_WORD_BYTES, "big"))
        self.changes += bool(risen)
        return risen

    def restore(self) -> None:
        """Take up what is in the database; once, at start."""
        for key, value in all_with(self._engine, STANDING_PREFIX):
            region = region_of_standing(key)
            if region == self.own or region in self._others:
                self.words[region] = int.from_bytes(value, "big")
