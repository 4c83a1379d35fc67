"""Safeguards taken out of the production code one by one, and what must fail then."""

from collections.abc import Callable
from typing import Final, NamedTuple

import pytest

from kvnode.errors import StoreError
from kvnode.services.antientropy import AntiEntropy
from kvnode.services.loop import Work
from tests.simulation.histories import random_history, random_lifetimes, random_sessions

Patch = Callable[[pytest.MonkeyPatch], None]

#: Histories to try after the one that caught it when this was written.
_SEEDS: Final = range(16)


class Ablation(NamedTuple):
    """A safeguard taken out."""

    patch: Patch
    #: What the failure says (a regular expression).
    caught_as: str
    #: What must fail.
    check: Callable[[], object]

    @property
    def failures(self) -> tuple[type[BaseException], ...]:
        """How: what was broken besides stands in the notes of what shows first."""
        return AssertionError, pytest.fail.Exception, StoreError

    def must_be_caught(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """And for the right reason."""
        self.patch(monkeypatch)
        with pytest.raises(self.failures, match=self.caught_as):
            self.check()


class Ablations(list[Ablation]):
    """Those of one theme."""

    def add(self, caught_as: str, check: Callable[[], object]) -> Callable[[Patch], Patch]:
        """Register the removal of a safeguard."""

        def register(patch: Patch) -> Patch:
            self.append(Ablation(patch, caught_as, check))
            return patch

        return register

    def each(self) -> pytest.MarkDecorator:
        """Run a test with each of them, as ``ablated``."""
        return pytest.mark.parametrize("ablated", self, ids=lambda one: one.patch.__name__)


def histories(seed: int) -> Callable[[], None]:
    """Check random histories, this seed's first."""

    def check() -> None:
        for each in (seed, *_SEEDS):
            random_history(each)

    return check


def lifetimes(seed: int) -> Callable[[], None]:
    """Check random lifetimes, this seed's first."""

    def check() -> None:
        for each in (seed, *_SEEDS):
            random_lifetimes(each)

    return check


def sessions(seed: int) -> Callable[[], None]:
    """Check random sessions, this seed's first."""

    def check() -> None:
        for each in (seed, *_SEEDS):
            random_sessions(each)

    return check


def without_comparing(patch: pytest.MonkeyPatch) -> None:
    """Anti-entropy, which would mend what the lack of a safeguard breaks, is idle."""

    async def idle(self: AntiEntropy) -> Work:
        return Work.IDLE

    patch.setattr(AntiEntropy, "run_once", idle)


def first_failing(test: Callable[[int], None], seeds: int = 6) -> Callable[[], None]:
    """A test, over some seeds: what a race decides is not lost in each of them."""

    def check() -> None:
        for seed in range(seeds):
            test(seed)

    return check
