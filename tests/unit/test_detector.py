"""Suspicion grows with silence, as the peer's silences used to be; at the end, in whole regions."""

from itertools import accumulate, pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.detector import (
    DEVIATION_MIN_INTERVALS,
    INTERVAL_MAX_INTERVALS,
    WINDOW_INTERVALS,
    Detector,
)
from cluster.ids import NodeId
from cluster.membership import MemberChanged, Membership, Status, choose_peers

INTERVALS_S = [0.05, 0.2, 1.0]

#: Gaps between heartbeats, in expected intervals.
gaps = st.lists(st.floats(0.01, 20), max_size=30)


def detector_after(interval_s: float, gaps: list[float]) -> tuple[Detector, float]:
    """A detector that heard heartbeats with these gaps (in intervals), and the time of the last."""
    detector, now_s = Detector(interval_s, 0.0), 0.0
    for gap in gaps:
        now_s += gap * interval_s
        detector.heard(now_s)
    return detector, now_s


def silence_until(phi: float, detector: Detector, heard_s: float) -> float:
    """Seconds after ``heard_s`` at which phi is reached, to a millisecond."""
    return next(ms / 1000 for ms in range(1_000_000) if detector.phi(heard_s + ms / 1000) >= phi)


@given(gaps, st.lists(st.floats(0, 60), min_size=2))
def test_phi_never_falls_while_a_peer_is_silent(gaps: list[float], silences_s: list[float]) -> None:
    """A suspicion that went away by itself would make a node flap with nothing heard of it."""
    detector, heard_s = detector_after(1.0, gaps)
    phis = [detector.phi(heard_s + silence_s) for silence_s in sorted(silences_s)]
    assert all(0 <= earlier <= later for earlier, later in pairwise(phis))


@given(gaps, st.floats(0, 30))
def test_a_heartbeat_ends_every_suspicion(gaps: list[float], silence_s: float) -> None:
    """The peer is there: what was before it is of interest only as an interval."""
    detector, heard_s = detector_after(1.0, gaps)
    detector.heard(heard_s + silence_s)
    assert detector.phi(heard_s + silence_s) < 0.4


@given(gaps, st.floats(0, 20), st.sampled_from([0.5, 2.0, 8.0]))
def test_suspicion_scales_with_the_expected_interval(
    gaps: list[float], silence: float, factor: float
) -> None:
    """Twice the interval is twice the patience, so one threshold serves every setting."""
    slow, slow_heard_s = detector_after(factor, gaps)
    unit, unit_heard_s = detector_after(1.0, gaps)
    assert slow.phi(slow_heard_s + silence * factor) == pytest.approx(
        unit.phi(unit_heard_s + silence), rel=1e-6
    )


@pytest.mark.parametrize("interval_s", INTERVALS_S)
def test_a_punctual_peer_is_suspected_when_rule_1_says(interval_s: float) -> None:
    """Mean + 5.6 deviations: the numbers that the module's text promises."""
    detector, heard_s = detector_after(interval_s, [1.0] * 200)
    deviation_s = max(0.1, DEVIATION_MIN_INTERVALS * interval_s)
    assert silence_until(8.0, detector, heard_s) == pytest.approx(
        interval_s + 5.6 * deviation_s, abs=0.02
    )


@pytest.mark.parametrize("interval_s", INTERVALS_S)
@given(st.lists(st.floats(0.5, 2.0), max_size=50))
def test_two_lost_heartbeats_are_no_failure(interval_s: float, gaps: list[float]) -> None:
    """A single message lost, or a pause of the scheduler, is everyday life."""
    detector, heard_s = detector_after(interval_s, gaps)
    assert detector.phi(heard_s + 3 * interval_s) < 8


@given(gaps)
def test_a_peer_that_is_gone_is_suspected_however_it_behaved(gaps: list[float]) -> None:
    """Intervals are clipped, so the worst history still leaves an upper bound."""
    detector, heard_s = detector_after(1.0, gaps)
    worst_s = INTERVAL_MAX_INTERVALS + 5.7 * INTERVAL_MAX_INTERVALS / 2
    assert detector.phi(heard_s + worst_s) >= 8


def test_an_outage_does_not_blind_the_detector_to_the_next_one() -> None:
    """Taken as an interval, ten minutes of silence would hide half a minute of it."""
    steady, steady_s = detector_after(1.0, [1.0] * 50)
    hurt, hurt_s = detector_after(1.0, [1.0] * 40 + [600.0] + [1.0] * 10)
    assert silence_until(8.0, hurt, hurt_s) < silence_until(8.0, steady, steady_s) + 0.5


def test_a_peer_that_became_slow_is_judged_as_slow() -> None:
    """After a window of late heartbeats lateness is no sign of anything."""
    detector, heard_s = detector_after(1.0, [1.0] * 1000)
    assert detector.phi(heard_s + 4.0) > 8
    late_s = list(accumulate([3.0] * WINDOW_INTERVALS, initial=heard_s))[1:]
    for now_s in late_s:
        detector.heard(now_s)
    assert detector.phi(late_s[-1] + 4.0) < 3


