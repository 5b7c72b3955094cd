"""A user's own `pl.Trainer` in the place of the `trainer` section: what is taken from it, and what is refused."""

from dataclasses import dataclass, replace

import pytorch_lightning as pl

from mia_lightning.errors import InputError
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
        ended: whether the Trainer has ended its own training before its last epoch.
        left_out: the classes of its callbacks that take no part here.
        may_change: those of them that may change the training, with their hooks; None for none.
    """

    epochs: int
    gradient_clip_norm: float | None
    accumulate_batches: int
    ended: bool = False
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

    @property
    def sentence(self) -> str:
        """What was taken from the Trainer, for the report."""
        clip = (
            f"gradients clipped to a norm of {self.gradient_clip_norm:g}" if self.gradient_clip_norm else "no clipping"
        )
        taken = f"{self.epochs} epochs{', after which it ended' if self.ended else ''}, {clip}"
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
    if trainer.max_steps != -1 or trainer.max_epochs is None or trainer.max_epochs < 1:
        raise _refused(f"max_epochs={trainer.max_epochs}, max_steps={trainer.max_steps}", "give it max_epochs alone")
    if trainer.world_size > 1:
        raise _refused(
            f"{trainer.world_size} processes, whose batches make one step together",
            "give one of a single device, or TrainerSettings(devices=...), where each device trains models of its own",
        )
    for name, usual in (("limit_train_batches", 1.0), ("overfit_batches", 0.0), ("fast_dev_run", False)):
        if getattr(trainer, name, usual) != usual:
            raise _refused(f"{name}={getattr(trainer, name)}", "leave it out")
    algorithm = trainer.gradient_clip_algorithm
    if trainer.gradient_clip_val and algorithm is not None and str(getattr(algorithm, "value", algorithm)) != "norm":
        raise _refused("gradient_clip_algorithm=value", "clip by norm, which is done for each model by itself")
    precision = next((own for own, name in PRECISIONS.items() if name == trainer.precision), None)
    if precision is None:
        raise _refused(f"precision={trainer.precision}", "use 32-true, bf16-mixed or 64-true")
    callbacks = getattr(trainer, "callbacks", [])
    check_callbacks(callbacks, "`trainer` has the callback")
    if any(_is_a(each, "Timer") for each in callbacks):
        raise _refused("max_time, by which models would end at different epochs", "give it max_epochs")
    ended = trainer.state.finished and 0 < trainer.current_epoch < trainer.max_epochs
    on_gpu = trainer.strategy.root_device.type == "cuda"
    return TrainerSettings(
        accelerator="gpu" if on_gpu else "cpu",
        devices=[trainer.strategy.root_device.index or 0] if on_gpu else 1,
        precision=precision,
        fit=Fit(
            epochs=trainer.current_epoch if ended else trainer.max_epochs,
            gradient_clip_norm=float(trainer.gradient_clip_val) if trainer.gradient_clip_val else None,
            accumulate_batches=trainer.accumulate_grad_batches,
            ended=ended,
            left_out=left_out(callbacks),
            may_change=may_change(callbacks),
        ),
    )


def _is_a(given: object, *names: str) -> bool:
    """Whether its class has such a name, or one of its bases: `lightning.pytorch` has classes of its own."""
    return any(each.__name__ in names for each in type(given).__mro__)


def _refused(what: str, mend: str) -> InputError:
    return InputError(f"`trainer` is a Trainer with {what}, which does not hold for a stack; {mend}.")


def as_settings(given: object) -> object:
    """A Trainer as settings; anything else as it is."""
    return settings_of(given) if is_trainer(given) else given  # type: ignore[arg-type]


def is_trainer(given: object) -> bool:
    """Whether it is a Trainer of `pytorch_lightning` or of `lightning.pytorch`."""
    return any(
        each.__name__ == "Trainer" and each.__module__.startswith(("pytorch_lightning.", "lightning.pytorch."))
        for each in type(given).__mro__
    )
