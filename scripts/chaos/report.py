"""A run as a page that needs nothing else, with its pictures beside it.

report.html     the page, light or dark as the reader likes it; everything is in it
*.png           its pictures (and *-dark.png)
plan.toml       the faults, to be played again with --plan
violations.txt  what was wrong, with the story of each document; only when something was
"""

import base64
import html
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from scripts.chaos.plan import as_text
from scripts.chaos.plots import THEMES, healing_png, run_png
from scripts.chaos.run import Outcome
from scripts.chaos.series import quantile, series_of
from scripts.chaos.verdict import is_definite
from scripts.checker.history import timeline

_PAGE: Final = Path(__file__).with_name("report.html")
#: Whose stories are told whole.
_TOLD_WHOLE: Final = 10
_TELLING: Final = (
    (
        "run",
        "What clients had, and which faults there were",
        "Each second's requests, the latency of the answers among them, and the errors by kind. "
        "Shaded: some fault is under way; the lowest part says which.",
    ),
    (
        "healing",
        "How the cluster healed",
        "After clients had stopped and every fault was undone: documents of which two owners would "
        "say different things, and writes that are still held for a node as hints.",
    ),
)


def write_report(outcome: Outcome, directory: Path, left_out: Sequence[str]) -> Path:
    """Write everything; the page's path is returned."""
    directory.mkdir(parents=True, exist_ok=True)
    which = f"Chaos, seed {outcome.options.seed}, {outcome.options.size}"
    series = series_of(outcome.history, outcome.load_ended_s)
    pictures: dict[str, dict[str, bytes]] = {name: {} for name, _, _ in _TELLING}
    for theme_name, theme in THEMES.items():
        pictures["run"][theme_name] = run_png(
            series, outcome.bands, theme, f"{which}: load and faults"
        )
        pictures["healing"][theme_name] = healing_png(
            outcome.looks, outcome.load_ended_s, theme, f"{which}: healing"
        )
    for name, themes in pictures.items():
        (directory / f"{name}.png").write_bytes(themes["light"])
        (directory / f"{name}-dark.png").write_bytes(themes["dark"])
    (directory / "plan.toml").write_text(as_text(outcome.options.plan), encoding="utf-8")
    stories = _stories(outcome)
    if stories:
        (directory / "violations.txt").write_text(stories, encoding="utf-8")
    page = directory / "report.html"
    page.write_text(_page(outcome, pictures, stories, left_out), encoding="utf-8")
    return page


def _stories(outcome: Outcome) -> str:
    """Everything that was wrong, and all that is known of the first documents it was wrong with."""
    parts = [f"seed {outcome.options.seed}", *map(str, outcome.violations)]
    documents = dict.fromkeys(one.document_id for one in outcome.violations if one.document_id)
    parts += [
        timeline(f"timeline of {document_id.hex()}:", document_id, outcome.history, outcome.notes)
        for document_id in list(documents)[:_TOLD_WHOLE]
    ]
    return "\n\n".join(parts) if outcome.violations else ""


def _page(
    outcome: Outcome,
    pictures: dict[str, dict[str, bytes]],
    stories: str,
    left_out: Sequence[str],
) -> str:
    escape = html.escape
    verdict = outcome.verdict
    sections = [
        f"<section><h2>{escape(title)}</h2><p>{escape(text)}</p>{_picture(pictures[name], title)}"
        "</section>"
        for name, title, text in _TELLING
    ]
    if stories:
        sections.insert(
            0, f"<section><h2>What was wrong</h2><pre>{escape(stories)}</pre></section>"
        )
    if left_out:
        items = "".join(f"<li>{escape(one)}</li>" for one in left_out)
        sections.append(f"<section><h2>What was left out</h2><ul>{items}</ul></section>")
    faults = "".join(
        f"<tr><td>{band.begins_s:.1f}</td><td>{(band.ends_s or 0) - band.begins_s:.1f}</td>"
        f"<td>{escape(band.what)}</td></tr>"
        for band in outcome.bands
    )
    notes = "\n".join(f"{at_s:8.2f} s  {what}" for at_s, what in outcome.notes)
    return (
        _PAGE.read_text(encoding="utf-8")
        .replace("{{verdict}}", escape(str(verdict)))
        .replace("{{result}}", "passed" if verdict.passed else "failed")
        .replace("{{rows}}", _rows(outcome))
        .replace("{{sections}}", "".join(sections))
        .replace("{{faults}}", faults)
        .replace("{{notes}}", escape(notes))
        .replace("{{again}}", escape(_again(outcome)))
    )


def _rows(outcome: Outcome) -> str:
    verdict, options = outcome.verdict, outcome.options
    loaded = [one for one in outcome.history if one.invoked_s < outcome.load_ended_s]
    latencies = sorted(
        one.answered_s - one.invoked_s
        for one in loaded
        if is_definite(one) and one.answered_s is not None
    )
    p50_s, p99_s = quantile(latencies, 0.5), quantile(latencies, 0.99)
    share = sum(map(is_definite, loaded)) / max(len(loaded), 1)
    healing_s = outcome.looks[-1].at_s - outcome.load_ended_s
    rows = {
        "seed": f"{options.seed}",
        "cluster": options.size,
        "load": f"{outcome.load_ended_s:.0f} s, {options.clients} clients",
        "operations": f"{verdict.operations:,}",
        "acknowledged": f"{verdict.acknowledged:,}",
        **{sort: f"{count:,}" for sort, count in verdict.wrong.items()},
        "unknown outcomes": f"{verdict.unknown:,}",
        "unavailable": f"{verdict.unavailable_s} s",
        "answered under load": f"{share:.1%}",
        "latency of answers": f"p50 {_ms(p50_s)}, p99 {_ms(p99_s)}",
        "faults": f"{len(outcome.bands)}",
        "healed after": "not" if outcome.looks[-1].reasons else f"{healing_s:.1f} s",
        "excused": f"{verdict.excused} documents, whose only acknowledged copy was destroyed",
    }
    return "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>"
        for name, value in rows.items()
    )


def _ms(seconds: float | None) -> str:
    return "none" if seconds is None else f"{1000 * seconds:.1f} ms"


def _picture(themes: dict[str, bytes], title: str) -> str:
    light, dark = (
        f"data:image/png;base64,{base64.b64encode(themes[name]).decode()}"
        for name in ("light", "dark")
    )
    return (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img alt="{html.escape(title)}" src="{light}"></picture>'
    )


def _again(outcome: Outcome) -> str:
    options = outcome.options
    return (
        f"make chaos SEED={options.seed} REGIONS={options.regions} NODES={options.nodes} "
        f"DURATION={options.duration_s:g} PLAN=plan.toml"
    )
