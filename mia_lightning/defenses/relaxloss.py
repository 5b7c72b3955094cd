"""RelaxLoss: training towards a loss that is not too low (Chen, Yu and Fritz 2022)."""

from dataclasses import replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from mia_lightning.errors import InputError
from mia_lightning.settings import settings
from mia_lightning.settings.kinds import Positive
from mia_lightning.training.step.losses import mean_over_real
from mia_lightning.training.step.recipe import Recipe, cross_entropy


@settings("defense.relaxloss")
class RelaxLoss:
    """Keeps the mean loss on training records near α, about the loss on records that were not trained on.

    Each model of a stack judges each of its batches by its mean cross-entropy L. Where L ≥ α it descends as usual.
    Below α it ascends in epochs of even number (from 0), and flattens its posteriors in the others: it descends along
    the cross-entropy from soft labels that keep the probability p of the true class and spread 1 − p evenly over the
    others, themselves taken as constants.

    The published code differs from this, which is the paper's algorithm: there a batch below α in the flattening
    epochs ascends on correct records, and on wrong ones adds the soft-label loss to the ascent, gradients passing
    through the soft labels.

    Attributes:
        alpha: α, the loss to be kept, above 0, in nats; about that of the model on records that it did not see.

    Source: Chen, Yu and Fritz, "RelaxLoss: defending membership inference attacks without losing utility" (2022),
        algorithm 1.
    """

    name: ClassVar[str] = "relaxloss"
    acts_on: ClassVar[tuple[str, ...]] = ("classes",)

    alpha: Positive = 0.5

    def describe(self) -> str:
        return f"RelaxLoss {self.alpha:.12g}"

    def adapt(self, recipe: Recipe) -> Recipe:
        """The recipe with the relaxed loss of batches; early stopping still goes by the cross-entropy.

        Raises:
            InputError: the recipe has another loss than the cross-entropy, records of two labels, or accumulates
                gradients.
        """
        if recipe.objective is not cross_entropy or recipe.batch_objective is not None:
            raise InputError(
                "defense=relaxloss relaxes the cross-entropy, but the recipe has another loss; leave out "
                "defense=label_smoothing or the recipe's own objective."
            )
        if recipe.mix is not None:
            raise InputError(
                "defense=relaxloss flattens towards one label, and defense=mixup gives records two; leave one of them "
                "out."
            )
        if recipe.accumulate_batches > 1:
            raise InputError(
                f"`training.accumulate_batches` is {recipe.accumulate_batches}, which would add up descents and "
                "ascents of defense=relaxloss; set it to 1."
            )
        return replace(recipe, batch_objective=partial(relaxed_loss, alpha=self.alpha))


def relaxed_loss(
    logits_KBC: Tensor, label_KB: Tensor, is_real_KB: Tensor | None, epoch: int, *, alpha: float
) -> Tensor:
    """What a step is to lower of each model, `[K]`: L, −L or the flattening loss (`Recipe.batch_objective`)."""
    loss_K = mean_over_real(cross_entropy(logits_KBC, label_KB), is_real_KB)
    relaxed_K = -loss_K if epoch % 2 == 0 else mean_over_real(_flattening(logits_KBC, label_KB), is_real_KB)
    return torch.where(loss_K >= alpha, loss_K, relaxed_K)


def _flattening(logits_KBC: Tensor, label_KB: Tensor) -> Tensor:
    """The cross-entropy of each record from its soft label, `[K, B]`."""
    log_probability_KBC = logits_KBC.log_softmax(-1)
    true_KB1 = label_KB[..., None]
    kept_KB1 = log_probability_KBC.detach().exp().gather(-1, true_KB1)
    others = max(1, logits_KBC.shape[-1] - 1)
    soft_KBC = ((1 - kept_KB1) / others).expand_as(logits_KBC).scatter(-1, true_KB1, kept_KB1)
    return -(soft_KBC * log_probability_KBC).sum(-1)
