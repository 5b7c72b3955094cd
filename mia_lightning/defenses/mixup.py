"""Training on blends of two records: Zhang et al. (2018)."""

from dataclasses import replace
from functools import lru_cache, partial
from typing import ClassVar

import torch
from scipy.special import betaincinv
from torch import Tensor

from mia_lightning.errors import InputError
from mia_lightning.seeds import counter_hash, derive
from mia_lightning.settings import settings
from mia_lightning.settings.kinds import Positive
from mia_lightning.training.step.recipe import Recipe

_STREAM = derive(0, "mixup")
_BITS = 16  # of a quantile of the Beta distribution


@settings("defense.mixup")
class Mixup:
    """Every record of a batch is blended with a partner of its batch, and so are their losses.

    x = λ x₁ + (1 − λ) x₂ with the loss λ ℓ(y₁) + (1 − λ) ℓ(y₂), λ from Beta(α, α). The partners are a random
    permutation of the model's own real records of the batch; padding has no part in it. Unlike in the paper's code, λ
    is drawn for each record and not for each batch. Both draws are a function of the model's key, the step and the
    record's place in the batch.

    Attributes:
        alpha: α, above 0; towards 0 records stay almost as they are, at 1 all blends are as likely.

    Source: Zhang, Cisse, Dauphin and Lopez-Paz, "mixup: beyond empirical risk minimization" (2018), section 2.
    """

    name: ClassVar[str] = "mixup"
    acts_on: ClassVar[tuple[str, ...]] = ("classes",)

    alpha: Positive = 1.0

    def describe(self) -> str:
        return f"mixup {self.alpha:.12g}"

    def adapt(self, recipe: Recipe) -> Recipe:
        """The recipe with blended batches.

        Raises:
            InputError: the recipe judges whole batches of single labels, or blends already.
        """
        if recipe.batch_objective is not None:
            raise InputError(
                "defense=mixup gives records two labels, and defense=relaxloss flattens towards one; leave one of "
                "them out."
            )
        if recipe.mix is not None:
            raise InputError("defense=mixup is set for a recipe that mixes records already; leave one of them out.")
        return replace(recipe, mix=partial(mix, alpha=self.alpha))


def mix(
    x: Tensor, label_KB: Tensor, key_K: Tensor, step: int | Tensor, is_real_KB: Tensor | None, *, alpha: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The blended records, the labels of the partners, and the share λ of the record itself (`Recipe.mix`).

    Args:
        x: `[K, B, *features]`, floating point.
        label_KB: int64.
        key_K: int64, of the models.
        step: of the optimiser; a number, or an int64 scalar on their device.
        is_real_KB: bool; None where all are.
        alpha: of the Beta distribution.

    Returns:
        x `[K, B, *features]`, label `[K, B]`, share `[K, B]` in the type of x.
    """
    place_B = torch.arange(label_KB.shape[1], device=label_KB.device)
    draw_2KB = [counter_hash(key_K[:, None], _STREAM, step, which, place_B) for which in range(2)]
    partner_KB = _partners(draw_2KB[0], is_real_KB)
    quantile_Q = _beta_quantiles(alpha, x.device)
    share_KB = quantile_Q[(draw_2KB[1] >> (64 - _BITS)) + 2 ** (_BITS - 1)].to(x.dtype)
    features = (1,) * (x.dim() - 2)
    place = partner_KB.view(*partner_KB.shape, *features).expand_as(x)
    blended = torch.lerp(x.gather(1, place), x, share_KB.view(*share_KB.shape, *features))
    return blended, label_KB.gather(1, partner_KB), share_KB


def _partners(draw_KB: Tensor, is_real_KB: Tensor | None) -> Tensor:
    """For each place of a batch the place of its partner: a permutation that keeps real records among themselves."""
    if is_real_KB is None:
        return draw_KB.argsort(dim=1, stable=True)
    last = torch.iinfo(torch.int64).max
    order_KB = draw_KB.masked_fill(~is_real_KB, last).argsort(dim=1, stable=True)
    place_KB = (~is_real_KB).long().argsort(dim=1, stable=True)  # real ones first
    return torch.zeros_like(order_KB).scatter(1, place_KB, order_KB)


@lru_cache(maxsize=8)
def _beta_quantiles(alpha: float, device: torch.device) -> Tensor:
    """Quantiles of Beta(α, α) at the midpoints of 2¹⁶ equal steps, float64."""
    level_Q = (torch.arange(2**_BITS, dtype=torch.float64) + 0.5) / 2**_BITS
    return torch.from_numpy(betaincinv(alpha, alpha, level_Q.numpy())).to(device)
