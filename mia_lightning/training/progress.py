"""Progress of a run's stages, one rich bar each."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

import pytorch_lightning as pl
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


class Stages:
    """Shows the stages of a run ("target", "shadow", ...) as they go, and the remarks made on the way.

    Without a console it shows nothing, and keeps the remarks all the same.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console
        self.remarks: list[str] = []
        self.seconds: dict[str, float] = {}
        self._progress = Progress(
            TextColumn("{task.description:<16}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("epochs"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=console or Console(quiet=True),
            disable=console is None,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def remark(self, sentence: str) -> None:
        """Print a sentence that the report repeats."""
        self.remarks.append(sentence)
        if self.console is not None:
            self.console.print(sentence, style="yellow", highlight=False)

    def note(self, sentence: str) -> None:
        """Print a sentence that the report does not repeat."""
        if self.console is not None:
            self.console.print(sentence, style="dim", highlight=False)

    @contextmanager
    def stage(self, name: str, epochs: int) -> Iterator["EpochBar"]:
        """A bar for the stage."""
        self._progress.start()  # without effect on one that has started
        task = self._progress.add_task(name, total=epochs, note="")
        bar = EpochBar(self._progress, task, epochs)
        yield bar
        bar.finish()

    @contextmanager
    def clock(self, name: str) -> Iterator[None]:
        """Count the seconds within the context under `name` in `seconds`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = time.perf_counter() - start


class EpochBar:
    """One stage's bar; every chunk of models moves it on by its epochs."""

    def __init__(self, progress: Progress, task: TaskID, epochs: int) -> None:
        self._progress, self._task, self._epochs = progress, task, epochs

    def until(self, epochs: int) -> None:
        """Let the bar end at another number of epochs, the chunks having become more."""
        self._epochs = epochs
        self._progress.update(self._task, total=epochs)

    def finish(self) -> None:
        """Show it as complete: models that stop early take fewer epochs."""
        self._progress.update(self._task, completed=self._epochs)

    def advance(self, loss: float | None) -> None:
        """By one epoch of one chunk, after which its median loss is this."""
        self._progress.advance(self._task)
        if loss is not None:
            self._progress.update(self._task, note=f"loss {loss:.3f}")

    def for_trainer(self) -> pl.Callback:
        return _Advance(self)


class _Advance(pl.Callback):
    def __init__(self, bar: EpochBar) -> None:
        self._bar = bar

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        losses = [
            float(value) for name, value in trainer.callback_metrics.items() if name.endswith("train_loss/median")
        ]
        self._bar.advance(losses[0] if losses else None)
