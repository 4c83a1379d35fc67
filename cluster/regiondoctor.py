"""What is wrong between regions, for ``stele doctor``: one finding for each pair of regions."""

from collections.abc import Iterator, Sequence
from typing import Final

from cluster.findings import Finding, Severity
from cluster.regionpairs import Pair
from cluster.seen import NodeView, moment, region_pairs

#: What a region is behind before anyone need care. It is told each second how far it is.
_LAG_S: Final = 5.0
#: Of the log of writes for a region.
_FULLNESS: Final = 0.5


def region_findings(views: Sequence[NodeView]) -> Iterator[Finding]:
    """From what each node says of the other regions."""
    yield from _given_up(views)
    found = region_pairs(views)
    cut = {(pair.source, pair.target) for pair in found if pair.cut_off_since_ms is not None}
    answering = [view.node.id for view in views if view.status]
    for pair in found:
        apart = (pair.source, pair.target) in cut or (pair.target, pair.source) in cut
        yield from _contact(pair)
        if pair.lag_s is not None and pair.lag_s > _LAG_S and not apart:
            yield Finding(
                Severity.WARNING,
                f"region {pair.target}",
                f"lacks what {pair.slowest} wrote in the last {pair.lag_s:.0f} s: the watermark of "
                f"region {pair.source} stands still",
                f"if it stays so, look at {pair.slowest}'s log, and at the network to it"
                if pair.slowest in answering
                else f"bring {pair.slowest} up, or replace it",
            )
        if pair.fullness >= _FULLNESS:
            yield Finding(
                Severity.WARNING,
                f"region {pair.source}",
                f"has a log of writes for region {pair.target} that is {pair.fullness:.0%} full",
                f"bring region {pair.target} back; beyond 100% the oldest are dropped, and whole "
                "partitions compared in their place, which takes longer and loses nothing",
            )
        if pair.comparisons_owed:
            yield Finding(
                Severity.NOTE,
                f"region {pair.source}",
                f"owes region {pair.target} a comparison of {pair.comparisons_owed} partitions",
                "wait: they are compared when all owners are up",
            )


def _given_up(views: Sequence[NodeView]) -> Iterator[Finding]:
    said = [view.status for view in views if view.status]
    for region in dict.fromkeys(region for one in said for region in one.gone):
        heard = [one for one in said if region in one.gone and one.region != region]
        unaware = ", ".join(dict.fromkeys(node for one in heard for node in one.unaware))
        if unaware:
            yield Finding(
                Severity.WARNING,
                f"region {region}",
                f"was said to be gone, and {unaware} may not have heard it: purges wait for that",
                f"bring {unaware} up, or the network to them",
            )
        else:
            yield Finding(
                Severity.NOTE,
                f"region {region}",
                "was said to be gone: nothing waits for it, and its nodes serve nothing",
                f"`stele region back {region}` when it has nodes again",
            )


def _contact(pair: Pair) -> Iterator[Finding]:
    waits = f"{pair.waiting:,} of its writes wait" if pair.waiting else "no write waits"
    if pair.cut_off_since_ms is not None:
        yield Finding(
            Severity.WARNING,
            f"region {pair.source}",
            f"reaches no node of region {pair.target} since {moment(pair.cut_off_since_ms)} UTC"
            f"; {waits}, and deletions stay on all disks",
            "bring the region or the network to it back; all is brought there by itself",
        )
    elif pair.cut_off:
        nodes = ", ".join(pair.cut_off)
        yield Finding(
            Severity.WARNING,
            nodes,
            f"reach no node of region {pair.target}, though others of region {pair.source} do",
            f"if it stays so, look at the network between {nodes} and region {pair.target}",
        )
