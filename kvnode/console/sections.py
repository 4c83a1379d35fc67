"""What the page shows, section by section, as HTML. Whatever comes from elsewhere is escaped here.

Each section is a function of values; the page replaces a section when its HTML has changed. So
nothing in a section can have the focus but links. What is read aloud when it changes is a section
of its own, without numbers that count up.
"""

from collections.abc import Callable, Sequence
from html import escape
from itertools import groupby

from cluster.findings import Finding
from cluster.layoutdoctor import MOVING
from cluster.layoutviews import LayoutView
from cluster.operations import LifecycleView
from cluster.regionpairs import Pair
from cluster.seen import moment
from kvnode.console.happenings import events, traces
from kvnode.console.markup import NONE, described, duration, milliseconds, size, table, typed
from kvnode.console.overview import NodeShown, Overview, RingShown, State
from kvnode.console.plots import Line, draw, top_of
from kvnode.console.watch import HISTORY_S, Point, Watch


def sections(watch: Watch) -> dict[str, str]:
    """HTML by the id of the element that it belongs into."""
    seen = watch.overview
    if seen is None:
        return {}
    return {
        "verdict": verdict(seen),
        "spoken": spoken(seen),
        "findings": findings(seen.findings),
        "nodes": nodes(seen),
        **traffic(list(watch.points), watch.now_s, shows_lag=bool(seen.pairs)),
        "partitions": partitions(seen),
        "regions": regions(seen.pairs),
        "hints": hints(seen),
        "comparisons": comparisons(seen),
        "lifecycle": lifecycle(seen),
        "traces": traces(seen),
        "events": events(watch.events),
    }


def verdict(seen: Overview) -> str:
    """One sentence: the worst that was found, without what explains it."""
    wrong = seen.wrong
    if not wrong:
        return f'<span class="dot well"></span>{_all_well(seen)}'
    first = f"{wrong[0].about} {wrong[0].what.partition('; ')[0]}"
    more = f"; {len(wrong) - 1} more" if len(wrong) > 1 else ""
    return f'<span class="dot {wrong[0].severity.value}"></span>{escape(first)}{more}'


def spoken(seen: Overview) -> str:
    """What it is about, for those who listen."""
    told = (f"{one.severity.value}: {one.about}" for one in seen.wrong)
    return escape("; ".join(told)) or _all_well(seen)


def _all_well(seen: Overview) -> str:
    moving = [one for one in seen.findings if one.what.startswith(MOVING)]
    told = [f"{one.about} {one.what.partition('; ')[0]}" for one in moving]
    return escape("; ".join([f"All {sum(map(len, seen.regions.values()))} nodes are well", *told]))


def findings(found: Sequence[Finding]) -> str:
    """What is wrong, and what to do."""
    rows = (
        f'<li class="{one.severity.value}"><span class="badge">{one.severity.value}</span>'
        f"<p><strong>{escape(one.about)}</strong> {escape(one.what)}."
        f' <span class="do">{typed(one.do[:1].upper() + one.do[1:])}.</span></p></li>'
        for one in found
    )
    return f'<ul class="findings">{"".join(rows)}</ul>' if found else ""


def nodes(seen: Overview) -> str:
    """By region, the nodes in the cluster file's order."""
    return "".join(
        f'<section class="region"><h3>Region {escape(region)} {_tally(its)}</h3>'
        f'<ul class="tiles">{"".join(map(_tile, its))}</ul></section>'
        for region, its in seen.regions.items()
    )


def _tally(its: Sequence[NodeShown]) -> str:
    alive = sum(node.state is State.ALIVE for node in its)
    return f'<span class="aside">{alive} of {len(its)} alive</span>'


