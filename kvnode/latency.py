"""How long peers take to answer, so that the nearest is asked first and a slow one is hedged.

A quantile is tracked without keeping samples: each sample above the estimate moves it up by ``q``
of a step, each below moves it down by ``1 - q`` of a step; it rests where a share ``q`` of the
samples lies below. The step follows the estimate, so it adapts over orders of magnitude.

Source: stochastic approximation (Robbins and Monro, 1951); hedged requests: Dean and Barroso, "The
Tail at Scale", CACM 2013.
"""

from typing import Final

from cluster.ids import NodeId

HEDGE_QUANTILE: Final = 0.95
#: A peer's first estimate.
FIRST_S: Final = 0.02
#: The least that a hedge waits: below it, what looks slow is this process being busy.
USUAL_MIN_S: Final = 0.005
_STEP: Final = 0.05
_ESTIMATE_MIN_S: Final = 1e-5


class Latencies:
    """Running estimates of the 95th percentile, by peer."""

    def __init__(self) -> None:
        #: Seconds; peers that were never measured are missing.
        self.estimate_s: dict[NodeId, float] = {}

    def add(self, node: NodeId, sample_s: float) -> None:
        """Count one answer."""
        estimate_s = self.estimate_s.get(node, FIRST_S)
        step_s = _STEP * estimate_s
        if sample_s > estimate_s:
            estimate_s += step_s * HEDGE_QUANTILE
        else:
            estimate_s = max(_ESTIMATE_MIN_S, estimate_s - step_s * (1 - HEDGE_QUANTILE))
        self.estimate_s[node] = estimate_s

    def usual_s(self, node: NodeId) -> float:
        """What 95 % of a peer's answers take at most."""
        return max(USUAL_MIN_S, self.estimate_s.get(node, FIRST_S))
