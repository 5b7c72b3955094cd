"""The `trainer` section: a `pl.Trainer` for each stage, and what cannot hold for a stack refused by name."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.loggers import Logger
from pytorch_lightning.strategies import SingleDeviceStrategy

from mia_lightning.errors import InputError

_PRECISIONS = {
    "32": "32-true",
    "32-true": "32-true",
    "tf32": "32-true",
    "bf16": "bf16-mixed",
    "bf16-mixed": "bf16-mixed",
    "64": "64-true",
    "64-true": "64-true",
}
_OURS = {
    "gradient_clip_val": "training.gradient_clip_norm, which clips each model by itself",
    "gradient_clip_algorithm": "training.gradient_clip_norm, which clips each model by itself",
    "accumulate_grad_batches": "training.accumulate_batches",
    **dict.fromkeys(
        ("max_epochs", "min_epochs", "max_steps", "min_steps", "max_time", "fast_dev_run", "overfit_batches"),
        "training.epochs",
    ),
    "limit_train_batches": "dataset.train_size",
    "limit_val_batches": "membership.validation",
    "check_val_every_n_epoch": "training.early_stopping.patience",
    "val_check_interval": "training.early_stopping.patience",
    **{name: f"trainer.{name}" for name in ("accelerator", "devices", "precision", "callbacks")},
    "strategy": "trainer.devices=1 and several runs, since distributed strategies average the models of a stack",
}


@dataclass(frozen=True, kw_only=True)
class TrainerSettings:
    """What every stage's `pl.Trainer` is made of.

    Attributes:
        accelerator: cpu, gpu or another of Lightning's; auto takes a GPU where there is one (not MPS, which has no
            float64 for losses and attacks).
        devices: 1, or a list of one device index.
        precision: 32, tf32 (32 with TF32 matrix products), bf16 (autocast) or 64.
        progress_bar: whether stages are shown as rich progress bars.
        callbacks: Lightning callbacks; every stage gets copies of its own.
        options: further arguments of `pl.Trainer`, such as `logger` for live training metrics.
    """

    accelerator: str = "auto"
    devices: int | Sequence[int] = 1
    precision: str | int = "32"
    progress_bar: bool = True
    callbacks: Sequence[pl.Callback] = ()
    options: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.options, Mapping | None):
            raise InputError(
                f"`trainer.options` is {self.options!r}; give names and values, such as "
                "trainer.options={deterministic:true}."
            )
        callbacks: object = self.callbacks
        if isinstance(callbacks, str) or not isinstance(callbacks, Sequence):
            raise InputError(f"`trainer.callbacks` is {callbacks!r}; give a list of nodes with a `_target_`.")
        logger = (self.options or {}).get("logger", False)
        each = logger if isinstance(logger, Sequence) and not isinstance(logger, str) else [logger]
        if not all(isinstance(one, bool | Logger) for one in each):
            raise InputError(
                f"`trainer.options.logger` is {logger!r}; give true, false, or a Lightning logger by its `_target_`."
            )
        if str(self.precision) not in _PRECISIONS:
            raise InputError(
                f"`trainer.precision` is {self.precision!r}; it must be 32, tf32, bf16 or 64 (fp16 needs one loss "
                "scaler for all models of a stack, which would couple them)."
            )
        if (self.devices if isinstance(self.devices, int) else len(self.devices)) != 1:
            raise InputError(
                f"`trainer.devices` is {self.devices}; a stack trains on one device: give 1 or a list of one index."
            )
        if self.accelerator == "mps":
            raise InputError(
                "`trainer.accelerator` is mps, which has no float64 for losses and attacks; use cpu or gpu."
            )
        for callback in self.callbacks:
            if not isinstance(callback, pl.Callback):
                raise InputError(
                    f"`trainer.callbacks` holds {callback!r}, which is no Lightning callback; give nodes with a "
                    "`_target_`."
                )
        for name in self.options or {}:
            if name in _OURS:
                raise InputError(f"`trainer.options.{name}` does not hold for a stack; use {_OURS[name]}.")

    def make(self, *, epochs: int, callbacks: Sequence[pl.Callback] = (), folder: Path | None = None) -> pl.Trainer:
        """A `pl.Trainer` for one chunk of models; what callbacks and loggers write by themselves goes to `folder`.

        Raises:
            InputError: Lightning refuses the settings (an accelerator that is not there, say).
        """
        own = copy.deepcopy(list(self.callbacks))
        settings: dict[str, Any] = {
            "enable_checkpointing": any(isinstance(callback, Checkpoint) for callback in own),
            "enable_model_summary": False,
            "enable_progress_bar": False,  # ours shows all stages in one place
            "num_sanity_val_steps": 0,
            "logger": False,
            "log_every_n_steps": 1,
            "default_root_dir": folder,
        }
        try:
            trainer = pl.Trainer(
                accelerator="cpu"
                if self.accelerator == "auto" and torch.backends.mps.is_available()
                else self.accelerator,
                devices=self.devices if isinstance(self.devices, int) else list(self.devices),
                precision=_PRECISIONS[str(self.precision)],  # type: ignore[arg-type]  # one of Lightning's literals
                max_epochs=epochs,
                callbacks=[*own, *callbacks],
                **(settings | dict(self.options or {})),
            )
        except (MisconfigurationException, ValueError, TypeError, RuntimeError, ImportError) as error:
            first = str(error).strip().splitlines()[0]
            raise InputError(f"pytorch_lightning.Trainer refuses the `trainer` settings: {first}") from error
        check_trainer(trainer)
        return trainer

    @contextmanager
    def matmul_precision(self) -> Iterator[None]:
        """TF32 matrix products within the context where `precision` is tf32, full ones otherwise."""
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high" if str(self.precision) == "tf32" else "highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)


def check_trainer(trainer: pl.Trainer) -> None:
    """Refuse a `pl.Trainer` whose settings cannot hold for a stack.

    Raises:
        InputError: gradient clipping or accumulation by the Trainer, fp16, or a strategy over several processes.
    """
    if trainer.gradient_clip_val:
        raise InputError(f"Trainer(gradient_clip_val=...) does not hold for a stack; use {_OURS['gradient_clip_val']}.")
    if trainer.accumulate_grad_batches != 1:
        raise InputError(
            f"Trainer(accumulate_grad_batches=...) does not hold for a stack; use {_OURS['accumulate_grad_batches']}."
        )
    if trainer.precision.startswith("16"):
        raise InputError(
            f"Trainer(precision={trainer.precision!r}) does not hold for a stack, since one loss scaler would couple "
            "its models; use trainer.precision=bf16."
        )
    for callback in getattr(trainer, "callbacks", []):
        if isinstance(callback, pl.callbacks.EarlyStopping | pl.callbacks.StochasticWeightAveraging):
            raise InputError(
                f"The callback {type(callback).__name__} does not hold for a stack, since it treats its models as one; "
                "use training.early_stopping, which is per model."
            )
    if not isinstance(trainer.strategy, SingleDeviceStrategy):
        raise InputError(
            f"Trainer(strategy={type(trainer.strategy).__name__}) does not hold for a stack; use {_OURS['strategy']}."
        )
