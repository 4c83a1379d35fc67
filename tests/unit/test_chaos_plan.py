"""Plans of faults: the same from a seed, never more than a cluster must survive."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.chaos.plan import (
    CALM_S,
    EVERY,
    HOLDS_S,
    OF_REGIONS,
    REST_S,
    STRIKES,
    BadPlan,
    Fault,
    Kind,
    as_text,
    kinds_named,
    parse,
    random_plan,
)

AWAY_S = 20.0
NODES = ("a1", "a2", "a3", "a4", "a5")

seeds = st.integers(0, 2**40)
counts = st.integers(3, 5)
kinds = st.lists(st.sampled_from(Kind), min_size=1, unique=True)


def drawn(seed: int, count: int = 5, chosen: list[Kind] | None = None) -> list[Fault]:
    """Of two minutes."""
    return random_plan(seed, NODES[:count], 120.0, chosen or list(EVERY), away_s=AWAY_S)


@given(seeds, counts)
def test_a_seed_gives_the_same_plan_again(seed: int, count: int) -> None:
    """It is half of what reproduces a run."""
    assert drawn(seed, count) == drawn(seed, count)


@pytest.mark.parametrize("chosen", [[Kind.KILL, Kind.SLOW], list(STRIKES)])
def test_seeds_give_different_plans(chosen: list[Kind]) -> None:
    """Or a hundred runs would be one."""
    assert len({as_text(drawn(seed, chosen=chosen)) for seed in range(20)}) == 20


@given(seeds, counts, kinds)
def test_a_plan_has_only_the_kinds_that_were_asked_for_in_order(
    seed: int, count: int, chosen: list[Kind]
) -> None:
    """Nothing strikes before there is something to lose."""
    plan = drawn(seed, count, chosen)
    assert {fault.kind for fault in plan} <= set(chosen)
    assert plan == sorted(plan, key=lambda fault: fault.at_s)
    assert all(fault.at_s >= CALM_S for fault in plan)


@given(seeds, counts)
def test_what_passes_leaves_a_node_alone_before_it_strikes_it_again(seed: int, count: int) -> None:
    """Else nodes would be away for so long that the others go on without them, unplanned."""
    plan = [fault for fault in drawn(seed, count) if fault.kind not in STRIKES]
    for node in NODES[:count]:
        struck = [one for one in plan if node in one.nodes or one.kind is Kind.HALVES]
        for earlier, later in pairwise(struck):
            assert later.at_s >= earlier.at_s + earlier.lasts_s + REST_S - 0.2
        assert all(one.lasts_s <= HOLDS_S[1] for one in struck)


@given(seeds, counts)
def test_what_destroys_copies_comes_one_at_a_time(seed: int, count: int) -> None:
    """Of N copies at most one, until the cluster has healed."""
    plan = [fault for fault in drawn(seed, count) if fault.kind in STRIKES]
    for earlier, later in pairwise(plan):
        assert later.at_s > earlier.at_s + earlier.lasts_s
    assert all(len(fault.nodes) == 1 for fault in plan)


@given(seeds, counts)
def test_a_plan_reads_back_as_it_was_written(seed: int, count: int) -> None:
    """What a report keeps can be played again."""
    plan = drawn(seed, count)
    assert parse(as_text(plan), NODES[:count]) == plan


@given(seeds, st.sampled_from(["ab", "abc"]))
def test_faults_of_regions_strike_all_nodes_of_one_where_there_are_several(
    seed: int, regions: str
) -> None:
    """A plan of theirs reads back; the cut of a single region would cut nothing."""
    nodes = [f"{region}{number}" for region in regions for number in (1, 2, 3)]
    plan = random_plan(seed, nodes, 60.0, OF_REGIONS, away_s=AWAY_S)
    assert plan
    for fault in plan:
        assert list(fault.nodes) in [nodes[start : start + 3] for start in range(0, len(nodes), 3)]
    assert parse(as_text(plan), nodes) == plan
    assert random_plan(seed, NODES, 60.0, OF_REGIONS, away_s=AWAY_S) == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[fault]]", "missing"),
        ("fault = 1", "Expected"),
        ("[[fault]\n", "can't be read"),
        ('[[fault]]\nat_s = 1\nkind = "burn"\nnodes = ["a1"]\nlasts_s = 1', "burn"),
        ('[[fault]]\nat_s = 1\nkind = "kill"\nnodes = ["a9"]\nlasts_s = 1', "a9"),
        ('[[fault]]\nat_s = 1\nkind = "kill"\nnodes = []\nlasts_s = 1', "too few"),
        ('[[fault]]\nat_s = 1\nkind = "one-way"\nnodes = ["a1"]\nlasts_s = 1', "too few"),
        ('[[fault]]\nat_s = 1\nkind = "restart-all"\nnodes = ["a1"]\nlasts_s = 1', "too few"),
        ('[[fault]]\nat_s = 1\nkind = "cut-region"\nnodes = ["a1"]\nlasts_s = 1', "too few"),
    ],
)
def test_a_plan_that_cannot_be_carried_out_is_refused(text: str, says: str) -> None:
    """Before a cluster is made, and with a word of what is wrong."""
    with pytest.raises(BadPlan, match=says):
        parse(text, NODES)


def test_kinds_are_named_as_they_are_typed() -> None:
    """``partition`` is all that cuts links."""
    cuts = [Kind.ISOLATE, Kind.HALVES, Kind.ONE_WAY, Kind.FLAP, Kind.CUT_REGION]
    assert kinds_named("kill, partition,kill") == [Kind.KILL, *cuts]
    with pytest.raises(BadPlan, match="burn"):
        kinds_named("burn")
