"""Lines over the last minutes, as SVG. No text in it: the page says what the numbers are.

The curve is drawn in units of seconds and of the top of the scale, and stretched by the browser; so
nothing here knows how wide the page is.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

_HEIGHT: Final = 100
#: A line is interrupted where nothing was measured for longer than this.
_GAP_S: Final = 2.5


class Line(NamedTuple):
    """One curve."""

    #: Of the style sheet.
    name: str
    #: Time and value, ascending; None: there was nothing to measure.
    points: Sequence[tuple[float, float | None]]


def top_of(lines: Iterable[Line], least: float) -> float:
    """The top of a scale that all fit under: 1, 2 or 5 times a power of ten."""
    values = (value for line in lines for _, value in line.points if value is not None)
    highest = max(max(values, default=0.0), least)
    power = 10.0 ** math.floor(math.log10(highest))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= highest * 0.999)


def draw(lines: Sequence[Line], *, now_s: float, span_s: float, top: float) -> str:
    """An ``svg`` element of these curves, the latest moment at the right."""
    paths = "".join(
        f'<path class="line {line.name}" d="{_path(line, now_s, span_s, top)}"/>' for line in lines
    )
    grid = "".join(
        f'<path class="grid" d="M0 {y}H{span_s:g}"/>' for y in (0, _HEIGHT // 2, _HEIGHT)
    )
    return (
        f'<svg viewBox="0 -2 {span_s:g} {_HEIGHT + 4}" preserveAspectRatio="none" '
        f'aria-hidden="true">{grid}{paths}</svg>'
    )


def _path(line: Line, now_s: float, span_s: float, top: float) -> str:
    drawn: list[str] = []
    previous_s = -math.inf
    for at_s, value in line.points:
        x = span_s - (now_s - at_s)
        if value is None or x < 0:
            continue
        pen = "L" if at_s - previous_s <= _GAP_S else "M"
        y = _HEIGHT * (1 - min(value / top, 1))
        # A point after a gap is a dot, until the next one makes it a line.
        drawn.append(f"{pen}{x:.1f} {y:.1f}" + ("h.1" if pen == "M" else ""))
        previous_s = at_s
    return "".join(drawn)
