"""Changes of owners in words and numbers, and as tables of a cluster file."""

from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.clusterfile import render_cluster_file, with_node, without_node
from cluster.ids import NodeId
from cluster.layout import rings_of
from cluster.layoutviews import LayoutView, Staged, in_words, moved, planned, shown
from cluster.ringchange import Layout, Phase, advanced, changed, first_layout
from cluster.settings import ClusterSettings
from cluster.topology import TopologyError, newcomer, plan_cluster, read_cluster_file
from tests.support.rings import member
from tests.unit.test_ringchange import changes

SETTINGS = plan_cluster(cluster_id="ab" * 16, nodes=3, regions=2, port_base=8000, config=None)
NAMES = [NodeId(f"a{number}") for number in range(1, 6)]


@given(changes())
def test_a_plan_says_what_the_change_will_have_done(layouts: list[Layout]) -> None:
    """What nodes take is what others give; its steps are as many as there will be."""
    before, first, *_, last = [*layouts, layouts[-1]]
    plan = planned(before, first)

    assert sum(node.gained for node in plan.nodes) == plan.moves
    assert sum(node.lost for node in plan.nodes) == plan.moves
    assert {node.id: node.at_end for node in plan.nodes if not node.leaving} == {
        name: len(last.ring().partitions_of(name)) for name in last.ids
    }
    for node in plan.nodes:
        assert node.now + node.gained - node.lost == node.at_end
    fills = [layout for layout in layouts if layout.phase is Phase.FILL]
    assert plan.steps == len([one for one in fills if any(map(one.gained_by, one.ids))])


@given(changes())
def test_what_is_moved_only_grows_and_ends_with_all(layouts: list[Layout]) -> None:
    """A bar that goes back is believed by nobody."""
    total = planned(layouts[0], layouts[1]).moves
    told = [moved([_view(layout, total, NodeId("a1"))]) for layout in layouts[1:]]

    assert told == sorted(told)
    assert told[-1] == total


def _view(layout: Layout, total: int, node: NodeId) -> LayoutView:
    return LayoutView(
        node=node,
        region="a",
        begins_at=layout.ids[0],
        outside="",
        regions={"a": shown(layout)},
        moves_total=total,
        phase_s=1.0,
        done=0,
        total=0,
        waits_for={},
        held_back=[],
        unaware=[],
        still_s=0.0,
    )


def test_the_filled_replicas_of_a_step_count_before_it_is_over() -> None:
    """A step may take hours, and is one number until then."""
    (first, *_) = [
        layout for layout in _one_change() if layout.phase is Phase.FILL and layout.joining
    ]
    total = first.moves_left()
    half, all_of_it = _view(first, total, NodeId("a1")), _view(first, total, NodeId("a4"))
    all_of_it.done = all_of_it.total = len(first.gained_by(NodeId("a4")))
    half.waits_for = {"a2": "to settle", "a3": "to settle"}

    assert moved([half]) == 0
    assert moved([half, all_of_it]) == all_of_it.done > 0
    assert in_words(half) == "new owners are being filled (to settle: a2, a3)"


def _one_change() -> list[Layout]:
    members = [member(f"a{number}", zone=f"z{number}", number=number) for number in (1, 2, 3)]
    layout: Layout | None = changed(
        first_layout("a", members, 8, 3), add=[member("a4", zone="z1", number=4)]
    )
    found = []
    while layout is not None:
        found.append(layout)
        layout = advanced(layout, layout.ids)
    return found


wishes = st.builds(
    Staged,
    st.lists(
        st.sampled_from([member(name, number=n) for n, name in enumerate(NAMES, 1)]), max_size=2
    ).map(lambda nodes: tuple({one.id: one for one in nodes}.values())),
    st.lists(st.sampled_from(NAMES), max_size=2, unique=True).map(tuple),
    st.dictionaries(st.sampled_from(NAMES), st.sampled_from([1.0, 2.0]), max_size=2),
)


