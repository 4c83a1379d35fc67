"""The pictures of a report: what clients had, under which faults, and how the cluster healed."""

import io
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Final

import matplotlib as mpl
import msgspec

mpl.use("Agg")  # no display is needed, nor looked for
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scripts.chaos.conductor import Band
from scripts.chaos.healing import Look
from scripts.chaos.plan import Kind
from scripts.chaos.series import Series


class Theme(msgspec.Struct, frozen=True):
    """Colours."""

    paper: str
    ink: str
    faint: str
    band: str
    colours: tuple[str, ...]


#: Colours that people with any kind of colour vision tell apart (Okabe and Ito).
_OKABE_ITO: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999")
THEMES: Final[Mapping[str, Theme]] = {
    "light": Theme("#ffffff", "#1b1b1f", "#d9d9de", "#8a6d00", _OKABE_ITO),
    "dark": Theme(
        "#16161a", "#e6e6ea", "#3a3a42", "#ffd95a", ("#4FA8DC", "#FF8A3D", *_OKABE_ITO[2:])
    ),
}
_WIDTH_IN: Final = 11.0
_DPI: Final = 110


def run_png(series: Series, bands: Sequence[Band], theme: Theme, title: str) -> bytes:
    """Throughput, latency, errors and faults, one above the other on one time axis."""
    kinds = [kind for kind in Kind if any(band.kind is kind for band in bands)]
    height_in = 8.2 + 0.22 * len(kinds)
    figure = Figure(figsize=(_WIDTH_IN, height_in), facecolor=theme.paper, layout="constrained")
    ratios = [2.4, 2.2, 2.2, max(0.3 * len(kinds), 0.6)]
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=theme.ink)
    throughput, latency, errors, faults = figure.subplots(
        4, 1, sharex=True, gridspec_kw={"height_ratios": ratios}
    )
    end_s = len(series.seconds)
    for axes in (throughput, latency, errors, faults):
        _dress(axes, theme)
        axes.set_xlim(0, end_s)
    for axes in (throughput, latency, errors):
        _shade(axes, bands, theme, end_s)
    _throughput(throughput, series, theme)
    _latency(latency, series, theme)
    _errors(errors, series, theme)
    _faults(faults, bands, kinds, theme, end_s)
    return _png(figure)


def healing_png(looks: Sequence[Look], load_ended_s: float, theme: Theme, title: str) -> bytes:
    """What was left to heal, from the moment when the last fault was undone."""
    figure = Figure(figsize=(_WIDTH_IN, 3.4), facecolor=theme.paper, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=theme.ink)
    axes = figure.subplots()
    _dress(axes, theme)
    at_s = [look.at_s - load_ended_s for look in looks]
    for values, label, colour in (
        ([look.differing for look in looks], "documents on which owners differ", theme.colours[0]),
        ([look.hints for look in looks], "writes held as hints", theme.colours[1]),
    ):
        axes.plot(at_s, values, marker="o", markersize=4, color=colour, label=label)
    axes.set_xlim(0, max(at_s[-1] * 1.05, 1.0))
    axes.set_ylim(bottom=0, top=max(1, *(max(one.differing, one.hints) for one in looks)) * 1.1)
    axes.set_xlabel("seconds since the last fault was undone")
    axes.set_ylabel("still to heal")
    _legend(axes, theme)
    return _png(figure)


def _throughput(axes: Axes, series: Series, theme: Theme) -> None:
    axes.stackplot(
        series.seconds,
        [series.answered, series.refused, series.unanswered],
        labels=["answered", "refused", "no answer"],
        colors=[theme.colours[2], theme.colours[4], theme.colours[1]],
        step="post",
        alpha=0.85,
    )
    axes.set_ylabel("requests per second")
    axes.set_ylim(bottom=0)
    _legend(axes, theme)


def _latency(axes: Axes, series: Series, theme: Theme) -> None:
    for values, label, colour in (
        (series.p99_ms, "p99", theme.colours[1]),
        (series.p50_ms, "p50", theme.colours[0]),
    ):
        drawn = [float("nan") if value is None else value for value in values]
        axes.step(series.seconds, drawn, where="post", label=label, color=colour, linewidth=1.3)
    axes.set_yscale("log")
    axes.set_ylabel("latency of answers (ms)")
    _legend(axes, theme)


def _errors(axes: Axes, series: Series, theme: Theme) -> None:
    if series.errors:
        axes.stackplot(
            series.seconds,
            list(series.errors.values()),
            labels=[f"{kind} ({sum(counts):,})" for kind, counts in series.errors.items()],
            colors=[colour for colour, _ in zip(cycle(theme.colours), series.errors, strict=False)],
            step="post",
            alpha=0.85,
        )
        _legend(axes, theme)
    axes.set_ylabel("errors per second")
    axes.set_ylim(bottom=0)


def _faults(
    axes: Axes, bands: Sequence[Band], kinds: Sequence[Kind], theme: Theme, end_s: float
) -> None:
    rows = {kind: row for row, kind in enumerate(reversed(kinds))}
    for band in bands:
        ends_s = min(band.ends_s or end_s, end_s)
        width_s = max(ends_s - band.begins_s, 0.004 * end_s)
        axes.barh(
            rows[band.kind], width_s, left=band.begins_s, height=0.6, color=theme.band, alpha=0.9
        )
    axes.set_yticks(list(rows.values()), [kind.value for kind in rows])
    axes.set_ylim(-0.6, max(len(rows), 1) - 0.4)
    axes.set_xlabel("seconds since clients began")


def _shade(axes: Axes, bands: Sequence[Band], theme: Theme, end_s: float) -> None:
    for band in bands:
        axes.axvspan(
            band.begins_s, min(band.ends_s or end_s, end_s), color=theme.band, alpha=0.1, lw=0
        )


def _dress(axes: Axes, theme: Theme) -> None:
    axes.set_facecolor(theme.paper)
    axes.grid(visible=True, color=theme.faint, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=theme.ink, labelsize=9)
    for part in (axes.xaxis.label, axes.yaxis.label):
        part.set_color(theme.ink)
        part.set_fontsize(9)
    for side, spine in axes.spines.items():
        spine.set_color(theme.faint)
        spine.set_visible(side in ("left", "bottom"))


def _legend(axes: Axes, theme: Theme) -> None:
    """Beside the plot, so that it covers nothing."""
    legend = axes.legend(
        loc="upper left", bbox_to_anchor=(1.005, 1.0), frameon=False, fontsize=9, borderaxespad=0.0
    )
    for text in legend.get_texts():
        text.set_color(theme.ink)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    return buffer.getvalue()
