"""Waiting until a cluster has healed: nothing is overlooked, and it ends. Time is virtual."""

import contextlib
from collections.abc import Sequence
from typing import Any, cast

import pytest

from cluster.ids import DocumentId
from scripts.chaos.arena import Arena
from scripts.chaos.healing import Look, heal
from scripts.chaos.replicas import Replicas
from tests.simulation.loop import SimLoop

WITHIN_S = 60.0


class _Cluster:
    """Two nodes; ``differing`` documents heal one second after another, hints go at 30 s."""

    nodes = ("a1", "a2")

    def __init__(self, loop: SimLoop, differing: Sequence[DocumentId], *, owed: bool) -> None:
        self._loop = loop
        self._differing = differing
        self._owed = owed

    async def differing(self, documents: Sequence[DocumentId]) -> list[DocumentId]:
        return [one for one in self._differing[int(self._loop.time()) :] if one in documents]

    async def unready(self, _: object) -> list[str]:
        return []

    async def view(self, _: str, name: str) -> dict[str, Any]:
        held = 5 if self._owed and self._loop.time() < 30 else 0
        views: dict[str, dict[str, Any]] = {
            "hints": {"targets": {"a2": {"count": held}}, "comparisons_owed": {}},
            "lifecycle": {"fenced": [], "contradicted": 0},
            "quarantine": {"asked": 0},
            "regions": {"regions": {}},
        }
        return views[name]


def _healed(count: int, differing: Sequence[int], *, owed: bool = False) -> list[Look]:
    documents = [DocumentId(number.to_bytes(16, "big")) for number in range(count)]
    with contextlib.closing(SimLoop(0)) as loop:
        cluster = _Cluster(loop, [documents[number] for number in differing], owed=owed)
        looks = heal(
            cast("Arena", cluster), cast("Replicas", cluster), documents, loop.time, WITHIN_S
        )
        return loop.run(looks)


def test_what_a_region_has_yet_to_get_is_waited_for() -> None:
    """All owners may agree on what is known of, and a deletion still be on its way."""

    class Shipping(_Cluster):
        async def view(self, node: str, name: str) -> dict[str, Any]:
            if name != "regions":
                return await super().view(node, name)
            now_s = self._loop.time()
            waiting, owed = int(now_s < 10), int(now_s < 20)
            return {"regions": {"b": {"waiting": waiting, "comparisons_owed": owed}}}

    with contextlib.closing(SimLoop(0)) as loop:
        cluster = Shipping(loop, [], owed=False)
        looks = loop.run(
            heal(cast("Arena", cluster), cast("Replicas", cluster), [], loop.time, WITHIN_S)
        )
    assert "a1 keeps 1 writes for region b" in looks[0].reasons
    assert looks[-1].reasons == []
    assert looks[-1].at_s >= 20


@pytest.mark.parametrize("only", [0, 1, 1234, 1999])
def test_one_document_among_many_is_not_overlooked(only: int) -> None:
    """A sample of them may agree; what is said in the end is said of all."""
    looks = _healed(2000, [only])
    assert looks[-1].reasons == []
    assert looks[-1].at_s >= 1.0
    assert looks[0].differing


def test_what_is_left_is_counted_down() -> None:
    """The plot shows how the cluster heals, not only that it has."""
    looks = _healed(100, range(20))
    assert [one.differing for one in looks][:3] == [20, 20, 19]
    assert looks[-1].differing == 0
    assert 20.0 <= looks[-1].at_s < 22.0


def test_what_is_owed_is_waited_for_although_all_copies_agree() -> None:
    """A hint that is still held may be of something that nobody else has."""
    looks = _healed(10, [], owed=True)
    assert looks[0].hints == 10
    assert 30.0 <= looks[-1].at_s < 32.0


def test_what_never_heals_is_said_in_the_end() -> None:
    """And not waited for without an end."""
    looks = _healed(100, range(100))
    assert WITHIN_S < looks[-1].at_s < WITHIN_S + 2.0
    assert looks[-1].reasons == [f"owners differ on {looks[-1].differing} documents"]
