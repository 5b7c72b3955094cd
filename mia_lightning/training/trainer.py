"""The `trainer` section: a `pl.Trainer` for each stage, and what cannot hold for a stack refused by name."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
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
    "strategy": "trainer.devices, which trains each model on one of them; distributed strategies average the models",
}


@dataclass(frozen=True, kw_only=True)
class TrainerSettings:
    """What every stage's `pl.Trainer` is made of.

    Attributes:
        accelerator: cpu, gpu or another of Lightning's; auto takes a GPU where there is one (not MPS, which has no
            float64 for losses and attacks).
        devices: how many, the indices of which, or -1 for all GPUs. Each of several trains a share of the models of a
            role, in a process of its own; on the CPU they are so many processes.
        precision: 32, tf32 (32 with TF32 matrix products), bf16 (autocast) or 64.
        progress_bar: whether stages are shown as rich progress bars.
        callbacks: Lightning callbacks; every stage gets copies of its own, on each of several devices.
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
        object.__setattr__(self, "devices", _devices(self.devices, self.accelerator))
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
        if self.num_devices > 1:
            _check_for_processes(each, self.callbacks)

    @property
    def num_devices(self) -> int:
        return self.devices if isinstance(self.devices, int) else len(self.devices)

    def alone(self, place: int, device_type: str) -> "TrainerSettings":
        """Those of the device at a place of `devices`, by itself.

        Args:
            device_type: of all of them, such as `cuda`.
        """
        if device_type == "cpu":
            return replace(self, devices=1)
        return replace(self, devices=[place if isinstance(self.devices, int) else self.devices[place]])

    def make(self, *, epochs: int, callbacks: Sequence[pl.Callback] = (), folder: Path | None = None) -> pl.Trainer:
        """A `pl.Trainer` for one chunk of models, on the first device.

        Args:
            folder: where callbacks and loggers write what they write by themselves.

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
            # Else Lightning takes a Slurm job for its own, and requeues it at a signal: that is for whoever started it.
            "plugins": [LightningEnvironment()],
        }
        try:
            trainer = pl.Trainer(
                accelerator="cpu"
                if self.accelerator == "auto" and torch.backends.mps.is_available()
                else self.accelerator,
                devices=1 if isinstance(self.devices, int) else list(self.devices[:1]),
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


def _devices(devices: object, accelerator: str) -> int | list[int]:
    """As it was given; all GPUs for -1.

    Raises:
        InputError: it is no number of devices and no list of indices, or there are no GPUs.
    """
    if devices == -1 and type(devices) is int:
        count = torch.cuda.device_count() if accelerator in ("auto", "gpu", "cuda") else 0
        if count == 0:
            raise InputError(
                f"`trainer.devices` is -1, all GPUs, but with trainer.accelerator={accelerator} there are none; give a "
                "number."
            )
        return count
    if type(devices) is int and devices >= 1:
        return devices
    if isinstance(devices, Sequence) and not isinstance(devices, str):
        indices = list(devices)
        if indices and len(set(indices)) == len(indices) and all(type(i) is int and i >= 0 for i in indices):
            return indices
    raise InputError(
        f"`trainer.devices` is {devices!r}; give a number of devices, a list of different indices such as [0,2], or -1 "
        "for all GPUs."
    )


def _check_for_processes(loggers: Sequence[object], callbacks: Sequence[pl.Callback]) -> None:
    """Refuse what several processes would write to the same place.

    Raises:
        InputError: a logger or a checkpoint whose place is given.
    """
    for logger in loggers:
        if isinstance(logger, Logger):
            raise InputError(
                f"`trainer.options.logger` is a {type(logger).__name__}, to which the processes of several "
                "`trainer.devices` would write at once; use true, for one of each process, or trainer.devices=1."
            )
    for callback in callbacks:
        if isinstance(callback, Checkpoint) and getattr(callback, "dirpath", None) is not None:
            raise InputError(
                f"`trainer.callbacks` holds a {type(callback).__name__} with a `dirpath`, to which the processes of "
                "several `trainer.devices` would write at once; leave it out, for a folder of each process, or use "
                "trainer.devices=1."
            )


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
