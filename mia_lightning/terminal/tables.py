"""Tables and sentences that break between words alone and are never cut, however narrow the place."""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.text import Text

AS_WIDE_AS_NEEDED = 1_000_000
_GAPS = ("  ", " ")
_INDENT = "  "


def printer(*, stderr: bool = False) -> Console:
    """A console of the width of its terminal; in a file or a pipe, of whatever width a line has."""
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=AS_WIDE_AS_NEEDED)


@dataclass(frozen=True)
class Columns:
    """A table for a console, whose `print` is given `crop=False`.

    Where it is wider than its place, the first columns, as many as it takes, stand on lines of their own above their
    row. Lines that are still too wide are left to the terminal to wrap.

    Attributes:
        heads: of the columns; like all cells they may have several lines.
        rows: their cells.
        num_names: the first columns, which are aligned on the left; the others are on the right.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    num_names: int

    def lines(self, width: int) -> list[str]:
        """The table in lines, of at most `width` cells if that can be."""
        table = [self.heads, *self.rows]
        widths = [
            max(cell_len(line) for cell in column for line in _split(cell)) for column in zip(*table, strict=True)
        ]
        ways = [(n, gap) for n in range(self.num_names + 1) for gap in _GAPS]
        apart, gap = next((way for way in ways if _total(widths[way[0] :], *way) <= width), ways[-1])
        indent = _INDENT if apart else ""
        lines = []
        for place, row in enumerate(table):
            alone = ", ".join(filter(None, (" ".join(cell.split("\n")) for cell in row[:apart])))
            lines += wrapped(alone, width) if place else [alone][:apart]
            lines += [indent + line for line in self._beside(row, widths, apart, gap)]
        return lines

    def _beside(self, row: Sequence[str], widths: Sequence[int], apart: int, gap: str) -> Iterator[str]:
        """The cells from the column `apart` on; heads stand on the figures below them."""
        cells = [_split(cell) for cell in row[apart:]]
        height = max(map(len, cells))
        for level in range(height):
            texts = []
            for place, (lines, width) in enumerate(zip(cells, widths[apart:], strict=True), apart):
                own = level - (height - len(lines) if row is self.heads else 0)
                text = lines[own] if 0 <= own < len(lines) else ""
                space = " " * (width - cell_len(text))
                texts.append(text + space if place < self.num_names else space + text)
            yield gap.join(texts).rstrip()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        for line in self.lines(options.max_width):
            yield Text(line, no_wrap=True, overflow="ignore")


@dataclass(frozen=True)
class Sentence:
    """Text for a console that breaks between words alone."""

    text: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        for line in wrapped(self.text, options.max_width):
            yield Text(line, no_wrap=True, overflow="ignore")


def wrapped(text: str, width: int) -> list[str]:
    """The text in lines that break between words; [] for none."""
    return [
        line
        for part in text.split("\n")
        for line in textwrap.wrap(part, width, break_long_words=False, break_on_hyphens=False)
    ]


def _split(cell: str) -> list[str]:
    return cell.split("\n")


def _total(widths: Sequence[int], apart: int, gap: str) -> int:
    return sum(widths) + len(gap) * (len(widths) - 1) + (len(_INDENT) if apart else 0)
