"""How much each record counts in the loss that a model is trained with."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mia_lightning.datasets.population import Population

ClassWeights = Literal["balanced"] | Sequence[float] | None


@dataclass(frozen=True, eq=False, kw_only=True)
class Weights:
    """The weights of records and those of classes, which are multiplied.

    Attributes:
        weight_N: of the records; None for 1 each.
        class_KC: of the classes, for each model; None for 1 each.
    """

    weight_N: Tensor | None
    class_KC: Tensor | None

    def to(self, device: torch.device | str) -> "Weights":
        """The same on `device`."""
        weight_N, class_KC = (None if each is None else each.to(device) for each in (self.weight_N, self.class_KC))
        return Weights(weight_N=weight_N, class_KC=class_KC)

    def of(self, index_KB: Tensor, label_KB: Tensor) -> Tensor:
        """The weights of a batch, `[K, B]`."""
        if self.class_KC is None:
            assert self.weight_N is not None
            return self.weight_N[index_KB]
        weight_KB = self.class_KC.gather(1, label_KB)
        return weight_KB if self.weight_N is None else weight_KB * self.weight_N[index_KB]


def weights_of(population: Population, class_weights: ClassWeights, records_K: Sequence[Tensor]) -> Weights | None:
    """The weights under which models are trained on these records; None where all count the same.

    Args:
        class_weights: as `Recipe.class_weights`. `balanced` weights class c of model k by n / (C n_c): its n training
            records, of which n_c are of the class.
        records_K: the training records of each model.
    """
    weight_N = population.weight_N
    if class_weights is None:
        return None if weight_N is None else Weights(weight_N=weight_N, class_KC=None)
    if class_weights == "balanced":
        label_N, C = population.label_N.cpu(), population.num_classes
        count_KC = torch.stack([label_N[records.cpu()].bincount(minlength=C) for records in records_K]).double()
        class_KC = count_KC.sum(1, keepdim=True) / (C * count_KC.clamp(min=1))
    else:
        class_KC = torch.tensor([list(class_weights)], dtype=torch.float64).expand(len(records_K), -1).contiguous()
    return Weights(weight_N=weight_N, class_KC=class_KC)
