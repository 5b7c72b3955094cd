"""Tables of the benchmarks, as Markdown."""

from collections.abc import Sequence


def render(header: Sequence[str], table: Sequence[Sequence[str]], *, words: int = 1) -> str:
    """The rows of `table` under `header`; the first `words` columns are words, the others are numbers."""
    widths = [max(len(row[i]) for row in (header, *table)) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = [c.rjust(w) if i >= words else c.ljust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * (w - 1) + ":" if i >= words else "-" * w for i, w in enumerate(widths)]
    return "\n".join([line(header), line(rule), *map(line, table)])
