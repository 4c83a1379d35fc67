"""Pieces of HTML. Whatever is put into them is escaped here."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

#: In place of a number that there is not.
NONE: Final = "—"
#: A cell that a narrow screen has no room for.
_QUIET: Final = ' class="none"'
_MIB: Final = 1024 * 1024


def typed(text: str) -> str:
    """Escaped; what stands between backquotes is to be typed."""
    words = escape(text).split("`")
    return "".join(f"<code>{word}</code>" if at % 2 else word for at, word in enumerate(words))


def described(facts: Iterable[tuple[str, str]]) -> str:
    """Names and values."""
    rows = (f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts)
    return f"<dl>{''.join(rows)}</dl>"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Every cell says its column too, for narrow screens show one below the other."""
    cells = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "".join(
        "<tr>"
        + "".join(
            f'<td{_QUIET if cell == NONE else ""} data-label="{escape(name)}">{escape(cell)}</td>'
            for name, cell in zip(head, row, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>"


def milliseconds(duration_s: float | None) -> str:
    """For people."""
    return NONE if duration_s is None else f"{duration_s * 1000:.1f} ms"


def duration(duration_s: float) -> str:
    """For people, roughly."""
    for unit_s, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if duration_s >= 2 * unit_s:
            return f"{duration_s / unit_s:.0f} {unit}"
    return f"{duration_s:.0f} s"


def size(size_bytes: float) -> str:
    """For people, roughly."""
    if size_bytes >= 1024 * _MIB:
        return f"{size_bytes / 1024 / _MIB:,.0f} GiB"
    if size_bytes >= _MIB:
        return f"{size_bytes / _MIB:,.{0 if size_bytes >= 100 * _MIB else 1}f} MiB"
    return f"{size_bytes:,.0f} B"
