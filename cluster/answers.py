"""Asking several operations listeners at once, and what becomes of those that don't answer."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Generic, TypeVar

from cluster.operations import NoAnswer
from cluster.settings import NodeSettings

TIMEOUT_S: Final = 5.0
_Answer = TypeVar("_Answer")
#: A function of ``cluster.operations``.
Ask = Callable[[NodeSettings, float], _Answer]


class Unreachable(Exception):
    """No node answers. The message is one whole sentence."""


class Answers(Generic[_Answer]):
    """What each of some nodes said, in their order.

    Raises:
        Unreachable: none of them said anything.
    """

    def __init__(self, nodes: Sequence[NodeSettings], ask: Ask[_Answer]) -> None:
        self.given: dict[str, _Answer] = {}
        #: By node, why there is none.
        self.missing: dict[str, NoAnswer] = {}
        with ThreadPoolExecutor(max_workers=len(nodes)) as pool:
            for node, found in zip(nodes, pool.map(lambda one: _try(one, ask), nodes), strict=True):
                if isinstance(found, NoAnswer):
                    self.missing[node.id] = found
                else:
                    self.given[node.id] = found
        if not self.given:
            raise unreachable(nodes)


def first_answer(nodes: Sequence[NodeSettings], ask: Ask[_Answer]) -> _Answer:
    """Of the first node that answers. Raises Unreachable."""
    for node in nodes:
        found = _try(node, ask)
        if not isinstance(found, NoAnswer):
            return found
    raise unreachable(nodes)


def unreachable(nodes: Sequence[NodeSettings]) -> Unreachable:
    """What to say when none of these answers."""
    asked = ", ".join(node.id for node in nodes)
    return Unreachable(f"no node answers (asked {asked}); `stele status` shows what runs.")


def _try(node: NodeSettings, ask: Ask[_Answer]) -> _Answer | NoAnswer:
    try:
        return ask(node, TIMEOUT_S)
    except NoAnswer as error:
        return error
