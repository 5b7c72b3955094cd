"""What is observed of models on records: the one array that all attacks read."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mia_lightning.datasets.population import Population
from mia_lightning.training.fit import TrainedStack
from mia_lightning.training.module import all_logits


@dataclass(frozen=True, eq=False, kw_only=True)
class Signals:
    """Observations of K models on N records.

    Attributes:
        log_probability_KANC: float32, in nats; view a of record n under model k.
        channel: how they were observed; `full` is the whole probability vector, unrounded.
    """

    log_probability_KANC: Tensor
    channel: str = "full"

    def select(self, kept_K: Tensor) -> "Signals":
        """The observations of the models where the bool mask is True."""
        kept_K = kept_K.to(self.log_probability_KANC.device)
        return replace(self, log_probability_KANC=self.log_probability_KANC[kept_K])


# Numbers in one batch of activations or inputs over all models: bounds memory, not results.
_BATCH_NUMBERS = 2**24


@torch.inference_mode()
def observe(trained: TrainedStack, population: Population) -> Signals:
    """The full log-probability vector of every model for every record, in eval mode, one view.

    Targets and shadow models are both seen through this function: one channel.
    """
    stack = trained.stack.eval()
    population = population.to(stack.device)
    numbers = stack.num_models * max(128, population.num_classes, population.x_N[0].numel())
    size = max(1, min(len(population), _BATCH_NUMBERS // numbers))
    parts = []
    for index_B in torch.arange(len(population), device=stack.device).split(size):
        logits_KBC = all_logits(stack, population.records(index_B, stack.dtype), trained.execution)
        parts.append(logits_KBC.double().log_softmax(-1).float())
    return Signals(log_probability_KANC=torch.cat(parts, dim=1).unsqueeze(1))
