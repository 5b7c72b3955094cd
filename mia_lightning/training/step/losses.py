"""The loss of a batch of each model, from those of its records."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


class Truth(NamedTuple):
    """What the outputs of a batch are compared with, each `[K, B]`.

    Attributes:
        label_KB: labels, or the models' responses.
        second_KB, share_KB: of mixed records, the second label and the share of the first (`Recipe.mix`); else None.
        weight_KB: how much each record counts; None for the same.
    """

    label_KB: Tensor
    second_KB: Tensor | None = None
    share_KB: Tensor | None = None
    weight_KB: Tensor | None = None

    def of_model(self, k: int) -> "Truth":
        """Of one model, each `[1, B]`."""
        return Truth(*(None if each is None else each[k][None] for each in self))  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class Losses:
    """What a step lowers, and what it reports.

    Attributes:
        objective, batch_objective: as in `Recipe`.
    """

    objective: Callable[[Tensor, Tensor], Tensor]
    batch_objective: Callable[[Tensor, Tensor, Tensor | None, int], Tensor] | None = None

    def __call__(
        self, logits_KBC: Tensor, truth: Truth, is_real_KB: Tensor | None, epoch: int = 0
    ) -> tuple[Tensor, Tensor]:
        """The quantity that a step lowers, and the mean loss, which is reported, of each model: both `[K]`."""
        label_KB, second_KB, share_KB, weight_KB = truth
        loss_KB = self.objective(logits_KBC, label_KB)
        if second_KB is not None and share_KB is not None:
            loss_KB = share_KB * loss_KB + (1 - share_KB) * self.objective(logits_KBC, second_KB)
        loss_K = mean_over_real(loss_KB, is_real_KB, weight_KB)
        if self.batch_objective is None:
            return loss_K, loss_K
        return self.batch_objective(logits_KBC, label_KB, is_real_KB, epoch), loss_K


def mean_over_real(loss_KB: Tensor, is_real_KB: Tensor | None, weight_KB: Tensor | None = None) -> Tensor:
    """Mean loss of each model over its real records, `[K]`; 0 for a batch without any.

    With weights it is Σ w l / Σ w over the batch, as torch's CrossEntropyLoss(weight) reduces; 0 where all are 0.
    """
    if weight_KB is not None:
        weight_KB = of_real(weight_KB, is_real_KB).to(loss_KB.dtype)
        total_K = weight_KB.sum(1)
        return (weight_KB * loss_KB.masked_fill(weight_KB == 0, 0.0)).sum(1) / total_K.where(total_K > 0, 1.0)
    if is_real_KB is None:
        return loss_KB.sum(1) / max(1, loss_KB.shape[1])
    return loss_KB.masked_fill(~is_real_KB, 0.0).sum(1) / is_real_KB.sum(1).clamp(min=1)


def of_real(weight_KB: Tensor, is_real_KB: Tensor | None) -> Tensor:
    """The weights of real records, 0 for the others."""
    return weight_KB if is_real_KB is None else weight_KB.masked_fill(~is_real_KB, 0.0)
