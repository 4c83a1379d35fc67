"""What the demo prints: headings, sentences, a line a second, and a table at the end."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from rich.console import Console
from rich.text import Text

from cluster.regionpairs import Pair
from scripts.demo.visitors import Tally

#: A narrower terminal is told less of each second.
WIDTH: Final = 99
_HEADS: Final = (
    f"{'':5}{'clients':30}{'stale reads':14}",
    f"{'time':5}{'asked':>5}{'failed':>7}{'retried':>8}{'slowest':>9}{'no token':>9}{'token':>6}",
)
_SUMMARY_HEAD: Final = (
    f"{'':22}{'requests':>10}{'failed':>8}{'retried':>9}{'by the edge':>13}{'slowest':>10}"
    f"{'no token':>10}{'token':>7}"
)
#: Beyond it, what a region is behind is worth a look.
_BEHIND_S: Final = 2.0


class Screen:
    """A terminal, or a file."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._wide = console.width >= WIDTH

    def heading(self, title: str) -> None:
        """Of an act."""
        self._console.print()
        self._console.rule(f"[bold]{title}", align="left", style="dim")

    def tell(self, words: str) -> None:
        """A few sentences."""
        self._console.print(Text(words), width=min(WIDTH, self._console.width))

    def head(self, pairs: Sequence[Pair]) -> None:
        """Over the lines of an act."""
        columns = f"{'all until':>10}" if self._wide else ""
        columns += f"{'behind':>7}{'waiting':>8}"
        groups = [f"{pair.source} to {pair.target}".rjust(len(columns)) for pair in pairs]
        for words in (_HEADS[0] + "".join(groups), _HEADS[1] + columns * len(pairs)):
            self._console.print(Text(words, style="dim"), soft_wrap=True)

    def line(self, at_s: float, tally: Tally, pairs: Sequence[Pair]) -> None:
        """A second."""
        self._console.print(line(at_s, tally, pairs, wide=self._wide), soft_wrap=True)

    def summary(self, acts: Mapping[str, tuple[Tally, int | None]]) -> None:
        """All acts; with each, how often the edge asked another node."""
        self._console.print(Text(_SUMMARY_HEAD, style="dim"), soft_wrap=True)
        for title, (tally, by_edge) in acts.items():
            edge = "-" if by_edge is None else f"{by_edge:,}"
            self._console.print(
                f"{title:22}{tally.requests:>10,}{tally.failed.total():>8}{tally.retried:>9}"
                f"{edge:>13}{_ms(tally.slowest_s):>10}{tally.stale_without_token:>10}"
                f"{tally.stale_with_token:>7}",
                soft_wrap=True,
            )


def line(at_s: float, tally: Tally, pairs: Sequence[Pair], *, wide: bool) -> Text:
    """What clients saw in a second, and how far the regions are with each other's writes."""
    failed, stale = tally.failed.total(), tally.stale_with_token
    text = Text(f"{at_s // 60:.0f}:{at_s % 60:02.0f}".ljust(5))
    text.append(f"{tally.requests:>5}")
    text.append(f"{failed:>7}", "red" if failed else "")
    text.append(f"{tally.retried:>8}{_ms(tally.slowest_s):>9}")
    text.append(f"{tally.stale_without_token:>9}", "yellow" if tally.stale_without_token else "")
    text.append(f"{stale:>6}", "red" if stale else "green")
    for pair in pairs:
        text.append(_progress(pair, wide=wide), "yellow" if _is_behind(pair) else "")
    return text


def _progress(pair: Pair, *, wide: bool) -> str:
    until, behind = "?", "?"
    if pair.watermark_ms is not None and pair.lag_s is not None:
        until = f"{datetime.fromtimestamp(pair.watermark_ms / 1000, UTC):%H:%M:%S}"
        behind = f"{pair.lag_s:.1f} s"
    return (f"{until:>10}" if wide else "") + f"{behind:>7}{pair.waiting:>8,}"


def _is_behind(pair: Pair) -> bool:
    return pair.lag_s is None or pair.lag_s > _BEHIND_S


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:,.0f} ms"
