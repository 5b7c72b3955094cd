"""What a LightningModule is given in the place of its Trainer while it trains in a stack."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NoReturn

from torch import nn

from mia_lightning.errors import InputError
from mia_lightning.training.own.lightning import lightning_modules
from mia_lightning.training.own.nothing import NOTHING

_ATTACHED = ("log", "log_dict", "print", "optimizers", "lr_schedulers", "all_gather", "manual_backward")


class StandInTrainer:
    """Answers what a training step may ask of its Trainer; what only reports does nothing.

    Args:
        max_epochs: of the training.
        num_training_batches: of an epoch; None where no records are dealt yet.
        accumulate_grad_batches: batches of one optimiser step.
    """

    is_global_zero = training = True
    global_rank = local_rank = node_rank = 0
    world_size = num_devices = num_nodes = 1
    validating = testing = predicting = sanity_checking = evaluating = False
    max_steps = -1
    min_epochs = min_steps = max_time = gradient_clip_val = gradient_clip_algorithm = None
    log_every_n_steps = 50
    check_val_every_n_epoch = 1
    logger = callback_metrics = logged_metrics = progress_bar_metrics = NOTHING
    checkpoint_callback = early_stopping_callback = progress_bar_callback = profiler = NOTHING

    def __init__(
        self, *, max_epochs: int, num_training_batches: int | None = None, accumulate_grad_batches: int = 1
    ) -> None:
        self.max_epochs = max_epochs
        self.accumulate_grad_batches = accumulate_grad_batches
        self.current_epoch = 0
        self.global_step = 0
        self.optimizers: list[Any] = []
        self.lr_scheduler_configs: list[Any] = []
        self.loggers: list[Any] = []
        self.callbacks: list[Any] = []
        self.datamodule = _NoDataModule()
        self.model: nn.Module | None = None
        self._num_batches = num_training_batches

    @property
    def lightning_module(self) -> nn.Module | None:
        return self.model

    @property
    def num_training_batches(self) -> int:
        if self._num_batches is None:
            raise AttributeError("the number of batches is not known yet, since no records are dealt to a model")
        return self._num_batches

    @property
    def train_dataloader(self) -> range:
        """Something as long as an epoch."""
        return range(self.num_training_batches)

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of an epoch."""
        return math.ceil(self.num_training_batches / self.accumulate_grad_batches)

    @property
    def estimated_stepping_batches(self) -> int:
        return self.steps_per_epoch * self.max_epochs

    @property
    def should_stop(self) -> bool:
        return False

    @should_stop.setter
    def should_stop(self, value: bool) -> None:
        if value:
            raise InputError("it sets trainer.should_stop, which would stop all models of a stack")

    def at(self, epoch: int, batch: int) -> None:
        """Training has come to this batch of this epoch, both from 0."""
        self.current_epoch = epoch
        self.global_step = epoch * self.steps_per_epoch + batch // self.accumulate_grad_batches

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"the Trainer that a stack gives its models has no `{name}`")


class _NoDataModule:
    """In the place of the DataModule; false, and without an attribute."""

    def __bool__(self) -> bool:
        return False

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(
            f"the Trainer that a stack gives its models has no DataModule to ask for its `{name}`; give the module "
            "what it needs as an argument"
        )


def attach(network: nn.Module, trainer: StandInTrainer) -> None:
    """Give all LightningModules of a network this Trainer, and let what they report go nowhere."""

    def of_trainer(listed: str, *args: object, **kwargs: object) -> Any:
        found = getattr(trainer, listed)
        found = [each.scheduler for each in found] if listed == "lr_scheduler_configs" else found
        return found[0] if len(found) == 1 else found or None

    stand_ins = {
        **dict.fromkeys(("log", "log_dict", "print"), _nothing),
        "optimizers": partial(of_trainer, "optimizers"),
        "lr_schedulers": partial(of_trainer, "lr_scheduler_configs"),
        "all_gather": _same,
        "manual_backward": _refused,
    }
    trainer.model = None
    for module in lightning_modules(network):
        trainer.model = trainer.model or module
        vars(module).update(stand_ins)
        module._trainer = trainer  # type: ignore[assignment]  # of a LightningModule of either package


def detach(network: nn.Module) -> None:
    """Undo `attach`."""
    for module in lightning_modules(network):
        for name in _ATTACHED:
            vars(module).pop(name, None)
        module._trainer = None  # type: ignore[assignment]


@contextmanager
def attached(network: nn.Module, trainer: StandInTrainer) -> Iterator[None]:
    """Within the context, the network has this Trainer."""
    before = trainer.model
    attach(network, trainer)
    try:
        yield
    finally:
        detach(network)
        trainer.model = before


def _nothing(*args: object, **kwargs: object) -> None: ...


def _same(value: object, *args: object, **kwargs: object) -> object:
    return value


def _refused(*args: object, **kwargs: object) -> NoReturn:
    raise InputError("it calls manual_backward, though its optimisation is automatic")
