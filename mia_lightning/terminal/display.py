"""Display of the stages of a run: one live table on a terminal, plain lines elsewhere, or nothing."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mia_lightning.terminal.amounts import stopwatch

SECONDS_BETWEEN_LINES = 10.0  # of one stage, where the output is no terminal
FRAMES_PER_SECOND = 4
WIDE = 100  # columns of a terminal that has room for bars, too

Now = Callable[[], float]


class Quantiles(NamedTuple):
    """Over the models of a stack: the median and the quantiles of 10 % and 90 %."""

    low: float
    median: float
    high: float

    def __str__(self) -> str:
        if self.low == self.high:  # of one model
            return f"{self.median:.3f}"
        return f"{self.median:.3f} ({self.low:.3f}-{self.high:.3f})"

    @property
    def percent(self) -> str:
        """Of shares: "89 % (75-100)"."""
        low, median, high = (f"{100 * value:.0f}" for value in self)
        return f"{median} %" if low == high else f"{median} % ({low}-{high})"


class Look(NamedTuple):
    """Loss and accuracy of a chunk of models at the end of an epoch.

    Attributes:
        loss: mean training loss over the epoch.
        accuracy: on the last training batch of the epoch; None where no labels are predicted, or where the outputs are
            not available.
    """

    loss: Quantiles
    accuracy: Quantiles | None = None


@dataclass(eq=False, kw_only=True)
class Row:
    """The state of a stage; a stage that trains nothing has 0 models and 0 epochs.

    Attributes:
        name: such as "shadow" or "attack/shokri".
        begun: time of its start, in seconds.
        models, epochs: to be trained; epochs are summed over the chunks of models, which train one after another.
        trained, done: the models and epochs that are finished.
        advanced: the finished epochs that were trained here: others came from the store, or were saved by early
            stopping.
        training_begun: time of the start of training.
        records, answered: the records that a served model is queried for, and those that it has answered.
        asking_begun: time of the first query.
        look: at the last measured epoch, over the models of its chunk.
        seconds: its duration; None until it has ended.
    """

    name: str
    begun: float
    models: int = 0
    epochs: int = 0
    trained: int = 0
    done: int = 0
    advanced: int = 0
    training_begun: float = 0.0
    records: int = 0
    answered: int = 0
    asking_begun: float = 0.0
    look: Look | None = None
    seconds: float | None = None

    def left(self, now: float) -> float | None:
        """Seconds that the rest of its training or queries will take at the present pace; None where it has no pace
        yet."""
        if self.seconds is None and self.answered < self.records and self.answered:
            return (now - self.asking_begun) / self.answered * (self.records - self.answered)
        if self.seconds is not None or not self.advanced:
            return None
        return (now - self.training_begun) / self.advanced * max(self.epochs - self.done, 0)


class Display(Protocol):
    """Shows the stages."""

    def begin(self, row: Row) -> None:
        """A stage has begun."""

    def move(self, row: Row) -> None:
        """A stage has moved on."""

    def end(self, row: Row) -> None:
        """A stage has succeeded."""

    def say(self, sentence: str, style: str) -> None:
        """Show a sentence."""

    def close(self) -> None:
        """The run has ended."""


def display_on(console: Console | None, now: Now) -> Display:
    """The live table on a terminal, plain lines on another console, nothing without a console."""
    if console is None:
        return Hidden()
    return LiveTable(console, now) if console.is_terminal and console.is_interactive else Lines(console, now)


class Hidden:
    """Shows nothing."""

    def begin(self, row: Row) -> None: ...

    def move(self, row: Row) -> None: ...

    def end(self, row: Row) -> None: ...

    def say(self, sentence: str, style: str) -> None: ...

    def close(self) -> None: ...


class Lines:
    """A line where a stage begins and one where it ends; in between at most one line in ten seconds."""

    def __init__(self, console: Console, now: Now = time.perf_counter) -> None:
        self._console, self._now = console, now
        self._last: dict[Row, float] = {}

    def begin(self, row: Row) -> None:
        self._last[row] = self._now()
        self._print(f"{row.name}: started")

    def move(self, row: Row) -> None:
        now = self._now()
        if now - self._last[row] < SECONDS_BETWEEN_LINES:
            return
        self._last[row] = now
        left = row.left(now)
        told = [] if left is None else [f"about {stopwatch(left)} left"]
        self._print(f"{row.name}: {', '.join([*_state(row), *told])}")

    def end(self, row: Row) -> None:
        self._print(f"{row.name}: {', '.join([*_state(row), f'done in {row.seconds or 0.0:.1f} s'])}")

    def say(self, sentence: str, style: str) -> None:
        self._print(sentence)

    def close(self) -> None: ...

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)


class LiveTable:
    """One table with a row for each stage, redrawn in place; sentences are printed above it."""

    def __init__(self, console: Console, now: Now = time.perf_counter) -> None:
        self._console, self._now = console, now
        self._rows: list[Row] = []
        self._is_closed = False
        self._live = Live(console=console, get_renderable=self.table, refresh_per_second=FRAMES_PER_SECOND)

    def begin(self, row: Row) -> None:
        self._rows.append(row)
        self._live.start()  # does nothing once it has started

    def move(self, row: Row) -> None: ...  # shown by the next frame

    def end(self, row: Row) -> None: ...

    def say(self, sentence: str, style: str) -> None:
        self._console.print(sentence, style=style, highlight=False, markup=False)

    def close(self) -> None:
        self._is_closed = True
        self._live.stop()

    def table(self) -> Table:
        """All stages once the run has ended; before, the last ones that the terminal has room for."""
        table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
        table.add_column("stage", overflow="ellipsis")  # the one column that shrinks on a narrow terminal
        has_accuracy = any(row.look is not None and row.look.accuracy is not None for row in self._rows)
        has_bar = not has_accuracy or self._console.width >= WIDE
        names = ["models", *([""] if has_bar else []), "epochs", "loss (10-90 %)"]
        for name in [*names, *(["batch accuracy"] if has_accuracy else []), "time", "left"]:
            table.add_column(name, justify="right" if name else "left", no_wrap=True)
        now = self._now()
        # Room for the head of the table, and for one line below it.
        rows = self._rows if self._is_closed else self._rows[-max(1, self._console.height - 2) :]
        for row in rows:
            left = row.left(now)
            table.add_row(
                Text(row.name),
                f"{row.trained}/{row.models}" if row.models else _asked(row),
                *([_bar(row)] if has_bar else []),
                f"{row.done}/{row.epochs}" if row.epochs else "",
                "" if row.look is None else str(row.look.loss),
                *([_accuracy(row)] if has_accuracy else []),
                stopwatch(now - row.begun if row.seconds is None else row.seconds),
                "" if left is None else stopwatch(left),
            )
        return table


def _bar(row: Row) -> ProgressBar | str:
    return ProgressBar(total=row.epochs, completed=row.done, width=10) if row.epochs else ""


def _asked(row: Row) -> str:
    return f"{row.answered:,}/{row.records:,} records" if row.records else ""


def _accuracy(row: Row) -> str:
    return "" if row.look is None or row.look.accuracy is None else row.look.accuracy.percent


def _state(row: Row) -> list[str]:
    accuracy = _accuracy(row)
    return [
        *([f"{row.trained}/{row.models} models"] if row.models else []),
        *([_asked(row)] if row.records else []),
        *([f"{row.done}/{row.epochs} epochs"] if row.epochs else []),
        *([] if row.look is None else [f"loss {row.look.loss}"]),
        *([f"batch accuracy {accuracy}"] if accuracy else []),
    ]
