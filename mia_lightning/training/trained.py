"""Trained models and what can be observed of them."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mia_lightning.datasets.population import Population
from mia_lightning.training.architecture import Architecture
from mia_lightning.training.module import all_logits
from mia_lightning.training.room import Room
from mia_lightning.training.signals import Signals
from mia_lightning.training.stack import Stack

# Numbers in one batch of activations or inputs over all models: bounds memory, not results.
_BATCH_NUMBERS = 2**24


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainedStack:
    """Trained models, in eval mode, with how their training went.

    Attributes:
        stack: K models, on the device they were trained on.
        architecture: what they are.
        execution: `stack` or `loop`, as it was done.
        failed_epoch_K: int64, the epoch (from 0) at which a model's loss was first not finite; -1 for none.
        stopped_epoch_K: int64, the epoch after which a model was stopped early; -1 for none.
        train_loss_EK, validation_loss_EK: float64 on the CPU; NaN after a model stopped.
    """

    stack: Stack
    architecture: Architecture
    execution: str
    failed_epoch_K: Tensor
    stopped_epoch_K: Tensor
    train_loss_EK: Tensor
    validation_loss_EK: Tensor | None

    @property
    def num_models(self) -> int:
        return self.stack.num_models

    @property
    def architecture_name(self) -> str:
        return self.architecture.name

    @property
    def num_parameters(self) -> int:
        return self.architecture.num_parameters

    def observe(self, population: Population, *, room: Room | None = None) -> Signals:
        """The full log-probability vector of every model for every record, in eval mode, one view.

        Targets and shadow models are both seen through this function: one channel.

        Args:
            room: where the answers lie; by default in memory, if they take no more than a quarter of what is free.

        Raises:
            InputError: they fit neither memory nor disk.
        """
        stack, room = self.stack.eval(), room or Room()
        population = population.near(stack.device)
        numbers = stack.num_models * max(128, population.num_classes, population.x_N[0].numel())
        size = max(1, min(len(population), _BATCH_NUMBERS // numbers))
        shape = (stack.num_models, 1, len(population), population.num_classes)
        log_probability_KANC = room.empty(shape, device=stack.device)
        for place_B, index_B in zip(
            log_probability_KANC[:, 0].split(size, dim=1),
            torch.arange(len(population), device=stack.device).split(size),
            strict=True,
        ):
            place_B.copy_(self.log_probability(population.records(index_B, stack.dtype)))
        return Signals(log_probability_KANC=log_probability_KANC, room=room)

    @torch.inference_mode()
    def log_probability(self, x_B: Tensor) -> Tensor:
        """`[K, B, C]` float32 in nats of all models, in eval mode, for the same normalised records `[B, *features]`."""
        return all_logits(self.stack.eval(), x_B, self.execution).double().log_softmax(-1).float()

    def save(self, path: Path) -> None:
        """Write the weights as safetensors."""
        self.stack.save(path)

    def select(self, kept_K: Tensor) -> "TrainedStack":
        """The models where the bool mask is True; their stack is taken over, so this object is not to be used again."""
        validation = self.validation_loss_EK
        return TrainedStack(
            stack=Stack.concatenate([self.stack], order=kept_K.nonzero().squeeze(1)),
            architecture=self.architecture,
            execution=self.execution,
            failed_epoch_K=self.failed_epoch_K[kept_K],
            stopped_epoch_K=self.stopped_epoch_K[kept_K],
            train_loss_EK=self.train_loss_EK[:, kept_K],
            validation_loss_EK=None if validation is None else validation[:, kept_K],
        )
