"""All scenarios, in the order in which they are played."""

import inspect
from collections.abc import Callable
from typing import Final, NamedTuple

from scripts.scenarios import disks, endings, missed
from scripts.scenarios.stage import Stage


class Scenario(NamedTuple):
    """One function on a stage."""

    play: Callable[[Stage], None]

    @property
    def name(self) -> str:
        """As it is typed."""
        return self.play.__name__.replace("_", "-")

    @property
    def description(self) -> str:
        """What is done and what must be seen; the first line says the first."""
        return inspect.getdoc(self.play) or ""

    @property
    def title(self) -> str:
        """What is done."""
        return self.description.partition("\n")[0]


SCENARIOS: Final = tuple(
    Scenario(play)
    for play in (
        missed.hints_delivered,
        missed.hints_over_cap,
        missed.delete_before_create,
        disks.directory_deleted,
        disks.old_copy,
        disks.away_too_long,
        endings.ttl_while_down,
        endings.purge_verified,
        endings.space_given_back,
    )
)
