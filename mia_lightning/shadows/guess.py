"""What an attacker assumes of the target who does not know it."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from mia_lightning.errors import InputError
from mia_lightning.training.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Guess:
    """The shadow models of an attacker who knows the target's architecture or training only roughly.

    Attributes:
        model: makes an untrained shadow model, like `model` of `mia_lightning.audit`; None for the target's own.
        training: of the shadow models; None for the target's own.
    """

    model: Callable[..., nn.Module] | None = None
    training: Recipe | None = None

    def __post_init__(self) -> None:
        if self.model is not None and (isinstance(self.model, nn.Module) or not callable(self.model)):
            raise InputError(
                f"`guess.model` is a {type(self.model).__name__}; give the class or function that makes an untrained "
                "network."
            )
        if not isinstance(self.training, Recipe | None):
            raise InputError(f"`guess.training` is {self.training!r}; give a Recipe.")