def _tile(shown: NodeShown) -> str:
    node, glance, rates = shown.seen.node, shown.seen.glance, shown.seen.rates
    state = shown.state.value.replace(" ", "-")
    if shown.state is State.ALIVE and shown.why:
        state += " warned"
    facts = [("zone", node.zone)]
    if glance is not None:
        facts += _on_its_way(node.id, glance.status.layout)
        documents = glance.status.documents_estimate or 0
        free = glance.status.storage.disk_free_bytes
        facts += [
            ("documents", f"{documents:,}"),
            ("requests/s", f"{rates.requests_per_s:,.0f}" if rates else NONE),
            ("p99", milliseconds(rates.p99_s if rates else None)),
            ("disk free", size(free)),
            ("up", duration(glance.lifecycle.up_s)),
        ]
    why = f'<p class="why">{escape(shown.why)}</p>' if shown.why else ""
    name = f'<a href="http://{escape(node.host)}:{node.ops_port}/ui">{escape(node.id)}</a>'
    return (
        f'<li class="node {state}" data-node="{escape(node.id)}"><h4>{name}'
        f'<span class="state"><span class="dot"></span>{shown.state.value}</span></h4>{why}'
        f"{described(facts)}</li>"
    )


def _on_its_way(name: str, layout: LayoutView | None) -> list[tuple[str, str]]:
    """Of a node that joins or leaves its region: how much it owns, and will."""
    its = next((one for one in layout.own.members if one.id == name), None) if layout else None
    if its is None or not (its.joining or its.leaving):
        return []
    goes = "joins with" if its.joining else "leaves, has"
    return [(goes, f"{its.at_end if its.joining else its.now} partitions")]


def traffic(points: Sequence[Point], now_s: float, *, shows_lag: bool) -> dict[str, str]:
    """The plots, one a section."""

    def line(name: str, value: Callable[[Point], float | None]) -> Line:
        return Line(name, [(point.at_s, value(point)) for point in points])

    def of(name: str, field: str, scale: float = 1) -> Line:
        def value(point: Point) -> float | None:
            measured = getattr(point.rates, field, None)
            return None if measured is None else measured * scale

        return line(name, value)

    def errors(point: Point) -> float | None:
        rates = point.rates
        if rates is None or not rates.requests_per_s:
            return None if rates is None else 0.0
        return 100 * rates.errors_per_s / rates.requests_per_s

    rates = ("creates", "reads", "deletes")
    plots = {
        "throughput": _plot(
            "Requests per second", [of(name, f"{name}_per_s") for name in rates], now_s, 10, ",.0f"
        ),
        "errors": _plot("Failed", [line("errors", errors)], now_s, 1, ".1f", " %"),
        "latency": _plot(
            "Latency", [of("p50", "p50_s", 1000), of("p99", "p99_s", 1000)], now_s, 1, ".1f", " ms"
        ),
    }
    lag = [line("lag", lambda point: point.lag_s)]
    plots["lag"] = _plot("Behind another region", lag, now_s, 1, ".1f", " s") if shows_lag else ""
    return plots


def _plot(
    title: str, lines: Sequence[Line], now_s: float, least: float, form: str, unit: str = ""
) -> str:
    top = top_of(lines, least)
    latest = [(one.name, one.points[-1][1] if one.points else None) for one in lines]
    values = "".join(
        f'<span class="{name}"><b>{NONE if value is None else f"{value:{form}}"}</b>'
        f"{'' if value is None else unit} {name if len(lines) > 1 else ''}</span>"
        for name, value in latest
    )
    drawn = draw(lines, now_s=now_s, span_s=HISTORY_S, top=top)
    return (
        f'<figcaption><span class="title">{title}</span><span class="values">{values}</span>'
        f'</figcaption><div class="plot"><span class="top">{top:g}{unit}</span>{drawn}</div>'
        f'<p class="axis"><span>{HISTORY_S // 60} min ago</span><span>now</span></p>'
    )


def partitions(seen: Overview) -> str:
    """How many copies of each partition are up, by region."""
    return "".join(
        f"<h3>Region {escape(region)}</h3>{_strip(ring)}"
        + described(
            [
                ("partitions", f"{len(ring.up)} in {ring.copies} copies"),
                ("under-replicated", f"{ring.under_replicated}"),
                ("without a quorum", f"{ring.without_quorum}"),
                ("unavailable", f"{ring.unavailable}"),
            ]
        )
        for region, ring in seen.rings.items()
    )


