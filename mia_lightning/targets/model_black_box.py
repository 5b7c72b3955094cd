"""A model of this run as its attacker sees it: answers through its defences, each of which counts as a query."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from mia_lightning.datasets.population import Population
from mia_lightning.targets.interface import Models

# Records are evaluated in batches of exactly this size: with another, the last bits of an answer would depend on which
# other records are asked beside it, and a chain of queries could take another way.
_BATCH = 512


class ModelBlackBox:
    """The first of `models` (`mia_lightning.targets.black_box.BlackBox`).

    Args:
        models: of which the first is asked.
        population: says the form of a record, and its normalisation.
        channel: what the output defences make of log-probabilities `[..., C]`.
    """

    def __init__(
        self, models: Models, population: Population, *, channel: Callable[[Tensor], Tensor] = lambda answer: answer
    ) -> None:
        self._models, self._population, self._channel = models, population, channel
        self.num_queries = 0

    @property
    def num_classes(self) -> int:
        """C."""
        return self._population.num_classes

    def predict(self, x_B: Tensor) -> Tensor:
        """Probabilities `[B, C]` float32 for records `[B, *features]` in the form of the population's `x_N`."""
        self.num_queries += len(x_B)
        form = self._population
        label = torch.zeros(_BATCH, dtype=torch.int64, device=form.device)
        answers = []
        for block in x_B.to(form.x_N).split(_BATCH):
            padded = torch.cat([block, block[:1].expand(_BATCH - len(block), *block.shape[1:])])
            records = replace(form, x_N=padded, label_N=label, member_N=None)
            answer = self._channel(self._models.observe(records).log_probability_KANC[0, 0])
            answers.append(answer[: len(block)].exp())
        return torch.cat(answers).to(x_B.device)
