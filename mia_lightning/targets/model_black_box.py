"""A model of this run as its attacker sees it: it answers through its defences, and each answer counts as a query."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from mia_lightning.datasets.population import Population
from mia_lightning.targets.steady import steadily
from mia_lightning.training.models import Models


class ModelBlackBox:
    """The first of `models` (`mia_lightning.targets.black_box.BlackBox`).

    Args:
        models: of which the first is asked. A local model answers in batches of one size, which padding fills up; any
            other, which may count its queries, is asked about the records alone.
        population: gives the form of a record, and its normalisation.
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
        records = x_B.to(self._population.x_N)
        answer_BC = steadily(self._answer, records) if self._models.is_local else self._answer(records)
        return answer_BC.to(x_B.device)

    def _answer(self, x_B: Tensor) -> Tensor:
        label_B = torch.zeros(len(x_B), dtype=torch.int64, device=x_B.device)
        records = replace(
            self._population, x_N=x_B, label_N=label_B, member_N=None, weight_N=None, group_N=None, group_names=()
        )
        return self._channel(self._models.observe(records).log_probability_KANC[0, 0]).exp()