def _strip(ring: RingShown) -> str:
    """The ring, unrolled: whole, short of copies, without a quorum, without any."""
    drawn, start = [], 0
    for up, run in groupby(ring.up):
        length = len(list(run))
        kind = "whole" if up == ring.copies else "short" if up > ring.copies // 2 else "minority"
        drawn.append(
            f'<rect class="{kind if up else "none"}" x="{start}" width="{length}" height="1"/>'
        )
        start += length
    return (
        f'<svg class="strip" viewBox="0 0 {start} 1" preserveAspectRatio="none" '
        f'aria-hidden="true">{"".join(drawn)}</svg>'
    )


def regions(pairs: Sequence[Pair]) -> str:
    """Lag and watermark of each pair."""
    if not pairs:
        return '<p class="none">There is one region only.</p>'
    return table(
        ("writes of", "in", "lag", "complete until", "on their way", "log full", "to compare"),
        [
            (
                pair.source,
                pair.target,
                "not known" if pair.lag_s is None else f"{pair.lag_s:.1f} s",
                NONE if pair.watermark_ms is None else f"{moment(pair.watermark_ms)[11:]} UTC",
                f"{pair.waiting:,}",
                f"{pair.fullness:.0%}",
                f"{pair.comparisons_owed:,}" if pair.comparisons_owed else NONE,
            )
            for pair in pairs
        ],
    ) + "".join(
        f'<p class="cut">{escape(pair.source)} reaches no node of {escape(pair.target)} since '
        f"{moment(pair.cut_off_since_ms)} UTC.</p>"
        for pair in pairs
        if pair.cut_off_since_ms is not None
    )


def hints(seen: Overview) -> str:
    """Writes that nodes keep for others."""
    rows = [
        (
            holder,
            target,
            f"{kept.count:,}",
            size(kept.bytes),
            duration(kept.oldest_s),
            f"in {kept.left_alone_s:.0f} s" if kept.left_alone_s else "now",
        )
        for holder, glance in seen.answers
        for target, kept in glance.hints.targets.items()
        if kept.count
    ]
    if not rows:
        return '<p class="none">No node keeps a write for another one.</p>'
    return table(("kept by", "for", "writes", "size", "oldest", "next try"), rows)


def comparisons(seen: Overview) -> str:
    """Anti-entropy: the peer of each node with which it is furthest back."""
    rows = []
    for name, glance in seen.answers:
        rounds = glance.lifecycle.comparisons
        if not rounds:
            continue
        peer = max(rounds, key=lambda one: age if (age := rounds[one].last_complete_s) else 1e12)
        last_s = rounds[peer].last_complete_s
        left = sum(one.partitions_left for one in rounds.values())
        when = "not yet" if last_s is None else f"{duration(last_s)} ago"
        rows.append((name, peer, when, f"{left:,}" if left else NONE))
    return table(("node", "longest not with", "last complete", "partitions left"), rows)


def lifecycle(seen: Overview) -> str:
    """What ended, what waits to leave the disks, and whom for."""
    views = [glance.lifecycle for _, glance in seen.answers]

    def total(field: str) -> str:
        return f"{sum(getattr(view, field) for view in views):,}"

    facts = [
        ("deletions remembered", total("tombstones")),
        ("purged", total("purged")),
        ("expired", total("expired")),
        ("verified gone", total("verified")),
        ("set aside", f"{sum(one.quarantine.orphans for _, one in seen.answers):,}"),
    ]
    return f"{described(facts)}{_vetoes(views)}"


def _vetoes(views: Sequence[LifecycleView]) -> str:
    waits: dict[tuple[str, str], tuple[int, float]] = {}
    for view in views:
        for veto in view.vetoes:
            count, for_s = waits.get((veto.node, veto.reason), (0, 0.0))
            waits[veto.node, veto.reason] = count + 1, max(for_s, veto.for_s)
    if not waits:
        return '<p class="none">No purge is held up.</p>'
    return table(
        ("held up by", "because", "partitions", "for"),
        [
            (node, reason, f"{count:,}", duration(for_s))
            for (node, reason), (count, for_s) in waits.items()
        ],
    )