@given(st.lists(wishes, max_size=4))
def test_of_each_node_what_was_said_last_counts(said: list[Staged]) -> None:
    """Nobody both joins and leaves, and nothing is staged for one that leaves."""
    staged = Staged()
    for wish in said:
        staged = staged.joined(wish)

    added, removed = Counter(one.node_id for one in staged.add), Counter(staged.remove)
    assert max([*added.values(), *removed.values(), 1]) == 1
    assert not added.keys() & removed.keys()
    assert not removed.keys() & staged.weights.keys()
    if said:
        assert set(said[-1].remove) <= {
            *removed,
            *(one.node_id for wish in said for one in wish.add),
        }


@given(st.lists(st.sampled_from("ab"), max_size=6), st.data())
def test_nodes_come_and_go_in_a_file_whose_other_lines_stay(
    regions: list[str], data: st.DataObject
) -> None:
    """An operator's comments, and what is set, are none of a new node's business."""
    settings, text = SETTINGS, "# a word of mine\n" + render_cluster_file(SETTINGS)
    for number, region in enumerate(regions, 4):
        node = newcomer(settings, f"{region}{number}", region=None, zone=None, weight=1.0)
        assert node.joins
        assert node.region == region
        nodes = sorted((*settings.node, node), key=lambda one: one.region)
        settings = msgspec.structs.replace(settings, node=tuple(nodes))
        text = with_node(text, node)
        assert _read(text) == settings
    ports = [port for node in settings.node for port in node.ports]
    assert len(ports) == len(set(ports))

    gone = data.draw(st.sampled_from([node.id for node in settings.node]))
    joined = data.draw(st.sets(st.sampled_from([node.id for node in settings.node])))
    left = without_node(text, gone, joined)
    assert left.startswith("# a word of mine")
    kept = tuple(
        msgspec.structs.replace(node, joins=node.joins and node.id not in joined)
        for node in settings.node
        if node.id != gone
    )
    if all(sum(not n.joins for n in kept if n.region == region) >= 3 for region in "ab"):
        assert _read(left) == msgspec.structs.replace(settings, node=kept)
    else:
        with pytest.raises(TopologyError, match=r"that do not join|has 2"):
            _read(left)


def _read(text: str) -> ClusterSettings:
    with TemporaryDirectory() as directory:
        path = Path(directory) / "cluster.toml"
        path.write_text(text)
        return read_cluster_file(path)


@pytest.mark.parametrize(
    ("name", "region", "reason"),
    [("a2", None, "a2 already"), ("x1", None, "--region"), ("x1", "z", "--region")],
)
def test_a_new_node_whose_place_is_not_clear_is_refused(
    name: str, region: str | None, reason: str
) -> None:
    """In words that say what to type."""
    with pytest.raises(TopologyError, match=reason):
        newcomer(SETTINGS, name, region=region, zone=None, weight=1.0)
    assert newcomer(SETTINGS, "x1", region="b", zone=None, weight=2.0).region == "b"


def test_a_node_that_joins_owns_nothing_in_the_file_s_own_layout() -> None:
    """It would take what nobody has given it."""
    node = newcomer(SETTINGS, "a4", region=None, zone="z7", weight=1.0)
    settings = msgspec.structs.replace(SETTINGS, node=(*SETTINGS.node, node))

    assert rings_of(settings).nodes_of("a") == ["a1", "a2", "a3"]
    assert rings_of(settings).region_of[NodeId("a4")] == "a"


def test_a_node_that_comes_back_under_its_name_is_where_others_look_for_it() -> None:
    """They remember where it was, and those that dial it would not find it elsewhere."""
    four = plan_cluster(cluster_id="ab" * 16, nodes=4, regions=1, port_base=8000, config=None)
    gone = four.node[1]
    left = msgspec.structs.replace(four, node=tuple(node for node in four.node if node != gone))
    fifth = newcomer(left, "a5", region=None, zone=None, weight=1.0)
    assert fifth.ports == tuple(port + 4 for port in four.node[0].ports)
    settings = msgspec.structs.replace(left, node=(*left.node, fifth))
    assert newcomer(settings, gone.id, region=None, zone=None, weight=1.0).ports == gone.ports
