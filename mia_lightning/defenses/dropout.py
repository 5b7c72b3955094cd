"""Dropout where the architecture has a place for it: Srivastava et al. (2014)."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

from torch import nn

from mia_lightning.errors import InputError
from mia_lightning.settings import settings
from mia_lightning.settings.kinds import ShareBelow1
from mia_lightning.training.step.recipe import Recipe


@settings("defense.dropout")
class Dropout:
    """Makes networks with `dropout` at this rate, where `model` takes a parameter of that name.

    The architecture decides what is dropped, and where. Nothing is dropped where the model answers.

    Attributes:
        rate: probability of dropping, at least 0 and below 1.
    """

    name: ClassVar[str] = "dropout"

    rate: ShareBelow1 = 0.5

    def describe(self) -> str:
        return f"dropout {self.rate:.12g}"

    def adapt(self, recipe: Recipe) -> Recipe:
        """The recipe as it is: the defence is in the architecture."""
        return recipe

    def adapt_model(self, model: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        """`model` with the rate filled in.

        Raises:
            InputError: `model` takes no parameter `dropout`, or was given another rate.
        """
        name = getattr(_innermost(model), "__name__", "model")
        if "dropout" not in _parameters(model):
            raise InputError(
                f"defense=dropout sets the parameter `dropout` of the model, but {name} takes none; use model=mlp, "
                "tabular, vit or wide_resnet28_2, or give the model such a parameter."
            )
        given = _given(model).get("dropout", 0)
        if given not in (0, None, self.rate):
            raise InputError(
                f"`model.dropout` is {given!r} and `defense.dropout.rate` is {self.rate!r}; set the former to 0, or "
                "leave the defence out."
            )
        return partial(model, dropout=self.rate)


def _parameters(model: Callable[..., nn.Module]) -> set[str]:
    try:
        return set(inspect.signature(model).parameters)
    except (TypeError, ValueError):  # a builtin without a signature takes nothing by name
        return set()


def _given(model: object) -> dict[str, Any]:
    """The keywords that are filled in already."""
    return {**_given(model.func), **model.keywords} if isinstance(model, partial) else {}


def _innermost(model: object) -> object:
    return _innermost(model.func) if isinstance(model, partial) else model
