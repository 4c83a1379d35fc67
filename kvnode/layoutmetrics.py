"""How far a change of owners is, as metrics."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from kvnode.node import Node


class LayoutCollector(Collector):
    """Reads a node's counts when asked."""

    def __init__(self, node: "Node") -> None:
        self._node = node

    def collect(self) -> Iterable[Metric]:
        """See ``prometheus_client.registry.Collector``."""
        node = self._node
        epoch = GaugeMetricFamily(
            "stele_layout_epoch", "Of the newest layout that is known here.", labels=("region",)
        )
        left = GaugeMetricFamily(
            "stele_layout_moves_left",
            "Replicas that a change of owners has yet to move; 0: none is under way.",
            labels=("region",),
        )
        phase = GaugeMetricFamily(
            "stele_layout_phase",
            "Of a change of owners: 1 fill, 2 level, 3 switch, 4 retire; 0: none is under way.",
            labels=("region",),
        )
        for region, layout in node.rings.layouts.items():
            epoch.add_metric((region,), layout.epoch)
            left.add_metric((region,), layout.moves_left())
            phase.add_metric((region,), layout.phase)
        yield from (epoch, left, phase)
        done, total = node.background.moving.progress()
        yield GaugeMetricFamily(
            "stele_layout_partitions_left",
            "Partitions that this node's part of the present phase still needs.",
            value=total - done,
        )
        yield GaugeMetricFamily(
            "stele_layout_still_seconds",
            "For how long nothing has gone on in a change that this node, or one that is down, "
            "holds up.",
            value=node.changing.still_s,
        )
