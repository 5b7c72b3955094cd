"""What a record's answer is: a class, several labels, or numbers; and what follows for likelihood, utility, figures."""

from typing import Annotated

from pydantic import BeforeValidator

from mia_lightning.errors import InputError
from mia_lightning.settings.words import Words
from mia_lightning.tasks.binary import Binary as Binary
from mia_lightning.tasks.classification import Classification as Classification
from mia_lightning.tasks.interface import Task as Task
from mia_lightning.tasks.multilabel import Multilabel as Multilabel
from mia_lightning.tasks.regression import Regression as Regression

BY_NAME = {each.name: each for each in (Classification, Binary, Multilabel, Regression)}


def _by_name(given: object) -> object:
    return BY_NAME[given]() if isinstance(given, str) and given in BY_NAME else given


NamedTask = Annotated[
    Annotated[Task, Words(f"one of {', '.join(BY_NAME)}, or a `Task` like them")] | None, BeforeValidator(_by_name)
]
"""Of a setting: a task, or its name; None for what the data say, or classes."""


def as_task(given: Task | str | None) -> Task:
    """A task by its name, or as it is; classes for None.

    Raises:
        InputError: there is none of this name.
    """
    if isinstance(given, str):
        if given not in BY_NAME:
            raise InputError(f"`task` is {given!r}; it must be one of {', '.join(BY_NAME)}, or a `Task` like them.")
        return BY_NAME[given]()
    return Classification() if given is None else given
