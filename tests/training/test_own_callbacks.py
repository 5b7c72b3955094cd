"""Callbacks of a LightningModule: those that change the training are refused, those that watch are left out."""

from typing import Any

import pytest
import pytorch_lightning as pl
from own_refused import Net, refusal, with_method

from mia_lightning.callbacks.monitor import LeakageMonitor
from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.training.given_trainer import settings_of
from mia_lightning.training.own.taken import taken
from mia_lightning.training.stack.binding import bind_records
from mia_lightning.training.step.recipe import Recipe


@pytest.mark.parametrize(
    "callback", [pl.callbacks.StochasticWeightAveraging(0.1), pl.callbacks.GradientAccumulationScheduler({0: 2})]
)
def test_callbacks_that_change_weights_or_steps(callback: pl.Callback, blobs: Population) -> None:
    own = with_method("configure_callbacks", lambda self: [callback])
    assert type(callback).__name__ in refusal(own, blobs)


def test_callbacks_that_cannot_be_made(blobs: Population) -> None:
    assert "missing" in refusal(with_method("configure_callbacks", lambda self: self.missing), blobs)


def test_callbacks_that_watch_are_no_matter_and_others_are_said(blobs: Population) -> None:
    for callback, is_said in ((pl.callbacks.ModelSummary(), False), (pl.callbacks.EarlyStopping("loss"), True)):
        own = with_method("configure_callbacks", lambda self, callback=callback: callback)
        sentence = taken(bind_records(own, blobs), blobs, Recipe(epochs=2, batch_size=8), num_records=20).sentence
        assert sentence is not None
        assert (type(callback).__name__ in sentence) is is_said


class SetsRates(pl.Callback):
    def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
        trainer.optimizers[0].param_groups[0]["lr"] *= 0.9


class StopsAndSets(pl.callbacks.EarlyStopping):
    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        pl_module.tau = 0.5


@pytest.mark.costly
@pytest.mark.parametrize(
    ("callback", "hook"),
    [
        (SetsRates(), "on_train_batch_start"),
        (StopsAndSets("loss"), "on_train_epoch_end"),
        (pl.callbacks.LambdaCallback(on_train_epoch_start=print), "on_train_epoch_start"),
        (pl.callbacks.LearningRateMonitor(), None),
        (pl.callbacks.EarlyStopping("loss"), None),
        (pl.callbacks.ModelCheckpoint(), None),
        (LeakageMonitor(), None),
    ],
)
def test_callbacks_that_may_change_the_training_are_warned_of(
    callback: pl.Callback, hook: str | None, blobs: Population
) -> None:
    own = with_method("configure_callbacks", lambda self: callback)
    how = taken(bind_records(own, blobs), blobs, Recipe(epochs=2, batch_size=8), num_records=20)
    settings = settings_of(pl.Trainer(max_epochs=2, accelerator="cpu", logger=False, callbacks=[callback]))
    assert settings.fit is not None
    for warning in (how.warning, settings.fit.warning):
        assert (warning is None) is (hook is None)
        assert warning is None or (type(callback).__name__ in warning and str(hook) in warning)


class ByValidation(Net):
    """Weighs its loss by what a validation found, and counts validations for itself."""

    def __init__(self) -> None:
        super().__init__()
        self.alpha, self.validations = 1.0, 0

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.weight * super().training_step(batch, batch_idx)

    @property
    def weight(self) -> float:
        return self.alpha

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.validations += 1

    def on_validation_epoch_end(self) -> None:
        self.alpha = 0.5 if self.validations > 1 else 1.0


def test_what_a_validation_sets_and_training_reads_is_warned_of(blobs: Population) -> None:
    warning = taken(bind_records(ByValidation, blobs), blobs, Recipe(epochs=2), num_records=20).warning
    assert warning is not None
    for part in ("ByValidation", "`alpha` in on_validation_epoch_end"):
        assert part in warning
    assert "validations`" not in warning


def test_hooks_around_backward_that_stand_on_the_callback_itself_are_refused(blobs: Population) -> None:
    callback = pl.callbacks.LambdaCallback(on_before_optimizer_step=print)
    sentence = refusal(with_method("configure_callbacks", lambda self: callback), blobs)
    with pytest.raises(InputError) as refused:
        settings_of(pl.Trainer(max_epochs=2, accelerator="cpu", logger=False, callbacks=[callback]))
    for each in (sentence, str(refused.value)):
        assert "LambdaCallback" in each
        assert "on_before_optimizer_step" in each
