"""What operators have said of regions: words only grow, so their order is nothing."""

from typing import Final

from hypothesis import given
from hypothesis import strategies as st

from kvnode.standing import Standing
from kvnode.storage.memory import MemoryDisk, MemoryEngine
from tests.support.handcranked import HandCrankedLoop

REGIONS: Final = ("b", "c")
words = st.dictionaries(st.sampled_from(("a", *REGIONS)), st.integers(1, 9))


def _disk_failed(error: BaseException) -> None:
    raise AssertionError("a disk in memory does not fail") from error


def _standing(disk: MemoryDisk) -> tuple[Standing, HandCrankedLoop]:
    loop = HandCrankedLoop()
    standing = Standing(MemoryEngine(disk, loop.as_loop, failed=_disk_failed), "a", REGIONS)
    standing.restore()
    return standing, loop


def _after(*heard: dict[str, int]) -> dict[str, int]:
    standing, _ = _standing(MemoryDisk())
    for one in heard:
        standing.take(one)
    return standing.words


@given(st.lists(words, max_size=6), st.randoms(use_true_random=False))
def test_words_end_the_same_in_whatever_order_and_however_often_they_come(
    heard: list[dict[str, int]], chance: object
) -> None:
    """Commutative, associative and idempotent: two nodes that heard the same know the same."""
    shuffled = list(heard) + heard[:2]
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    assert _after(*heard) == _after(*shuffled) == _after(_after(*heard), *heard)


@given(words, words)
def test_a_word_never_falls_and_says_which_regions_rose(
    first: dict[str, int], second: dict[str, int]
) -> None:
    """Monotone; what follows from a word follows once."""
    standing, _ = _standing(MemoryDisk())
    standing.take(first)
    before, changes = dict(standing.words), standing.changes
    risen = standing.take(second)
    assert all(standing.word(region) >= word for region, word in before.items())
    assert risen == [one for one in second if standing.word(one) != before.get(one, 0)]
    assert standing.changes == changes + bool(risen)
    assert standing.take(second) == []


@given(words)
def test_words_are_known_after_a_restart_once_they_are_durable(heard: dict[str, int]) -> None:
    """And not before: nobody was told to rely on them."""
    disk = MemoryDisk()
    standing, loop = _standing(disk)
    standing.take(heard)
    assert _standing(disk)[0].words == {}
    loop.run_all()
    again, _ = _standing(disk)
    assert again.words == heard
    assert (again.gone, again.others) == (standing.gone, standing.others)


@given(words)
def test_a_region_takes_part_while_its_word_is_even(heard: dict[str, int]) -> None:
    """0, of which nobody has spoken, is even."""
    standing, _ = _standing(MemoryDisk())
    standing.take(heard)
    odd = [region for region in ("a", *REGIONS) if heard.get(region, 0) % 2]
    assert standing.gone == odd
    assert standing.others == [region for region in REGIONS if region not in odd]
    assert standing.is_own_gone == ("a" in odd)
