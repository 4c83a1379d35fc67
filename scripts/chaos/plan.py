"""Which faults strike whom and when: drawn from a seed, or read from a file.

Rules
-----
1. A plan is drawn before anything runs, so a seed gives the same plan on any machine; what a plan
   does to a cluster still depends on the machine's speed.
2. Faults that pass destroy nothing, and leave a node alone for long enough in between that nobody
   takes it for gone: it is not struck for longer than HOLDS_S, and then not for REST_S.
3. Faults that destroy copies (STRIKES) come one at a time; the conductor lets the next one wait
   until the cluster has healed. So of N copies at most one is destroyed at a time.
"""

import random
import tomllib
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Final

import msgspec

#: Nothing strikes before: clients have created something by then.
CALM_S: Final = 3.0
HOLDS_S: Final = (1.0, 6.0)
REST_S: Final = 4.0
_QUIET_S: Final = (0.5, 4.0)
#: When whom it would befall has to be left alone.
_AGAIN_S: Final = 0.25
_BETWEEN_STRIKES_S: Final = (10.0, 25.0)
#: Lines of faults that pass; so at most this many are under way at once.
_LINES: Final = 2


class Kind(Enum):
    """What befalls the nodes of a fault."""

    KILL = "kill"
    RESTART = "restart"
    RESTART_ALL = "restart-all"
    PAUSE = "pause"
    ISOLATE = "isolate"
    HALVES = "halves"
    ONE_WAY = "one-way"
    FLAP = "flap"
    RESET = "reset"
    SLOW = "slow"
    CORRUPT = "corrupt"
    WIPE = "wipe"
    DAMAGE = "damage"
    AWAY = "away"
    FILL = "fill"
    CUT_REGION = "cut-region"
    KILL_REGION = "kill-region"


DESTROYING: Final = (Kind.WIPE, Kind.DAMAGE, Kind.AWAY)
#: Faults that destroy copies, or put a disk to the test.
STRIKES: Final = (*DESTROYING, Kind.FILL)
#: Faults that stop a process and start it.
PROCESSES: Final = (
    *(Kind.KILL, Kind.RESTART, Kind.RESTART_ALL, Kind.PAUSE, Kind.KILL_REGION),
    *STRIKES,
)
#: Faults of all nodes of a region; only where there are several.
OF_REGIONS: Final = (Kind.CUT_REGION, Kind.KILL_REGION)
EVERY: Final = tuple(Kind)


class BadPlan(Exception):
    """A plan that can't be carried out. The message is one whole sentence."""


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One fault.

    ``nodes`` are those that it befalls: one side of the halves; who is not heard and who does not
    hear, of a one-way cut; all of them, of restart-all; all of a region, of those of regions.
    """

    at_s: float
    kind: Kind
    nodes: tuple[str, ...]
    lasts_s: float

    def __str__(self) -> str:
        between = " > " if self.kind is Kind.ONE_WAY else " "
        return f"{self.kind.value} {between.join(self.nodes)}"


class _Lines(msgspec.Struct):
    """The file of a plan."""

    fault: list[Fault]


def random_plan(
    seed: int, nodes: Sequence[str], duration_s: float, kinds: Sequence[Kind], *, away_s: float
) -> list[Fault]:
    """The plan of a seed, oldest first.

    Args:
        kinds: Those that may come.
        away_s: Beyond what makes the others go on without a node.
    """
    whole = nodes_of_region(nodes, nodes[0]) == list(nodes)
    passing = [kind for kind in kinds if kind not in STRIKES and not (whole and kind in OF_REGIONS)]
    strikes = [kind for kind in kinds if kind in STRIKES]
    free_s = dict.fromkeys(nodes, 0.0)
    faults: list[Fault] = []
    chances = [random.Random(f"{seed}/line {line}") for line in range(_LINES)]
    next_s = [CALM_S + chance.uniform(*_QUIET_S) for chance in chances]
    while passing and min(next_s) < duration_s:
        line = next_s.index(min(next_s))
        chance, at_s = chances[line], next_s[line]
        fault = _drawn(chance, chance.choice(passing), nodes, at_s)
        struck = _away(fault, nodes)
        if all(free_s[node] <= at_s for node in struck):
            faults.append(fault)
            free_s.update(dict.fromkeys(struck, at_s + fault.lasts_s + REST_S))
            next_s[line] += fault.lasts_s + chance.uniform(*_QUIET_S)
        else:
            next_s[line] += _AGAIN_S
    chance = random.Random(f"{seed}/strikes")
    at_s = CALM_S + chance.uniform(*_BETWEEN_STRIKES_S) / 2
    while strikes and at_s < duration_s:
        kind = chance.choice(strikes)
        lasts_s = away_s if kind is Kind.AWAY else chance.uniform(*HOLDS_S)
        node = nodes[-1] if kind is Kind.FILL else chance.choice(nodes)
        faults.append(Fault(at_s, kind, (node,), lasts_s))
        at_s += lasts_s + chance.uniform(*_BETWEEN_STRIKES_S)
    return sorted((_rounded(fault) for fault in faults), key=lambda fault: fault.at_s)


def _drawn(chance: random.Random, kind: Kind, nodes: Sequence[str], at_s: float) -> Fault:
    lasts_s = chance.uniform(*HOLDS_S)
    match kind:
        case Kind.RESTART_ALL:
            struck = list(nodes)
        case Kind.HALVES:
            struck = chance.sample(nodes, len(nodes) // 2)
        case Kind.ONE_WAY | Kind.RESET:
            struck = chance.sample(nodes, 2)
        case Kind.CUT_REGION | Kind.KILL_REGION:
            struck = nodes_of_region(nodes, chance.choice(nodes))
        case _:
            struck = [chance.choice(nodes)]
    return Fault(at_s, kind, tuple(struck), lasts_s)


def nodes_of_region(nodes: Sequence[str], one: str) -> list[str]:
    """Those in the region of a node: its name begins with the region's."""
    return [node for node in nodes if node[0] == one[0]]


