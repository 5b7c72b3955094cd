"""The `trainer` section: a `pl.Trainer` for each stage; options that cannot hold for a stack are refused by name."""

import copy
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import pytorch_lightning as pl
import torch
from annotated_types import Ge, Le, MinLen
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pydantic import AfterValidator, SkipValidation
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.loggers import Logger
from pytorch_lightning.strategies import SingleDeviceStrategy

from mia_lightning.errors import InputError, first_line
from mia_lightning.settings import settings
from mia_lightning.settings.checking import shown
from mia_lightning.settings.kinds import AtLeast0, FromList, Name, OneOf
from mia_lightning.settings.words import Such, Words
from mia_lightning.training.devices.visible import environment_without_driver, having, index_there, slices
from mia_lightning.training.precision import float32_products

PRECISIONS = {
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


def _different(indices: Sequence[int]) -> Sequence[int]:
    if len(set(indices)) < len(indices):
        raise ValueError("an index stands there twice")
    return indices


_Indices = Annotated[Sequence[AtLeast0], FromList, MinLen(1), AfterValidator(_different)]
_Devices = Annotated[
    Annotated[int, Ge(1), Le(1024)] | Literal[-1] | _Indices,
    Words("a number of devices, a list of different indices, or -1 for all GPUs"),
    Such("[0,2]"),
]
_Precision = Annotated[
    Name,
    OneOf(PRECISIONS),
    Words("32, tf32, bf16 or 64 (fp16 needs one loss scaler for all models of a stack, which would couple them)"),
]
_Callback = Annotated[pl.Callback, Words("a Lightning callback", "Lightning callbacks by their `_target_`")]


class FitOfTrainer(Protocol):
    """How a Trainer trains, beside the hardware."""

    @property
    def sentence(self) -> str: ...

    @property
    def warning(self) -> str | None: ...

    def applied(self, recipe: Any) -> Any: ...

    def overruled(self, recipe: Any) -> str | None: ...


@settings("trainer")
class TrainerSettings:
    """What every stage's `pl.Trainer` is made of.

    Attributes:
        accelerator: cpu, gpu or another of Lightning's; auto takes a GPU where there is one (not MPS, which has no
            float64 for losses and attacks).
        devices: how many, or the indices of which, or -1 for all GPUs. Each of several devices trains a part of the
            models of a role, in a process of its own; on the CPU they are so many processes.
        precision: 32, tf32 (32 with TF32 products and convolutions), bf16 (autocast) or 64.
        progress_bar: whether stages are shown as rich progress bars.
        callbacks: Lightning callbacks; every stage, and each of several devices, gets copies of its own.
        options: further arguments of `pl.Trainer`, such as `logger` for live training metrics.
        fit: what a user's own Trainer says of epochs, clipping and accumulation (`given_trainer`); None for nothing.
    """

    accelerator: Name = "auto"
    devices: _Devices = 1
    precision: _Precision = "32"
    progress_bar: bool = True
    callbacks: Annotated[Sequence[_Callback], FromList] = ()
    options: Annotated[Mapping[str, Any] | None, Such("{deterministic:true}")] = None
    fit: SkipValidation[FitOfTrainer] | None = None

    def __post_init__(self) -> None:
        if self.accelerator == "mps":
            raise InputError(
                "`trainer.accelerator` is mps, which has no float64 for losses and attacks; use cpu or gpu."
            )
        if self.devices == -1:
            object.__setattr__(self, "devices", _all_gpus(self.accelerator))
        given = slices() if self.accelerator in ("auto", "gpu", "cuda") else []
        if given and max(map(self.index_of, range(self.num_devices))) >= len(given):
            raise InputError(
                f"`trainer.devices` is {shown(self.devices)}, and CUDA_VISIBLE_DEVICES names {len(given)} slices of a "
                "GPU; give as many at most, or -1 for all."
            )
        for name in self.options or {}:
            if name in _OURS:
                raise InputError(f"`trainer.options.{name}` does not hold for a stack; use {_OURS[name]}.")
        logger = (self.options or {}).get("logger", False)
        loggers = logger if isinstance(logger, list | tuple) else [logger]
        if not all(isinstance(each, bool | Logger) for each in loggers):
            raise InputError(
                f"`trainer.options.logger` is {shown(logger)}; give true, false, or a Lightning logger by its "
                "`_target_`."
            )
        if self.num_devices > 1:
            _check_for_processes(loggers, self.callbacks)

    @property
    def num_devices(self) -> int:
        return self.devices if isinstance(self.devices, int) else len(self.devices)

    @cached_property
    def device(self) -> torch.device:
        """The first device that they name; Lightning is asked once, which takes it as long as a small training."""
        if self.accelerator == "cpu":  # what Lightning would say
            return torch.device("cpu")
        with quiet_lightning():
            device: torch.device = self.make(epochs=1).strategy.root_device
        return device

    def alone(self, place: int, device_type: str) -> "TrainerSettings":
        """The settings for one device alone, which stands at `place` among the devices.

        Args:
            device_type: of all devices, such as `cuda`.
        """
        if device_type == "cpu":
            return replace(self, devices=1)
        return replace(self, devices=[index_there(self.index_of(place))])

    def index_of(self, place: int) -> int:
        """The index of the device at a place, among those that the scheduler gave."""
        return place if isinstance(self.devices, int) else self.devices[place]

    def make(self, *, epochs: int, callbacks: Sequence[pl.Callback] = (), folder: Path | None = None) -> pl.Trainer:
        """A `pl.Trainer` for one chunk of models, on the first device.

        Args:
            folder: where callbacks and loggers write.

        Raises:
            InputError: Lightning refuses the settings, such as an accelerator that is not there.
        """
        own = copy.deepcopy(list(self.callbacks))
        settings: dict[str, Any] = {
            "enable_checkpointing": any(isinstance(callback, Checkpoint) for callback in (*own, *callbacks)),
            "enable_model_summary": False,
            "enable_progress_bar": False,  # ours shows all stages in one place
            "num_sanity_val_steps": 0,
            "logger": False,
            "log_every_n_steps": 1,
            "default_root_dir": folder,
            # Else Lightning would take a Slurm job for its own and requeue it at a signal, which is not ours to do.
            "plugins": [LightningEnvironment()],
        }
        try:
            trainer = pl.Trainer(
                accelerator="cpu"
                if self.accelerator == "auto" and torch.backends.mps.is_available()
                else self.accelerator,
                devices=1 if isinstance(self.devices, int) else list(self.devices[:1]),
                precision=PRECISIONS[self.precision],  # type: ignore[arg-type]  # one of Lightning's literals
                max_epochs=epochs,
                callbacks=[*own, *callbacks],
                **(settings | dict(self.options or {})),
            )
        except (MisconfigurationException, ValueError, TypeError, RuntimeError, ImportError) as error:
            raise InputError(
                f"pytorch_lightning.Trainer refuses the `trainer` settings ({first_line(error)}); change them."
            ) from error
        check_trainer(trainer)
        return trainer

    def matmul_precision(self) -> AbstractContextManager[None]:
        """Within the context, TF32 products and convolutions where `precision` is tf32, and full ones otherwise."""
        return float32_products(tf32=self.precision == "tf32")


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Silence what Lightning says of hardware and loaders, and asks of them, in each of our many short fits."""
    log = logging.getLogger("pytorch_lightning")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # lightning_fabric warns where Slurm is installed but did not start it: our processes are started by us.
            warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric")
            warnings.filterwarnings("ignore", message="There is a performance drop because we have not yet implemented")
            with having(environment_without_driver()):
                yield
    finally:
        log.setLevel(before)


def _all_gpus(accelerator: str) -> int:
    """How many GPUs there are.

    Raises:
        InputError: none.
    """
    count = len(slices()) or torch.cuda.device_count() if accelerator in ("auto", "gpu", "cuda") else 0
    if count == 0:
        raise InputError(
            f"`trainer.devices` is -1, all GPUs, but with trainer.accelerator={accelerator} there are none; give a "
            "number."
        )
    return count


def _check_for_processes(loggers: Sequence[object], callbacks: Sequence[pl.Callback]) -> None:
    """Refuse loggers and checkpoints through which several processes would write to the same place.

    Raises:
        InputError: a logger, or a checkpoint with a folder.
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
        InputError: the Trainer clips or accumulates gradients, uses fp16, or has a strategy over several processes.
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
