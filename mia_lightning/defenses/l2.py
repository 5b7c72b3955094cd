"""Penalising large parameters: Shokri et al. (2017), section VIII."""

from dataclasses import replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mia_lightning.errors import InputError
from mia_lightning.seeds import generator
from mia_lightning.settings import settings
from mia_lightning.settings.kinds import NotNegative
from mia_lightning.training.step.optimizers import MakeOptimizer
from mia_lightning.training.step.recipe import Recipe


@settings("defense.l2")
class L2:
    """Adds λ Σ θ², over all parameters of a model, to its loss.

    That is 2λ more of the optimiser's `weight_decay`, where this is coupled, that is, added to the gradient. It joins
    what the recipe has of it, and is not part of what `training.gradient_clip_norm` limits.

    Attributes:
        strength: λ, at least 0.
    """

    name: ClassVar[str] = "l2"

    strength: NotNegative = 0.001

    def describe(self) -> str:
        return f"L2 penalty {self.strength:.12g}"

    def adapt(self, recipe: Recipe) -> Recipe:
        """The recipe with the penalty in its optimiser; in the gradients, where a LightningModule makes the optimiser.

        Raises:
            InputError: an optimiser without a coupled `weight_decay`, such as AdamW.
        """
        if recipe.own is not None:
            return replace(recipe, own=replace(recipe.own, l2=recipe.own.l2 + self.strength))
        weight_decay = _weight_decay(recipe.optimizer)
        _check_coupled(recipe.optimizer, weight_decay)
        return replace(recipe, optimizer=_decaying(recipe.optimizer, weight_decay + 2 * self.strength))


def _decaying(make_optimizer: MakeOptimizer, weight_decay: float) -> MakeOptimizer:
    return partial(make_optimizer, weight_decay=weight_decay)  # type: ignore[call-arg]


def _weight_decay(make_optimizer: MakeOptimizer) -> float:
    optimizer = make_optimizer([nn.Parameter(torch.zeros(1))])
    (group,) = optimizer.param_groups
    if "weight_decay" not in group:
        raise InputError(_refusal(optimizer, "has no `weight_decay`"))
    try:
        _decaying(make_optimizer, 1.0)([nn.Parameter(torch.zeros(1))])
    except TypeError as error:
        raise InputError(_refusal(optimizer, "takes no `weight_decay` from outside")) from error
    return float(group["weight_decay"])


def _check_coupled(make_optimizer: MakeOptimizer, weight_decay: float) -> None:
    """Refuse an optimiser whose decay moves parameters elsewhere than the gradient of the penalty does."""
    decayed = _displacement(_decaying(make_optimizer, weight_decay + 1.0), penalty=0.0)
    penalised = _displacement(make_optimizer, penalty=1.0)
    if not torch.allclose(decayed, penalised, rtol=1e-6, atol=1e-6 * float(penalised.abs().max()), equal_nan=True):
        optimizer = make_optimizer([nn.Parameter(torch.zeros(1))])
        raise InputError(_refusal(optimizer, "keeps `weight_decay` out of the gradient"))


def _displacement(make_optimizer: MakeOptimizer, *, penalty: float) -> Tensor:
    """How far three steps lead, along gradients to which `penalty` times the parameter is added."""
    numbers = generator(0, "l2 check")
    start, *gradient_S = torch.randn(4, 5, generator=numbers, dtype=torch.float64)
    parameter = nn.Parameter(start.clone())
    optimizer = make_optimizer([parameter])
    for gradient in gradient_S:
        parameter.grad = gradient + penalty * parameter.detach()
        optimizer.step()
    displacement: Tensor = parameter.detach() - start
    return displacement


def _refusal(optimizer: Optimizer, fault: str) -> str:
    return (
        f"`training.optimizer` ({type(optimizer).__name__}) {fault}, so defense=l2 cannot add its penalty to the loss; "
        "use SGD or Adam."
    )