def _away(fault: Fault, nodes: Sequence[str]) -> Sequence[str]:
    """The nodes that somebody can't reach meanwhile: all, when it is cut in halves."""
    return nodes if fault.kind is Kind.HALVES else fault.nodes


def _rounded(fault: Fault) -> Fault:
    at_s, lasts_s = round(fault.at_s, 1), round(fault.lasts_s, 1)
    return msgspec.structs.replace(fault, at_s=at_s, lasts_s=lasts_s)


def as_text(plan: Sequence[Fault]) -> str:
    """A plan as the file that ``parse`` reads."""
    blocks = []
    for fault in plan:
        nodes = ", ".join(f'"{node}"' for node in fault.nodes)
        blocks.append(
            f'[[fault]]\nat_s = {fault.at_s}\nkind = "{fault.kind.value}"\n'
            f"nodes = [{nodes}]\nlasts_s = {fault.lasts_s}\n"
        )
    return "\n".join(blocks)


def parse(text: str, nodes: Sequence[str]) -> list[Fault]:
    """The plan in a file's text. Raises BadPlan."""
    try:
        plan = msgspec.convert(tomllib.loads(text), _Lines).fault
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise BadPlan(f"the plan can't be read: {error}.") from error
    for fault in plan:
        strangers = [node for node in fault.nodes if node not in nodes]
        if strangers:
            raise BadPlan(f"the plan strikes {', '.join(strangers)}; there is {', '.join(nodes)}.")
        if not _FITS.get(fault.kind, _one)(fault.nodes, nodes):
            raise BadPlan(f"{fault} at {fault.at_s} s names too few nodes or too many.")
    return sorted(plan, key=lambda fault: fault.at_s)


def _one_region(named: Sequence[str], nodes: Sequence[str]) -> bool:
    return 0 < len(named) < len(nodes) and sorted(named) == nodes_of_region(nodes, named[0])


def _one(named: Sequence[str], _: Sequence[str]) -> bool:
    return len(named) == 1


_FITS: Final[Mapping[Kind, Callable[[Sequence[str], Sequence[str]], bool]]] = {
    Kind.RESTART_ALL: lambda named, nodes: sorted(named) == sorted(nodes),
    Kind.HALVES: lambda named, nodes: 0 < len(named) < len(nodes),
    Kind.ONE_WAY: lambda named, _: len(named) == 2,
    Kind.RESET: lambda named, _: len(named) == 2,
    **dict.fromkeys(OF_REGIONS, _one_region),
}


def kinds_named(names: str) -> list[Kind]:
    """``kill,pause`` as kinds; ``partition`` stands for all that cut links. Raises BadPlan."""
    chosen: list[Kind] = []
    for name in names.split(","):
        if name.strip() == "partition":
            chosen += [Kind.ISOLATE, Kind.HALVES, Kind.ONE_WAY, Kind.FLAP, Kind.CUT_REGION]
            continue
        try:
            chosen.append(Kind(name.strip()))
        except ValueError:
            known = ", ".join([kind.value for kind in Kind])
            raise BadPlan(f"there is no fault {name.strip()!r}; there is {known}.") from None
    return list(dict.fromkeys(chosen))
