"""What random histories once found stays found."""

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.simulate.case import KINDS, Case, play
from scripts.simulate.corpus import CORPUS, Entry, as_text, entries

_ENTRIES: Final = entries()


@pytest.mark.parametrize("entry", _ENTRIES.values(), ids=_ENTRIES)
def test_what_was_once_found_does_not_fail_again(entry: Entry) -> None:
    """Each broke a promise before it was mended; see its file."""
    failure = play(entry.case).failure
    assert failure is None, failure.report


def test_every_file_of_the_corpus_says_what_it_is() -> None:
    """A file that is not read would guard nothing."""
    assert [path.stem for path in sorted(CORPUS.iterdir()) if path.suffix == ".toml"] == [*_ENTRIES]
    assert _ENTRIES
    for name, entry in _ENTRIES.items():
        assert name.startswith(f"{entry.kind}-{entry.seed}")
        assert entry.kind in KINDS
        assert entry.found
        assert entry.fixed_by


@given(
    seed=st.integers(0, 10**6),
    only=st.none() | st.lists(st.sampled_from(["n0.0", "s.1"])).map(tuple),
    found=st.text(),
)
def test_a_case_can_be_kept(
    seed: int,
    only: tuple[str, ...] | None,
    found: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """What the runner prints is a file that is read as the same case."""
    directory = tmp_path_factory.mktemp("corpus")
    case = Case("lifetimes", seed, only)
    (directory / f"lifetimes-{seed}.toml").write_text(as_text(case, found), encoding="utf-8")
    (entry,) = entries(directory).values()
    assert entry.case == case
    assert entry.found == found
