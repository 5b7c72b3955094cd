"""Group in the place of batch normalisation, so that no record reaches another: Wu and He (2018)."""

from collections.abc import Callable
from dataclasses import dataclass
from math import gcd
from typing import Any, ClassVar

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mia_lightning.settings import settings
from mia_lightning.settings.kinds import AtLeast1
from mia_lightning.training.own.making import Around
from mia_lightning.training.step.recipe import Recipe


@settings("defense.group_norm")
class GroupNorm:
    """Makes networks with a GroupNorm in the place of each BatchNorm, as defense=dp_sgd needs them.

    Each normalises over groups of channels of one record. Their number is the greatest common divisor of `groups` and
    the number of channels. A network without batch normalisation stays as it is.

    Attributes:
        groups: at most, at least 1.

    Source: Wu and He, "Group normalization" (2018), whose number of groups is 32.
    """

    name: ClassVar[str] = "group_norm"

    groups: AtLeast1 = 32

    def describe(self) -> str:
        return f"group normalisation, up to {self.groups} groups"

    def adapt(self, recipe: Recipe) -> Recipe:
        """The recipe as it is: the defence is in the architecture."""
        return recipe

    def adapt_model(self, model: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        """`model` with the layers exchanged."""
        return _WithGroups(model, self.groups)


@dataclass(frozen=True)
class _WithGroups(Around):
    """Networks whose batch normalisation is group normalisation."""

    groups: int

    def __call__(self, **given: Any) -> nn.Module:
        network = self.make(**given)
        if isinstance(network, _BatchNorm):
            return _group_norm(network, self.groups)
        exchanged: dict[nn.Module, nn.Module] = {}  # a layer that stands at two places does so afterwards
        for parent in list(network.modules()):
            for name, layer in list(parent._modules.items()):
                if isinstance(layer, _BatchNorm):
                    setattr(parent, name, exchanged.setdefault(layer, _group_norm(layer, self.groups)))
        return network


def _group_norm(layer: _BatchNorm, groups: int) -> nn.GroupNorm:
    """With scale and shift as they are in a new layer, 1 and 0."""
    C = layer.num_features
    return nn.GroupNorm(gcd(groups, C), C, eps=layer.eps, affine=layer.affine)
