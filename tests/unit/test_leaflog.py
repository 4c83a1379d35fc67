"""The leaves of the hash trees come back from disk as they were, whatever was written over."""

from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

import kvnode.leaflog
from kvnode.hashtree import LEAVES, HashForest, Span
from kvnode.leaflog import LeafLog
from kvnode.ports import Engine
from kvnode.storage.keys import CHANGES_PREFIX, LEAVES_PREFIX

_SLOTS = 4
_tails = st.sampled_from([0, 1, 4095, 4096, LEAVES - 1])
_batches = st.lists(st.dictionaries(_tails, st.integers(0, (1 << 64) - 1), min_size=1))


class Rows(dict[bytes, bytes]):
    """All that a LeafLog asks of an engine."""

    def put(self, key: bytes, value: bytes) -> None:
        """As ``Engine.put``."""
        self[key] = value

    def restored(self) -> tuple[HashForest, LeafLog]:
        """What a start makes of them."""
        forest, log = HashForest(1, 1000), LeafLog(cast("Engine", self))
        ordered = sorted(self.items())
        log.restore(
            forest,
            [value for key, value in ordered if key.startswith(LEAVES_PREFIX)],
            [value for key, value in ordered if key.startswith(CHANGES_PREFIX)],
        )
        return forest, log


@given(lives=st.lists(_batches, min_size=1, max_size=4))
def test_leaves_are_restored_after_any_batches_and_starts(
    lives: list[list[dict[int, int]]],
) -> None:
    """Slots are used again and again, also across starts; no old change may win."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kvnode.leaflog, "SLOTS", _SLOTS)
        rows, model = Rows(), dict[int, int]()
        for batches in lives:
            forest, log = rows.restored()
            for batch in batches:
                for tail, digest in batch.items():
                    forest.restore_leaf(tail, digest)
                model.update(batch)
                log.put(forest, list(batch.items()))
            assert len(rows) <= _SLOTS + 16
            found, _ = rows.restored()
            assert {tail: found.digest_of_span(Span(tail, 1)) for tail in model} == model
            assert found.total == forest.total
