"""The classes of a model in this process, and their places among those of the data set."""

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np

from mia_lightning.errors import InputError


def places(classes: Sequence[object], class_names: Sequence[str], what: str) -> list[int]:
    """Where each class of a model stands in `class_names`: by the names of all, else by their numbers from 0.

    Numbers are compared with names first, so that classes named "1" to "10" are found by the labels 1 to 10.

    Args:
        classes: all classes of the model, by their names or numbers.
        what: the model, for the message.

    Raises:
        InputError: a class is none of the data set's, or two are the same.
    """
    keys = [_key(each) for each in classes]
    are_names = all(str(key) in class_names for key in keys)
    found = [_place(key, class_names, what, by_name=are_names) for key in keys]
    if len(set(found)) < len(found):
        twice = next(each for each in classes if found.count(found[list(classes).index(each)]) > 1)
        raise InputError(
            f"{what} has the class {twice!r} under two names; give it labels that are all names of classes, or all "
            "numbers."
        )
    return found


def label_places(label_B: Any, class_names: Sequence[str], what: str) -> list[int]:
    """Where the class of each label stands in `class_names`; the rule does not depend on the other labels.

    Text is a name. Numbers are names where all names are whole numbers; else they count the classes from 0.

    Args:
        label_B: numpy array `[B]` of labels of a model whose other labels are not known.

    Raises:
        InputError: a label is no class of the data set.
    """
    are_numbers = all(name.lstrip("-").isdecimal() for name in class_names)
    distinct, index_B = np.unique(label_B, return_inverse=True)
    found = [_place(_key(each), class_names, what, by_name=are_numbers) for each in distinct.tolist()]
    return [found[i] for i in index_B.tolist()]


def _key(value: object) -> object:
    """Bools and whole floats as int, numbers of numpy as those of Python."""
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real) and float(value).is_integer():
        return int(float(value))
    return value.item() if hasattr(value, "item") else value


def _place(key: object, class_names: Sequence[str], what: str, *, by_name: bool) -> int:
    if (by_name or isinstance(key, str)) and str(key) in class_names:
        return class_names.index(str(key))
    if not by_name and isinstance(key, int) and 0 <= key < len(class_names):
        return key
    few = ", ".join(map(repr, class_names[:5])) + (", …" if len(class_names) > 5 else "")
    raise InputError(
        f"{what} has the class {key!r}, which is neither the name nor the number of one of the data set's "
        f"{len(class_names)} classes ({few}); train it on labels of the data set, or name the classes in "
        "`target.asking.classes` in the model's own order."
    )
