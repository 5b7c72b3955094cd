"""Progress of the stages of a run: models, epochs, losses and times."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, Self

import pytorch_lightning as pl
from rich.console import Console
from torch import Tensor

from mia_lightning.errors import one_line
from mia_lightning.terminal.display import Display, Look, Now, Quantiles, Row, display_on

RemarkKind = Literal["warning", "broken", "note"]
SECONDS_BETWEEN_LOOKS = 0.25  # at the losses: reading them makes the device wait


class Stages:
    """Shows the stages of a run ("target", "shadow", ...) as they go, and remarks.

    A terminal shows one live table, another console plain lines. Without a console nothing is shown, but the remarks
    are kept for the report.

    Args:
        console: where the stages are shown; None shows nothing.
        now: a clock, in seconds.
    """

    def __init__(self, console: Console | None = None, *, now: Now = time.perf_counter) -> None:
        self.console = console
        self.remarks: list[str] = []
        self.broken: list[str] = []
        self.notes: list[str] = []
        self.seconds: dict[str, float] = {}
        self._now = now
        self._display = display_on(console, now)
        self._clocked: list[Row] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._display.close()

    def remark(self, sentence: str, *, kind: RemarkKind = "warning") -> None:
        """Print a sentence and keep it for the report.

        Args:
            kind: a warning for the top; one after which low figures are no evidence (`broken`); or a note about an
                attack for the appendix.
        """
        sentence = one_line(sentence)
        (self.notes if kind == "note" else self.remarks).append(sentence)
        if kind == "broken":
            self.broken.append(sentence)
        self._display.say(sentence, "dim" if kind == "note" else "yellow")

    def note(self, sentence: str) -> None:
        """Print a sentence that is not for the report."""
        self._display.say(one_line(sentence), "dim")

    @contextmanager
    def stage(self, name: str, epochs: int, models: int = 0) -> Iterator["EpochBar"]:
        """A stage that trains `models` in `epochs`, summed over the chunks in which the models train."""
        row = next((row for row in self._clocked if row.name == name), None)
        if row is None:
            with self._row(name) as row:
                yield from self._bar(row, epochs, models)
        else:  # the training within a stage that `clock` has begun
            yield from self._bar(row, epochs, models)

    @contextmanager
    def clock(self, name: str) -> Iterator[None]:
        """A stage whose duration goes to `seconds[name]`."""
        start = self._now()
        try:
            with self._row(name) as row:
                self._clocked.append(row)
                try:
                    yield
                finally:
                    self._clocked.remove(row)
        finally:
            self.seconds[name] = self._now() - start

    def asking(self, records: int) -> Callable[[int], None]:
        """A function to call with the number of further answers, for queries of a served model for so many records."""
        if not self._clocked:
            return lambda _: None
        row = self._clocked[-1]
        if not row.records:
            row.asking_begun = self._now()
        row.records += records

        def answered(more: int) -> None:
            row.answered += more
            self._display.move(row)

        return answered

    @contextmanager
    def _row(self, name: str) -> Iterator[Row]:
        row = Row(name=name, begun=self._now())
        self._display.begin(row)
        try:
            yield row
        finally:
            row.seconds = self._now() - row.begun
        self._display.end(row)  # not reached by a stage that failed

    def _bar(self, row: Row, epochs: int, models: int) -> Iterator["EpochBar"]:
        bar = EpochBar(row, self._display, now=self._now)
        bar.begin(epochs, models)
        yield bar
        bar.finish()


class EpochBar:
    """The training of one stage, which the chunks of models advance by their epochs."""

    def __init__(self, row: Row, display: Display, *, now: Now = time.perf_counter) -> None:
        self._row, self._display, self._now = row, display, now
        self._epochs = 0
        self._of_chunk = 0  # finished epochs of the present chunk
        self._looked: float | None = None

    def begin(self, epochs: int, models: int) -> None:
        """Announce the epochs, summed over chunks, and the models to train."""
        self._epochs = epochs
        self._row.epochs += epochs
        self._row.models += models
        if not self._row.advanced:
            self._row.training_begun = self._now()

    def until(self, epochs: int) -> None:
        """Change the number of epochs, after the chunks have become more."""
        self._row.epochs += epochs - self._epochs
        self._epochs = epochs

    def finish(self) -> None:
        """Mark it as complete, also where models that stopped early took fewer epochs."""
        self._row.done, self._row.trained = self._row.epochs, self._row.models

    def advance(self, look: Look | None) -> None:
        """Advance by one epoch of a chunk; `look` is None where its losses were not measured."""
        self._of_chunk += 1
        self._row.done += 1
        self._row.advanced += 1
        if look is not None:
            self._row.look = look
        self._display.move(self._row)

    def skip(self, epochs: int) -> None:
        """Advance by epochs that need no training."""
        self._of_chunk += epochs
        self._row.done += epochs

    def restart_chunk(self) -> None:
        """Take back the finished epochs of the present chunk, which is trained again."""
        self.skip(-self._of_chunk)

    def count(self, models: int) -> None:
        """Add trained models."""
        self._row.trained += models
        self._display.move(self._row)

    def end_chunk(self, models: int, epochs: int) -> None:
        """A chunk of `models`, for which `epochs` were planned, is trained."""
        self.skip(epochs - self._of_chunk)
        self._of_chunk = 0
        self.count(models)

    def is_due(self) -> bool:
        """Whether it is time to read the losses again; True once for each time."""
        now = self._now()
        if self._looked is not None and now - self._looked < SECONDS_BETWEEN_LOOKS:
            return False
        self._looked = now
        return True

    def for_trainer(self) -> pl.Callback:
        return _Advance(self)


def quantiles_of(value_K: Tensor) -> Quantiles:
    """Quantiles over the models of a stack, without the NaN of models that have stopped."""
    low, median, high = value_K.nanquantile(value_K.new_tensor([0.1, 0.5, 0.9])).tolist()
    return Quantiles(low, median, high)


class _Advance(pl.Callback):
    def __init__(self, bar: EpochBar) -> None:
        self._bar = bar
        self._looks = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._bar.skip(trainer.current_epoch)  # not 0 where training continues from a checkpoint

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx + 1 < len(pl_module.batches):
            return
        self._looks = self._bar.is_due() or trainer.current_epoch + 1 == trainer.max_epochs
        pl_module.counts_hits = self._looks  # in this step alone, from its own outputs

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._bar.advance(_look(pl_module) if self._looks else None)
        pl_module.counts_hits = self._looks = False


def _look(module: Any) -> Look:
    accuracy_K = module.batch_accuracy_K()
    return Look(quantiles_of(module.epoch_loss_K()), None if accuracy_K is None else quantiles_of(accuracy_K))