def test_irregular_heartbeats_earn_more_patience() -> None:
    """The accrual detector's point: the threshold adapts where a fixed timeout can't."""
    even, even_s = detector_after(1.0, [1.5] * 60)
    uneven, uneven_s = detector_after(1.0, [0.1, 2.9] * 30)
    assert silence_until(8.0, uneven, uneven_s) > silence_until(8.0, even, even_s) + 3


@given(gaps, st.floats(0, 30), st.floats(0, 60))
def test_an_excused_pause_takes_nothing_else_back(
    gaps: list[float], silence_s: float, paused_s: float
) -> None:
    """The silence from before the pause still counts, and no silence becomes negative."""
    detector, heard_s = detector_after(1.0, gaps)
    now_s = heard_s + silence_s
    detector.excuse(paused_s, now_s)
    assert detector.silent_s(now_s) == pytest.approx(max(0.0, silence_s - paused_s), abs=1e-6)


class Region:
    """Nodes that gossip in simulated time over links that lose messages."""

    def __init__(self, size: int, interval_s: float, loss: float, seed: int) -> None:
        self.random = Random(seed)
        names = [NodeId(f"n{i:02}") for i in range(size)]
        self.nodes = {
            name: Membership(name, 1, names, interval_s=interval_s, now_s=0.0) for name in names
        }
        self.interval_s, self.loss, self.now_s = interval_s, loss, 0.0
        #: Nodes that are cut off from the others, but not from one another.
        self.cut_off: list[NodeId] = []

    def arrives(self, sender: NodeId, receiver: NodeId) -> bool:
        """Whether a message does."""
        cut = (sender in self.cut_off) != (receiver in self.cut_off)
        return receiver in self.nodes and not cut and self.random.random() >= self.loss

    def run(self, rounds: int) -> list[MemberChanged]:
        """Let every node beat, gossip and judge once per round, at no common moment."""
        changes: list[MemberChanged] = []
        for _ in range(rounds):
            turns = self.random.sample(sorted(self.nodes), len(self.nodes))
            for name in turns:
                self.now_s += self.interval_s / len(turns)
                node = self.nodes[name]
                node.beat(1)
                others = [known for known in node.members() if known.node != name]
                for peer in choose_peers(others, self.random.random()):
                    if not (self.arrives(name, peer) and self.arrives(peer, name)):
                        continue
                    changes += node.receive(self.nodes[peer].news_for(node.digest()), self.now_s)
                    if self.arrives(name, peer):
                        reply = node.news_for(self.nodes[peer].digest())
                        changes += self.nodes[peer].receive(reply, self.now_s)
                changes += node.judge(self.now_s)
        return changes


@pytest.mark.parametrize("interval_s", [0.05, 1.0])
@pytest.mark.parametrize(("size", "loss"), [(2, 0.0), (3, 0.1), (9, 0.1), (30, 0.0)])
def test_healthy_nodes_do_not_suspect_one_another(
    size: int, loss: float, interval_s: float
) -> None:
    """Through gossip heartbeats arrive unevenly; that must not look like a failure."""
    assert Region(size, interval_s, loss, seed=1).run(100) == []


@pytest.mark.parametrize(("interval_s", "detected_s"), [(0.05, 0.9), (1.0, 7.0)])
@pytest.mark.parametrize("size", [2, 3, 9])
def test_everybody_notices_a_crash_and_a_return(
    size: int, interval_s: float, detected_s: float
) -> None:
    """In bounded time, and without a wrong word about anyone else."""
    region = Region(size, interval_s, 0.0, seed=2)
    region.run(50)
    crashed = region.nodes.pop(NodeId("n00"))

    changes = region.run(int(detected_s / interval_s))

    assert {change.node for change in changes} == {crashed.node}
    assert all(node.up == frozenset(region.nodes) for node in region.nodes.values())

    region.run(40)
    for node in region.nodes.values():
        assert Status.DEAD in [known.status for known in node.members()]

    region.nodes[crashed.node] = Membership(
        crashed.node, 2, region.nodes, interval_s=interval_s, now_s=region.now_s
    )
    region.run(10)
    assert all(node.up == frozenset(region.nodes) for node in region.nodes.values())


def test_two_halves_find_each_other_after_a_long_cut() -> None:
    """Both had declared the other dead, so only the rare word to the dead can join them."""
    region = Region(6, 1.0, 0.0, seed=3)
    region.run(20)
    region.cut_off = sorted(region.nodes)[:3]
    region.run(60)
    assert all(len(node.up) == 3 for node in region.nodes.values())

    region.cut_off = []
    region.run(5)
    assert all(len(node.up) == 6 for node in region.nodes.values())
