"""A record has one of two classes, and a network gives one number for it: the logit of the second class."""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from mia_lightning.errors import InputError
from mia_lightning.settings import settings
from mia_lightning.tasks.classification import Classification
from mia_lightning.tasks.interface import Task


@settings("task")
class Binary(Classification):
    """Two classes; a network may give the logit of the second class alone, of which two columns are made.

    Everything else is as of `Classification`, whose networks may give one logit, too: this task refuses more classes.
    """

    name: ClassVar[str] = "binary"

    def check(self, label_N: Tensor, names: Sequence[str], name: str) -> None:
        super().check(label_N, names, name)
        if len(names) != 2:
            raise InputError(
                f"population {name!r} has {len(names)} classes, and task=binary has two: use task=classification"
            )

    def takes(self, other: Task) -> bool:
        return other.has_classes
