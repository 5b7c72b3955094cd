"""A user's own `pl.Trainer` in the place of the `trainer` section: what is taken from it, and what is refused."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import pytorch_lightning as pl

from mia_lightning.errors import InputError
from mia_lightning.lightning_names import base_named
from mia_lightning.training.own.refusals import check_callbacks, left_out, may_change, warning_of
from mia_lightning.training.step.recipe import Recipe
from mia_lightning.training.trainer import PRECISIONS, TrainerSettings


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What a Trainer says of the training, beside the hardware.

    Attributes:
        epochs: of each model.
        gradient_clip_norm: None for no limit.
        accumulate_batches: of one optimiser step.
        why: these epochs, where they are not those that the Trainer was to train, in a clause; "" where they are.
        left_out: the classes of its callbacks that take no part here.
        may_change: those of them that may change the training, with their hooks; None for none.
    """

    epochs: int
    gradient_clip_norm: float | None
    accumulate_batches: int
    why: str = ""
    left_out: tuple[str, ...] = ()
    may_change: str | None = None

    def applied(self, recipe: Recipe) -> Recipe:
        """The recipe by which the Trainer would train."""
        return replace(
            recipe,
            epochs=self.epochs,
            gradient_clip_norm=self.gradient_clip_norm,
            accumulate_batches=self.accumulate_batches,
        )

    def overruled(self, recipe: Recipe) -> str | None:
        """A sentence on settings of the recipe that the Trainer takes the place of; None where there are none."""
        open_ = {"epochs": recipe.leaves_epochs_open, "gradient_clip_norm": recipe.gradient_clip_norm is None}
        open_["accumulate_batches"] = recipe.accumulate_batches == 1
        names = [
            name for name, is_open in open_.items() if not is_open and getattr(recipe, name) != getattr(self, name)
        ]
        if not names:
            return None
        set_to = ", ".join(f"`training.{name}` ({getattr(recipe, name)})" for name in names)
        return f"The Trainer that was given takes the place of {set_to}; leave it out, or set these at the Trainer."

    @property
    def sentence(self) -> str:
        """What was taken from the Trainer, for the report."""
        clip = (
            f"gradients clipped to a norm of {self.gradient_clip_norm:g}" if self.gradient_clip_norm else "no clipping"
        )
        taken = f"{self.epochs} epochs{self.why and f', {self.why}'}, {clip}"
        if self.accumulate_batches > 1:
            taken += f", gradients of {self.accumulate_batches} batches accumulated"
        left = f" Its {', '.join(self.left_out)} take no part." if self.left_out else ""
        return f"From the Trainer that was given: {taken}.{left}"

    @property
    def warning(self) -> str | None:
        """Which callbacks may have changed the training; None for none."""
        return warning_of(self.may_change, "The Trainer that was given has")


def settings_of(trainer: pl.Trainer) -> TrainerSettings:
    """The `trainer` section that a Trainer stands for.

    Raises:
        InputError: it trains in a way that cannot hold for a stack.
    """
    for name, usual in (("fast_dev_run", False), ("limit_train_batches", 1.0), ("overfit_batches", 0.0)):
        if getattr(trainer, name, usual) != usual:
            raise _refused(f"{name}={getattr(trainer, name)}", "leave it out")
    if trainer.max_steps != -1 or trainer.max_epochs is None or trainer.max_epochs < 1:
        raise _refused(f"max_epochs={trainer.max_epochs}, max_steps={trainer.max_steps}", "give it max_epochs alone")
    if trainer.world_size > 1:
        raise _refused(
            f"{trainer.world_size} processes, whose batches make one step together",
            "give one of a single device, or TrainerSettings(devices=...), where each device trains models of its own",
        )
    algorithm = trainer.gradient_clip_algorithm
    if trainer.gradient_clip_val and algorithm is not None and str(getattr(algorithm, "value", algorithm)) != "norm":
        raise _refused("gradient_clip_algorithm=value", "clip by norm, which is done for each model by itself")
    precision = next((own for own, name in PRECISIONS.items() if name == trainer.precision), None)
    if precision is None:
        raise _refused(f"precision={trainer.precision}", "use 32-true, bf16-mixed or 64-true")
    callbacks = getattr(trainer, "callbacks", [])
    check_callbacks(callbacks, "`trainer` has the callback")
    if any(base_named(each, "Timer") for each in callbacks):
        raise _refused("max_time, by which models would end at different epochs", "give it max_epochs")
    epochs, why = _epochs_of(trainer, callbacks)
    on_gpu = trainer.strategy.root_device.type == "cuda"
    return TrainerSettings(
        accelerator="gpu" if on_gpu else "cpu",
        devices=[trainer.strategy.root_device.index or 0] if on_gpu else 1,
        precision=precision,
        fit=Fit(
            epochs=epochs,
            gradient_clip_norm=float(trainer.gradient_clip_val) if trainer.gradient_clip_val else None,
            accumulate_batches=trainer.accumulate_grad_batches,
            why=why,
            left_out=left_out(callbacks),
            may_change=may_change(callbacks),
        ),
    )


def _epochs_of(trainer: Any, callbacks: Iterable[Any]) -> tuple[int, str]:
    """For how many epochs the weights were trained that the module has, and why so many."""
    for each in callbacks:
        epoch = getattr(each, "put_back_epoch", None)
        if epoch is not None:
            return epoch + 1, f"since {type(each).__name__} put back the weights of epoch {epoch}"
    if trainer.state.finished and 0 < trainer.current_epoch < trainer.max_epochs:
        return trainer.current_epoch, "after which it ended"
    return trainer.max_epochs, ""


def _refused(what: str, mend: str) -> InputError:
    return InputError(f"`trainer` is a Trainer with {what}, which does not hold for a stack; {mend}.")


def as_settings(given: object) -> object:
    """A Trainer as settings; anything else as it is."""
    return settings_of(given) if is_trainer(given) else given  # type: ignore[arg-type]


def is_trainer(given: object) -> bool:
    """Whether it is a Trainer of `pytorch_lightning` or of `lightning.pytorch`."""
    return base_named(type(given), "Trainer") is not None
